//! Tokens: not to be guessed bit by bit, not to be found by a function, and of no use in each other's place.
//!
//! A node keeps SHA-256 of each token and finds a function by looking that digest up in a table: what takes time depends on digests, whose
//! bits nobody can choose. So there is no comparison with a secret whose duration could tell how much of a guess is right.

use std::time::{Duration, Instant};

use bento_proto::{InvocationToken, ShutdownToken};

use crate::support::{Installed, Node, POLICY, ask, bundle, installed, installed_at, random};

const HELLO: &str = "def hello(api):\n    api.output.write(b'x')\n";

#[tokio::test]
async fn a_token_that_is_nearly_right_is_as_wrong_as_any() {
    let function = installed("", HELLO).await;
    let right = function.invocation.reveal();
    let invoke =
        async |token: &str| ask(function.address, "POST", "/v1/invoke/hello", &[("authorization", &format!("Bearer {token}"))], "").await;
    // The last of 52 letters carries four bits of the 256, and one that is not zero; the one before carries five.
    let mut nearly = right.clone().into_bytes();
    let at = nearly.len() - 2;
    nearly[at] = if nearly[at] == b'a' { b'b' } else { b'a' };
    let nearly = String::from_utf8(nearly).unwrap();
    let far = InvocationToken::from_random(random()).reveal();
    let (near_answer, far_answer) = (invoke(&nearly).await, invoke(&far).await);
    assert_eq!(near_answer.code(), "unknown-token");
    assert_eq!((near_answer.status, &near_answer.body), (far_answer.status, &far_answer.body));
    // What the node keeps is no key: neither the digest itself nor a token made of it opens anything.
    let digest = function.invocation.digest().to_string();
    assert_ne!(invoke(&digest).await.status, 200);
    assert_ne!(invoke(&format!("bento-invoke-{digest}")).await.status, 200);
    assert_ne!(invoke(&function.shutdown.reveal()).await.status, 200);
    assert_eq!(invoke(&right).await.body, "x");
}

/// Guesses that share all but the last bits with a token take no longer to refuse than guesses that share nothing. This would see a
/// comparison that takes noticeable time; that there is none is by construction, above.
#[tokio::test]
async fn refusing_a_guess_takes_as_long_however_much_of_it_is_right() {
    let node = Node::start(POLICY, "");
    let random_bytes = random();
    let function = Installed {
        address: node.address,
        invocation: InvocationToken::from_random(random_bytes),
        shutdown: ShutdownToken::from_random(random()),
    };
    assert_eq!(function.install(bundle("", HELLO)).await.status, 201);
    let guess = async |bytes: [u8; 32]| {
        let token = format!("Bearer {}", InvocationToken::from_random(bytes).reveal());
        let began = Instant::now();
        let answer = ask(node.address, "GET", "/v1/function", &[("authorization", &token)], "").await;
        assert_eq!(answer.code(), "unknown-token");
        began.elapsed()
    };
    // Medians of interleaved samples: whatever else the machine does befalls both alike. A busy machine may be unlucky, thrice hardly.
    let mut seen = Vec::new();
    for _ in 0..3 {
        let (mut near, mut far) = (Vec::new(), Vec::new());
        for number in 0..150u8 {
            let mut bytes = random_bytes;
            bytes[31] ^= number | 1;
            near.push(guess(bytes).await);
            far.push(guess(random()).await);
        }
        near.sort_unstable();
        far.sort_unstable();
        let (near, far): (Duration, Duration) = (near[75], far[75]);
        seen.push((near, far));
        if near < far * 2 && far < near * 2 {
            assert_eq!(function.invoke("hello", "{}").await.body, "x");
            return;
        }
    }
    panic!("{seen:?}");
}

#[tokio::test]
async fn no_function_finds_a_token_of_its_own_or_anothers() {
    let code = r"
import ctypes, gc, os, sys

def find(api, needles):
    found = []
    places = [repr(dict(os.environ)), repr(sys.orig_argv)]
    for thing in gc.get_objects():
        if type(thing) in (dict, list, tuple) and thing is not needles:
            places += [item for item in (thing.values() if type(thing) is dict else thing) if type(item) in (str, bytes)]
    for top, _, names in os.walk('/tmp'):
        places += [open(os.path.join(top, name), 'rb').read() for name in names]
    for needle in needles:
        reversed_needle = needle[::-1]
        for place in places:
            text = place if isinstance(place, str) else place.decode('latin-1')
            if reversed_needle in text:
                found.append(reversed_needle)
    api.output.write(repr(found).encode())
";
    let node = Node::start(POLICY, "");
    let (one, other) = (installed_at(node.address, "", code).await, installed_at(node.address, "", HELLO).await);
    // Backwards, so that the question does not hold what it asks for.
    let needles: Vec<String> =
        [one.invocation.reveal(), one.shutdown.reveal(), other.invocation.reveal(), one.invocation.digest().to_string()]
            .iter()
            .map(|text| text.chars().rev().collect())
            .collect();
    assert_eq!(one.invoke("find", &serde_json::json!({ "needles": needles }).to_string()).await.body, "[]");
    // The search does find what is there: a name of the function's own file.
    let there: String = "gc.get_objects".chars().rev().collect();
    assert_ne!(one.invoke("find", &serde_json::json!({ "needles": [there] }).to_string()).await.body, "[]");
    assert_eq!(other.invoke("hello", "{}").await.body, "x");
}
