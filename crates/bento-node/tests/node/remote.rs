//! Functions on other nodes, by way of a function: `nodes.*`. Several nodes with real jails; each lists those that its functions may go to.

use std::{net::SocketAddr, time::Instant};

use bento_proto::{InvocationToken, ShutdownToken};
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::TcpListener};

use crate::support::{Answer, Installed, Node, PATIENCE, POLICY, ask, bundle, installed_at, random, until};

/// Does on other nodes what it is told, and writes what came of it.
const COURIER: &str = r"
import json

def told(api, work):
    try:
        said = {'ok': work()}
    except OSError as error:
        said = {'error': type(error).__name__, 'text': str(error), 'code': getattr(error, 'code', None)}
    api.output.write(json.dumps(said).encode())

def names(api):
    told(api, lambda: [[node.name, node.address] for node in api.nodes.list()])

def installed(api, node, bundle, promised=None, **tokens):
    answer, stream = api._ask('nodes.install', {'node': node, 'bytes': len(bundle) if promised is None else promised, **tokens}).result()
    try:
        stream.sendall(bundle)
    except OSError:
        pass  # The answer says why.
    stream.close()
    return api._ask('nodes.installed', {'upload': answer['upload']}).result()[0]

def install(api, **what):
    bundle = api.input.read()
    told(api, lambda: installed(api, bundle=bundle, **what))

def invoke(api, node, invocation, method, **arguments):
    for chunk in api.nodes.function(node, invocation).invoke(method, input=api.input, **arguments):
        api.output.write(chunk)

def outcome(api, node, invocation, method, detach=None, **arguments):
    def work():
        with api.nodes.function(node, invocation).invoke(method, input=api.input, detach=detach, **arguments) as result:
            return result.outcome()
    told(api, work)

def give_up(api, node, invocation, method):
    def work():
        asked = {'node': node, 'invocation': invocation, 'method': method}
        answer, stream = api._ask('nodes.invoke', asked).result()
        stream.sendall(b'the first half')
        stream.close()
        ended = [api._ask('nodes.outcome', answer).result()[0]]
        try:
            api._ask('nodes.outcome', answer).result()
        except OSError as error:
            ended.append(type(error).__name__)
        return ended
    told(api, work)

def shutdown(api, node, shutdown):
    told(api, lambda: api._ask('nodes.shutdown', {'node': node, 'shutdown': shutdown}).result()[0])

def sealed(api, to):
    with api.seal(to, api.input) as stream:
        for chunk in stream:
            api.output.write(chunk)

def bad_seal(api, to):
    told(api, lambda: api.seal(to, b'').read())
";

const ECHO: &str = r"
def echo(api):
    for chunk in api.input:
        api.output.write(chunk)

def whole(api):
    api.log(len(api.input.read()))

def fail(api):
    raise ValueError('no')

def greedy(api):
    try:
        bytearray(1 << 40)
    finally:
        raise MemoryError
";

const NEEDS: &str = "calls = ['nodes.*', 'seal']\ntraffic = '64 MiB'\nrate = '16 MiB/s'\nstorage = '1 MiB'\ninvocations = 2\ninstalls = 2";
const ECHO_NEEDS: &str = "traffic = '32 MiB'\nrate = '16 MiB/s'";

/// A node that lists these under the names of their numbers.
fn node(listed: &[SocketAddr], policy: &str, more: &str) -> Node {
    let listed: Vec<String> =
        listed.iter().enumerate().map(|(number, address)| format!("{{name = \"{number}\", address = \"{address}\"}}")).collect();
    Node::start(&format!("{POLICY}{policy}"), &format!("nodes = [{}]\n{more}", listed.join(", ")))
}

fn said(answer: &Answer) -> Value {
    assert_eq!(answer.status, 200, "{:?}", answer.body);
    serde_json::from_slice(&answer.body).unwrap()
}

async fn install(courier: &Installed, arguments: Value, archive: Vec<u8>) -> Value {
    said(&courier.invoke_with("install", &arguments.to_string(), archive).await)
}

/// Installs on that node by way of the courier.
async fn installed_by(courier: &Installed, node: SocketAddr, archive: Vec<u8>) -> Installed {
    let made = install(courier, json!({"node": node.to_string()}), archive).await;
    let text = |key: &str| made["ok"][key].as_str().unwrap_or_else(|| panic!("{made}")).to_owned();
    assert_eq!(made["ok"]["status"]["name"], "test");
    Installed { address: node, invocation: text("invocation").parse().unwrap(), shutdown: text("shutdown").parse().unwrap() }
}

async fn outcome(courier: &Installed, of: &Installed, method: &str, input: &[u8]) -> Value {
    let arguments = json!({"node": of.address.to_string(), "invocation": of.invocation.reveal(), "method": method});
    said(&courier.invoke_with("outcome", &arguments.to_string(), input.to_vec()).await)
}

async fn shut_down(courier: &Installed, of: &Installed) -> Value {
    let arguments = json!({"node": of.address.to_string(), "shutdown": of.shutdown.reveal()});
    said(&courier.invoke("shutdown", &arguments.to_string()).await)
}

/// It was not done, for a reason of this kind that has these words.
fn refused(said: &Value, error: &str, words: &str) {
    assert!(said["error"] == error && said["text"].as_str().is_some_and(|text| text.contains(words)), "{error} {words}: {said}");
}

#[tokio::test]
async fn a_function_installs_another_streams_through_it_and_ends_it() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    assert_eq!(said(&courier.invoke("names", "{}").await)["ok"], json!([["0", far.address.to_string()]]));

    let echo = installed_by(&courier, far.address, bundle(ECHO_NEEDS, ECHO)).await;
    let letter: Vec<u8> = (0..10_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
    let arguments = json!({"node": far.address.to_string(), "invocation": echo.invocation.reveal(), "method": "echo"});
    let answer = courier.invoke_with("invoke", &arguments.to_string(), letter.clone()).await;
    assert!(answer.whole && answer.body == letter, "{} bytes", answer.body.len());
    // In from the client, on to the other node, back from there, back to the client.
    let used = courier.status().await.traffic_used.as_bytes();
    assert!((4 * 10_000_000..4 * 10_000_000 + 200_000).contains(&used), "{used}");
    assert!(echo.status().await.traffic_used.as_bytes() >= 2 * 10_000_000);

    // Whoever has the tokens has the function, by whatever way.
    assert_eq!(echo.invoke_with("echo", "{}", "hello").await.body, "hello");
    assert_eq!(outcome(&courier, &echo, "whole", b"four").await["ok"], json!({"outcome": "returned"}));
    assert_eq!(echo.status().await.log.last().map(String::as_str), Some("4"));
    let failed = outcome(&courier, &echo, "fail", b"").await;
    assert_eq!((&failed["ok"]["outcome"], &failed["ok"]["text"]), (&json!("failed"), &json!("ValueError: no")));
    assert_eq!(outcome(&courier, &echo, "greedy", b"").await["ok"]["bound"], "memory");
    assert_eq!(outcome(&courier, &echo, "nothing", b"").await["ok"]["code"], "unknown-method");

    assert_eq!(shut_down(&courier, &echo).await["ok"], Value::Null);
    assert_eq!(echo.invoke("echo", "{}").await.code(), "unknown-token");
    assert_eq!(outcome(&courier, &echo, "echo", b"").await["ok"]["code"], "unknown-token");
    let gone = shut_down(&courier, &echo).await;
    refused(&gone, "Refused", "no function answers");
    assert_eq!(gone["code"], "unknown-token");
}

#[tokio::test]
async fn what_a_function_was_not_granted_it_does_not_get_elsewhere() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let to = json!({"node": far.address.to_string()});
    let archive = || bundle(ECHO_NEEDS, ECHO);

    let mute = installed_at(near.address, "calls = ['nodes.list']\ninstalls = 2", COURIER).await;
    refused(&install(&mute, to.clone(), archive()).await, "Refused", "does not ask for the call `nodes.install`");
    assert!(said(&mute.invoke("names", "{}").await)["ok"].is_array());
    let fruitless = installed_at(near.address, "calls = ['nodes.*']\ntraffic = '32 MiB'\nrate = '16 MiB/s'", COURIER).await;
    refused(&install(&fruitless, to.clone(), archive()).await, "Refused", "may have 0 functions");

    let courier = installed_at(near.address, NEEDS, COURIER).await;
    for (needs, words) in [
        ("memory = '65 MiB'", "65 MiB of memory, and the function that installs it was granted 64 MiB"),
        ("storage = '2 MiB'", "2 MiB of storage"),
        ("installs = 3", "3 of installs"),
        ("calls = ['net.connect']", "net.connect of calls"),
        ("connect = ['accept *:80']", "granted nothing"),
        // The other node decides as well.
        ("image = 'web'", "web of image, and this node offers python3"),
    ] {
        refused(&install(&courier, to.clone(), bundle(needs, ECHO)).await, "Refused", words);
    }
    // Only the other node's word is one: what this one does not allow has none.
    let mut codes = Vec::new();
    for needs in ["memory = '65 MiB'", "image = 'web'"] {
        codes.push(install(&courier, to.clone(), bundle(needs, ECHO)).await["code"].clone());
    }
    assert_eq!(codes, [Value::Null, json!("not-offered")]);
    for (archive, words) in [(b"garbage".to_vec(), "the bundle is refused"), (vec![0; 1024], "no manifest.toml")] {
        refused(&install(&courier, to.clone(), archive).await, "Refused", words);
    }
    let sized = |bytes: u64| json!({"node": far.address.to_string(), "promised": bytes});
    refused(&install(&courier, sized(1_048_577), Vec::new()).await, "Refused", "longer than 1048576 bytes");
    refused(&install(&courier, sized(1_000_000), archive()).await, "BadCall", "of the bundle's 1000000 bytes came");
    for (node, error, words) in [
        ("127.0.0.1:1", "Refused", "lists it under `nodes`"),
        (&near.address.to_string(), "Refused", "lists it under `nodes`"),
        ("192.0.2.1:80", "BadCall", "over Tor"),
        ("example.org", "BadCall", "onion"),
        // This node has no Tor.
        ("pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion", "Unreachable", "Tor"),
    ] {
        refused(&install(&courier, json!({"node": node}), archive()).await, error, words);
    }
    let swapped = json!({"node": far.address.to_string(), "shutdown": InvocationToken::from_random(random()).reveal()});
    refused(&install(&courier, swapped, archive()).await, "BadCall", "token");

    // None of these took a place; two are there, and a third is not.
    let (one, two) = (installed_by(&courier, far.address, archive()).await, installed_by(&courier, far.address, archive()).await);
    refused(&install(&courier, to.clone(), archive()).await, "Refused", "may have 2 functions");
    // The same again is no third.
    let again = json!({
        "node": far.address.to_string(), "invocation": two.invocation.reveal(), "shutdown": two.shutdown.reveal(),
    });
    assert_eq!(install(&courier, again, archive()).await["ok"]["shutdown"], two.shutdown.reveal());
    assert_eq!(shut_down(&courier, &one).await["ok"], Value::Null);
    let three = installed_by(&courier, far.address, archive()).await;
    refused(&install(&courier, to.clone(), archive()).await, "Refused", "may have 2 functions");
    // One that somebody else ended makes room as well, once its end is heard of.
    assert_eq!(three.end().await.status, 204);
    refused(&shut_down(&courier, &three).await, "Refused", "no function answers");
    installed_by(&courier, far.address, archive()).await;

    // What was installed outlives who installed it.
    assert_eq!(courier.end().await.status, 204);
    assert_eq!(two.invoke_with("echo", "{}", "still here").await.body, "still here");
}

#[tokio::test]
async fn what_a_function_has_elsewhere_counts_also_after_its_node_was_killed() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let mut courier = installed_at(near.address, NEEDS, COURIER).await;
    let first = installed_by(&courier, far.address, bundle(ECHO_NEEDS, ECHO)).await;
    let second = installed_by(&courier, far.address, bundle(ECHO_NEEDS, ECHO)).await;
    let near = near.killed_and_started();
    courier.address = near.address;
    let to_far = || json!({"node": far.address.to_string()});
    let refused = install(&courier, to_far(), bundle(ECHO_NEEDS, ECHO)).await;
    assert!(refused["text"].as_str().unwrap().contains("2 functions on other nodes"), "{refused}");
    assert_eq!(outcome(&courier, &second, "echo", b"").await["ok"]["outcome"], "returned");
    assert!(shut_down(&courier, &first).await.get("ok").is_some());
    installed_by(&courier, far.address, bundle(ECHO_NEEDS, ECHO)).await;
}

#[tokio::test]
async fn an_install_goes_as_deep_as_each_policy_lets_it() {
    let last = node(&[], "depth = 1", "");
    let third = node(&[], "", "");
    let second = node(&[last.address, third.address], "", "");
    let first = node(&[second.address], "", "");
    let one = installed_at(first.address, &NEEDS.replace("64", "63"), COURIER).await;
    let two = installed_by(&one, second.address, bundle(&NEEDS.replace("64", "62"), COURIER)).await;
    installed_by(&two, third.address, bundle(ECHO_NEEDS, ECHO)).await;
    let deep = install(&two, json!({"node": last.address.to_string()}), bundle(ECHO_NEEDS, ECHO)).await;
    refused(&deep, "Refused", "comes through 2 functions on other nodes, and this node takes what comes through at most 1");

    let fresh = Installed::new(last.address);
    for (depth, code) in [("1", None), ("2", Some("depth")), ("99999999999", Some("bad-request")), ("-1", Some("bad-request"))] {
        let archive = bundle(ECHO_NEEDS, ECHO);
        let headers = [("bento-bundle-length", archive.len().to_string()), ("bento-depth", depth.to_owned())];
        let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
        let answer = ask(fresh.address, "POST", "/v1/run/whole", &headers, archive).await;
        match code {
            None => assert_eq!(answer.status, 200),
            Some(code) => assert_eq!(answer.code(), code),
        }
    }
}

#[tokio::test]
async fn a_node_that_is_not_there_or_says_nothing_is_told_and_nothing_hangs() {
    // Nobody listens at the first; the second takes connections and says nothing.
    let nobody = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let absent = nobody.local_addr().unwrap();
    drop(nobody);
    let mute = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let silent = mute.local_addr().unwrap();
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = mute.accept().await {
            tokio::spawn(async move { stream.read_to_end(&mut Vec::new()).await });
        }
    });
    let near = node(&[absent, silent], "", "[limits]\nidle = \"4 s\"");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    let archive = || bundle(ECHO_NEEDS, ECHO);
    for _ in 0..3 {
        refused(&install(&courier, json!({"node": absent.to_string()}), archive()).await, "Unreachable", "nothing answers");
    }
    let begun = Instant::now();
    let stranger =
        Installed { address: silent, invocation: InvocationToken::from_random(random()), shutdown: ShutdownToken::from_random(random()) };
    let lost = outcome(&courier, &stranger, "echo", b"hello").await;
    assert_eq!((&lost["ok"]["outcome"], &lost["ok"]["kind"]), (&json!("lost"), &json!("timeout")), "{lost}");
    refused(&shut_down(&courier, &stranger).await, "Timeout", "took longer");
    // Whether these were installed nobody knows, so they count.
    for _ in 0..2 {
        refused(&install(&courier, json!({"node": silent.to_string()}), archive()).await, "Timeout", "took longer");
    }
    refused(&install(&courier, json!({"node": silent.to_string()}), archive()).await, "Refused", "may have 2 functions");
    assert!(begun.elapsed() < PATIENCE, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn a_node_that_dies_in_the_middle_loses_the_invocation_and_not_the_function() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    let waits = "import time\ndef slow(api):\n    api.output.write(b'begun')\n    time.sleep(100)\n";
    let slow = installed_by(&courier, far.address, bundle("lifetime = '5 min'", waits)).await;
    let lost = async { outcome(&courier, &slow, "slow", b"").await };
    let dies = async {
        while slow.status().await.invocations == 0 {
            tokio::time::sleep(std::time::Duration::from_millis(20)).await;
        }
        rustix::process::kill_process(
            rustix::process::Pid::from_raw(far.pid().try_into().unwrap()).unwrap(),
            rustix::process::Signal::KILL,
        )
        .unwrap();
    };
    let (lost, ()) = tokio::join!(lost, dies);
    assert_eq!((&lost["ok"]["outcome"], &lost["ok"]["kind"]), (&json!("lost"), &json!("failed")), "{lost}");
    assert_eq!(said(&courier.invoke("names", "{}").await)["ok"][0][0], "0");
    until("nobody listens there", || std::net::TcpStream::connect(far.address).is_err()).await;
    let gone = outcome(&courier, &slow, "slow", b"").await;
    assert_eq!(gone["ok"]["kind"], "unreachable", "{gone}");
}

#[tokio::test]
async fn an_input_that_is_given_up_is_not_taken_for_a_whole_one() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    let echo = installed_by(&courier, far.address, bundle(ECHO_NEEDS, ECHO)).await;
    let arguments = json!({"node": far.address.to_string(), "invocation": echo.invocation.reveal(), "method": "whole"});
    let gave_up = said(&courier.invoke("give_up", &arguments.to_string()).await);
    assert_eq!((&gave_up["ok"][0]["outcome"], &gave_up["ok"][1]), (&json!("lost"), &json!("BadCall")), "{gave_up}");
}

#[tokio::test]
async fn an_invocation_elsewhere_goes_on_without_the_function_that_began_it() {
    let far = Node::start(POLICY, "");
    let near = node(&[far.address], "", "");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    let echo = installed_by(&courier, far.address, bundle(&format!("{ECHO_NEEDS}\nstorage = '1 MiB'"), ECHO)).await;
    let id = "00112233445566778899aabbccddeeff";
    let begin = async |id: &str| {
        let arguments = json!({"node": far.address.to_string(), "invocation": echo.invocation.reveal(), "method": "echo", "detach": id});
        courier.invoke_with("outcome", &arguments.to_string(), "kept").await
    };
    assert_eq!(said(&begin(id).await)["ok"], json!({"outcome": "detached"}));
    refused(&said(&begin("0011").await), "BadCall", "32 hexadecimal digits");
    let token = format!("Bearer {}", echo.invocation.reveal());
    let kept = ask(far.address, "GET", &format!("/v1/output/{id}?wait=30"), &[("authorization", &token)], "").await;
    assert_eq!((kept.status.as_u16(), kept.body.as_ref()), (200, b"kept".as_slice()));
}

#[tokio::test]
async fn what_is_sealed_only_its_recipient_opens() {
    use std::io::Read;
    let near = node(&[], "", "");
    let courier = installed_at(near.address, NEEDS, COURIER).await;
    let identity = age::x25519::Identity::generate();
    let letter: Vec<u8> = (0..3_000_000u32).map(|at| (at * 7 % 251) as u8).collect();
    let to = json!({"to": identity.to_public().to_string()}).to_string();
    let answer = courier.invoke_with("sealed", &to, letter.clone()).await;
    let mut opened = Vec::new();
    let opening = age::Decryptor::new(answer.body.as_ref()).unwrap();
    opening.decrypt(std::iter::once(&identity as &dyn age::Identity)).unwrap().read_to_end(&mut opened).unwrap();
    assert!(opened == letter);
    // In and out again; what is sealed on the way does not leave the node.
    let used = courier.status().await.traffic_used.as_bytes();
    assert!((6_000_000..6_100_000).contains(&used), "{used}");
    for wrong in ["age1", "", "age1pq", "-----BEGIN"] {
        refused(&said(&courier.invoke("bad_seal", &json!({"to": wrong}).to_string()).await), "BadCall", "age1");
    }
    let mute = installed_at(near.address, "calls = ['nodes.list']", COURIER).await;
    refused(&said(&mute.invoke("bad_seal", &to).await), "Refused", "`seal`");
}
