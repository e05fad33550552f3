//! The library against a node on this machine that does right, and against every kind that does not.
#![cfg(test)]

mod fake;

use std::time::{Duration, Instant};

use bento::{
    Bounds, Browse, Call, Client, ClientError, Collected, DropError, DropRefusal, Errand, ErrandError, Input, Kind, NodeAddress, Part,
    Sizes, Standard, Tokens,
};
use bento_proto::{Bound, Outcome, Problem, SealKey, Span, bundle::Bundle};
use fake::{Act, Asked, FakeNode, good, pad, page, problem, short, streamed, whole};
use tokio::io::AsyncWriteExt as _;

/// Short, so that a stall is seen soon.
const SHORT: Bounds = Bounds { connect: Duration::from_secs(2), answer: Duration::from_millis(400), idle: Duration::from_millis(400) };

fn client() -> Client {
    Client::direct().with_bounds(SHORT)
}

fn hello() -> Bundle {
    let files =
        [("manifest.toml", "name = \"hello\"\ncode = \"hello.py\"\nmethods = [\"hello\"]\n"), ("hello.py", "def hello(api): pass\n")];
    Bundle::new(files.map(|(name, text)| (name.to_owned(), text.as_bytes().to_vec())).to_vec()).unwrap()
}

/// Runs `hello` on a node that acts like this, to the end.
async fn run(script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Result<(Vec<u8>, Outcome), ClientError> {
    let node = FakeNode::start(script).await;
    let call = Call { output_max: Some(1 << 20), ..Call::new("hello") };
    let begin = Instant::now();
    let ended = match client().run(&node.node(), &hello(), call).await {
        Ok(output) => output.collect(1 << 20).await,
        Err(error) => Err(error),
    };
    assert!(begin.elapsed() < Duration::from_secs(5), "a wait had no bound: {ended:?}");
    ended
}

fn send(text: &str) -> Vec<Act> {
    vec![Act::Send(text.as_bytes().to_vec())]
}

#[tokio::test]
async fn a_function_is_installed_invoked_looked_at_and_ended() {
    let node = FakeNode::start(good).await;
    let (address, tokens) = (node.node(), Tokens::mint().unwrap());
    assert_eq!(client().describe(&address).await.unwrap(), fake::description());
    assert_eq!(client().policy(&address).await.unwrap(), fake::POLICY);

    let told = client().install(&address, &hello(), &tokens).await.unwrap();
    assert_eq!((told.name.as_str(), told.log[1].as_str()), ("hello", "a[31mb"));
    let asked = node.last();
    assert_eq!(asked.header("bento-invocation-digest"), Some(tokens.invocation.digest().to_string().as_str()));
    assert_eq!(asked.header("bento-shutdown-digest"), Some(tokens.shutdown.digest().to_string().as_str()));
    assert_eq!(asked.header("bento-seal"), Some(SealKey::of(&tokens.invocation).reveal().as_str()));
    assert_eq!(asked.header("bento-depth"), None);
    assert_eq!(Bundle::unpack(&asked.body).unwrap(), hello());
    client().through(2).install(&address, &hello(), &tokens).await.unwrap();
    assert_eq!(node.last().header("bento-depth"), Some("2"));
    assert!(!format!("{asked:?}").contains(&tokens.invocation.reveal()), "an install tells no token");
    assert_eq!(asked.header("user-agent"), None);

    let mut call = Call::new("hello");
    call.arguments.insert("name".into(), "Zoë\n".into());
    let output = client().invoke(&address, &tokens.invocation, call).await.unwrap();
    assert_eq!(output.length(), None);
    assert_eq!(output.collect(100).await.unwrap(), (b"Hello, world!\n".to_vec(), Outcome::Returned));
    let asked = node.last();
    assert_eq!(asked.header("authorization"), Some(format!("Bearer {}", tokens.invocation.reveal()).as_str()));
    assert_eq!(asked.header("bento-arguments"), Some("{\"name\":\"Zo\\u00eb\\n\"}"));
    assert_eq!(asked.header("te"), Some("trailers"));

    client().status(&address, &tokens.invocation).await.unwrap();
    client().shutdown(&address, &tokens.shutdown).await.unwrap();
    assert_eq!(node.last().header("authorization"), Some(format!("Bearer {}", tokens.shutdown.reveal()).as_str()));
}

#[tokio::test]
async fn a_run_sends_the_bundle_and_then_the_input() {
    let node = FakeNode::start(good).await;
    let call = Call { input: Input::Bytes("input".into()), ..Call::new("hello") };
    client().run(&node.node(), &hello(), call).await.unwrap();
    let asked = node.last();
    let length: usize = asked.header("bento-bundle-length").unwrap().parse().unwrap();
    assert_eq!(Bundle::unpack(&asked.body[..length]).unwrap(), hello());
    assert_eq!(&asked.body[length..], b"input");
}

#[tokio::test]
async fn output_comes_while_input_goes() {
    let node = FakeNode::start(good).await;
    let (mut ours, its) = tokio::io::duplex(64);
    let call = Call { input: Input::stream(its), ..Call::new("echo") };
    let mut output = client().invoke(&node.node(), &Tokens::mint().unwrap().invocation, call).await.unwrap();
    for word in ["one", "two", "three"] {
        ours.write_all(word.as_bytes()).await.unwrap();
        assert_eq!(output.next().await.unwrap(), Part::Bytes(word.into()));
        // Longer than the node may be silent: it is we who have nothing to say.
        tokio::time::sleep(SHORT.idle + Duration::from_millis(100)).await;
    }
    drop(ours);
    assert_eq!(output.next().await.unwrap(), Part::End(Outcome::Returned));
    assert_eq!(output.next().await.unwrap(), Part::End(Outcome::Returned));
    assert_eq!(output.received(), 11);
}

#[tokio::test]
async fn each_end_of_an_invocation_is_told_apart() {
    let failed = Outcome::Failed { error: "ValueError: no".into(), traceback: "Traceback\n  line".into() };
    let killed = Outcome::Killed { bound: Bound::Cpu };
    assert_eq!(run(|_| whole(b"done")).await.unwrap(), (b"done".to_vec(), Outcome::Returned));
    assert_eq!(run(|_| whole(b"")).await.unwrap(), (Vec::new(), Outcome::Returned));
    let text = r#"{"outcome":"failed","error":"ValueError: no","traceback":"Traceback\n  line"}"#;
    assert_eq!(run(|_| streamed(&[b"some"], text)).await.unwrap(), (b"some".to_vec(), failed.clone()));
    assert_eq!(run(|_| streamed(&[], r#"{"outcome":"killed","bound":"cpu"}"#)).await.unwrap().1, killed);

    let without_output = Problem { traceback: Some("Traceback\n  line".into()), ..Problem::new("function-failed", 502, "ValueError: no") };
    assert!(matches!(run(move |_| problem(&without_output)).await, Err(ClientError::Ended(outcome)) if outcome == failed));
    let without_output = Problem { bound: Some(Bound::Cpu), ..Problem::new("function-killed", 502, "it reached a bound") };
    assert!(matches!(run(move |_| problem(&without_output)).await, Err(ClientError::Ended(outcome)) if outcome == killed));
    let refusal = Problem::new("busy", 429, "the node has as many functions as it takes");
    assert!(matches!(run(move |_| problem(&refusal)).await, Err(ClientError::Refused(told)) if told.code() == "busy"));
    assert!(matches!(run(|_| problem(&Problem::new("trouble", 500, "it failed"))).await, Err(ClientError::Trouble(_))));
}

#[tokio::test]
async fn nothing_partial_passes_for_whole() {
    let head = "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n";
    for cut in [
        // A length that is not kept, an end without a length or trailer, chunks that stop, in the middle and between two.
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_owned(),
        "HTTP/1.1 200 OK\r\n\r\nuntil the end".to_owned(),
        format!("{head}4\r\nha"),
        format!("{head}4\r\nhalf\r\n"),
        format!("{head}4\r\nhalf\r\n0\r\n"),
        // No trailer, and another one.
        format!("{head}4\r\nhalf\r\n0\r\n\r\n"),
        format!("{head}4\r\nhalf\r\n0\r\nX-Other: 1\r\n\r\n"),
        // No answer, and half a head.
        String::new(),
        "HTTP/1.1 200 OK\r\nContent-".to_owned(),
    ] {
        let ended = run(move |_| send(&cut)).await;
        assert!(matches!(ended, Err(ClientError::Broken(_))), "{ended:?}");
    }
}

#[tokio::test]
async fn a_node_that_does_not_speak_as_one_is_told() {
    let long = "x".repeat(1_000_000);
    let many: String = (0..200).map(|index| format!("X-{index}: 1\r\n")).collect();
    let zeros = "0".repeat(40);
    for wrong in [
        "\0\u{1}\u{2}garbage\r\n\r\n".to_owned(),
        "SSH-2.0-OpenSSH_9.2\r\n".to_owned(),
        format!("HTTP/1.1 200 OK\r\nX: {long}\r\n\r\n"),
        format!("HTTP/1.1 200 OK\r\n{many}\r\n"),
        "HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n".to_owned(),
        "HTTP/1.1 404 Not Found\r\nContent-Type: text/html\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        "HTTP/1.1 403 No\r\nContent-Type: application/problem+json\r\nContent-Length: 2\r\n\r\nno".to_owned(),
        "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nBento-Outcome: {\"outcome\":\"fine\"}\r\n\r\n".to_owned(),
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\nBento-Outcome: \r\n\r\n".to_owned(),
    ] {
        let ended = run({
            let wrong = wrong.clone();
            move |_| send(&wrong)
        })
        .await;
        assert!(matches!(ended, Err(ClientError::Violation(_))), "{:.60}: {ended:?}", wrong);
        let text = ended.unwrap_err().to_string();
        assert!(text.len() < 300 && !text.contains(char::is_control), "{text}");
    }
    // Chunks that are none break the stream; whichever way hyper calls it, it is an error.
    let ended = run(move |_| send(&format!("HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n{zeros}zz\r\n"))).await;
    assert!(matches!(ended, Err(ClientError::Violation(_) | ClientError::Broken(_))), "{ended:?}");
}

#[tokio::test]
async fn a_node_that_stalls_or_never_ends_is_left() {
    let hold = |text: &str| vec![Act::Send(text.as_bytes().to_vec()), Act::Hold];
    for begun in [
        "",
        "HTTP/1.1 200",
        "HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf",
        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n4\r\nhalf\r\n",
        "HTTP/1.1 403 No\r\nContent-Type: application/problem+json\r\nContent-Length: 99\r\n\r\n{",
    ] {
        let ended = run(move |_| hold(begun)).await;
        assert!(matches!(ended, Err(ClientError::Late { .. })), "{begun}: {ended:?}");
    }
    // Not silent, and yet nothing comes: heads before the head, and an error of which a byte comes now and then.
    let continues = || vec![Act::Forever(b"HTTP/1.1 100 Continue\r\n\r\n".to_vec(), Duration::from_millis(20))];
    assert!(matches!(run(move |_| continues()).await, Err(ClientError::Late { .. })));
    let drip = || {
        let head = "HTTP/1.1 403 No\r\nContent-Type: application/problem+json\r\nContent-Length: 9999\r\n\r\n";
        vec![Act::Send(head.into()), Act::Forever(b" ".to_vec(), Duration::from_millis(20))]
    };
    assert!(matches!(run(move |_| drip()).await, Err(ClientError::Late { .. })));
    // More than a function may send.
    let flood = || {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Act::Send(head), Act::Forever(fake::chunked(&[0; 30_000]), Duration::from_millis(1))]
    };
    assert!(matches!(run(move |_| flood()).await, Err(ClientError::Violation(_))));
    // An error text that does not end.
    let endless = || {
        let head = b"HTTP/1.1 403 No\r\nContent-Type: application/problem+json\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Act::Send(head), Act::Forever(fake::chunked(&[b' '; 30_000]), Duration::from_millis(1))]
    };
    assert!(matches!(run(move |_| endless()).await, Err(ClientError::Violation(_))));

    let node = FakeNode::start(|_| {
        let head = b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n".to_vec();
        vec![Act::Send(head), Act::Forever(fake::chunked(b"tick"), Duration::from_millis(20))]
    })
    .await;
    let call = Call { within: Some(Duration::from_millis(700)), ..Call::new("hello") };
    let output = client().run(&node.node(), &hello(), call).await.unwrap();
    assert!(matches!(output.collect(u64::MAX).await, Err(ClientError::Late { what: "all of it", .. })));
}

#[tokio::test]
async fn texts_of_a_node_cannot_steer_a_terminal() {
    let escape = "\u{1b}[2J\u{1b}]0;x\u{7}\r\n\u{9b}1m\u{202e}";
    let mut refusal = Problem::new("not-offered", 403, format!("no{escape}"));
    refusal.traceback = Some(format!("a{escape}b"));
    let line = |text: &str| text.to_owned() + escape;
    refusal.line = Some(bento_proto::refusal::ProblemLine { key: line("memory"), needs: line("1"), offers: line("2") });
    let Err(ClientError::Refused(told)) = run(move |_| problem(&refusal)).await else { panic!("it is a refusal") };
    let safe = |text: &str| !text.contains(['\u{1b}', '\u{7}', '\r', '\u{9b}', '\u{202e}']);
    let hit = told.line.unwrap();
    assert!([&told.detail, &hit.key, &hit.needs, &hit.offers, &told.traceback.unwrap()].into_iter().all(|text| safe(text)));
    assert!(!told.detail.contains('\n'));

    let outcome = r#"{"outcome":"failed","error":"a\u001b[2Jb\n","traceback":"c\u001b[2Jd\n"}"#;
    let (_, outcome) = run(move |_| streamed(&[], outcome)).await.unwrap();
    assert_eq!(outcome, Outcome::Failed { error: "a[2Jb".into(), traceback: "c[2Jd\n".into() });

    let node = FakeNode::start(|_| {
        let mut told = fake::description();
        told.name = "n\u{1b}[2J".into();
        told.images.insert("web\u{7}".into(), vec!["bs4\u{1b}c".into()]);
        fake::json("200 OK", &told)
    })
    .await;
    let told = client().describe(&node.node()).await.unwrap();
    assert!(safe(&format!("{told:?}")) && told.images["web"] == ["bs4c"]);
}

#[tokio::test]
async fn a_policy_that_is_none_is_not_taken() {
    for text in ["", "[offers]\nmemory = 1", "[offers]\negress = [\"any\"]", "<html>"] {
        let node = FakeNode::start(move |_| short("200 OK", "application/toml", text.as_bytes())).await;
        assert!(matches!(client().policy(&node.node()).await, Err(ClientError::Violation(_))), "{text}");
    }
    let node = FakeNode::start(|_| short("200 OK", "application/json", b"{\"name\": 1}")).await;
    assert!(matches!(client().describe(&node.node()).await, Err(ClientError::Violation(_))));
    let node = FakeNode::start(|_| short("200 OK", "application/json", &[b' '; 300_000])).await;
    assert!(matches!(client().describe(&node.node()).await, Err(ClientError::Violation(_))));
}

async fn fetch(script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Result<bento::Page, ClientError> {
    let node = FakeNode::start(script).await;
    let browse = Browse { sizes: Sizes::bucket(10_000).unwrap(), ..Browse::new("https://site.example/") };
    browse.fetch(&client(), &node.node(), &Standard::Browser.bundle().unwrap(), |_, _| {}).await
}

#[tokio::test]
async fn a_page_is_taken_only_when_its_size_is_exact() {
    let good = pad(&page("<p>Hi", ""), 10_000);
    let got = fetch({
        let good = good.clone();
        move |_| whole(&good)
    })
    .await
    .unwrap();
    assert_eq!((got.kind, got.html.as_slice(), got.received), (Kind::Page, b"<p>Hi".as_slice(), 10_000));
    assert!(!got.title.contains(char::is_control));

    let cut = [b"HTTP/1.1 200 OK\r\nContent-Length: 10000\r\n\r\n", &good[..5000]].concat();
    assert!(matches!(fetch(move |_| vec![Act::Send(cut.clone())]).await, Err(ClientError::Broken(_))));
    let mut changed = good.clone();
    changed[200] ^= 1;
    for wrong in [pad(&page("<p>Hi", ""), 20_000), pad(&page("<p>Hi", ""), 10_001), good[..9_999].to_vec(), changed, vec![0; 10_000]] {
        let ended = fetch(move |_| whole(&wrong)).await;
        assert!(matches!(ended, Err(ClientError::Violation(_))), "{ended:?}");
    }
    // Without a length: right bytes are not enough, and a failure is the function's.
    let ended = fetch(move |_| streamed(&[&good], r#"{"outcome":"returned"}"#)).await;
    assert!(matches!(ended, Err(ClientError::Violation(_))), "{ended:?}");
    let ended = fetch(|_| streamed(&[b"x"], r#"{"outcome":"killed","bound":"memory"}"#)).await;
    assert!(matches!(ended, Err(ClientError::Ended(Outcome::Killed { bound: Bound::Memory }))), "{ended:?}");
    // A huge length is refused before a byte of it is taken.
    let huge = "HTTP/1.1 200 OK\r\nContent-Length: 1000000000000\r\n\r\n";
    assert!(matches!(fetch(move |_| vec![Act::Send(huge.into()), Act::Hold]).await, Err(ClientError::Violation(_))));
}

#[tokio::test]
async fn the_browser_is_asked_for_what_was_wanted() {
    let node = FakeNode::start(|_| whole(&pad(&page("", "W"), 20_000))).await;
    let mut browse = Browse::new("https://site.example/ü");
    browse.sizes = Sizes::one_of(vec![20_000, 9_000]).unwrap();
    (browse.warc, browse.scripts) = (true, true);
    let ended = browse.fetch(&client(), &node.node(), &Standard::Browser.bundle().unwrap(), |_, _| {}).await;
    assert!(matches!(ended, Err(ClientError::Violation(_))), "the smaller size would have done");
    let asked = node.last();
    assert_eq!(asked.line, "POST /v1/run/page");
    let arguments: serde_json::Value = serde_json::from_str(asked.header("bento-arguments").unwrap()).unwrap();
    let wanted = serde_json::json!({"url": "https://site.example/ü", "sizes": [9_000, 20_000], "scripts": true, "warc": true});
    assert_eq!(arguments, wanted);
}

/// Collects a page of which a part was left, where Browser's node answers this.
async fn collect(answer: String) -> Result<Collected, ErrandError> {
    let dropbox = FakeNode::start(|_| fake::dropbox::failed("NotFinished: the drop is still on its way here")).await;
    let browser = FakeNode::start(move |_| send(&answer)).await;
    let errand = Errand::new(Browse::new("https://site.example/"), browser.node(), dropbox.node(), Span::seconds(60)).unwrap();
    errand.collect(&client(), |_, _| {}).await
}

#[tokio::test]
async fn a_page_of_which_a_part_was_left_is_on_its_way_only_while_its_browser_runs() {
    let running = "HTTP/1.1 202 Accepted\r\nContent-Type: application/json\r\nBento-Output-Bytes: 0\r\nContent-Length: 2\r\n\r\n{}";
    assert!(matches!(collect(running.into()).await, Ok(Collected::Underway)));
    let ended = |outcome: &str| format!("HTTP/1.1 200 OK\r\nBento-Outcome: {outcome}\r\nContent-Length: 0\r\n\r\n");
    for outcome in [r#"{"outcome":"failed","error":"Full: no room","traceback":""}"#, r#"{"outcome":"killed","bound":"memory"}"#] {
        let collected = collect(ended(outcome)).await;
        assert!(matches!(collected, Err(ErrandError::Failed(ClientError::Ended(_)))), "{collected:?}");
    }
    // It may have been finished in between.
    let collected = collect(ended(r#"{"outcome":"returned"}"#)).await;
    assert!(matches!(collected, Err(ErrandError::Drop(DropError::Refused(DropRefusal::NotFinished)))), "{collected:?}");
}

#[tokio::test]
async fn what_cannot_be_reached_is_told_at_once() {
    let nobody = FakeNode::start(good).await.node();
    assert!(matches!(client().describe(&nobody).await, Err(ClientError::NotThere(_))));
    let onion: NodeAddress = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion".parse().unwrap();
    assert!(matches!(client().describe(&onion).await, Err(ClientError::NoTor)));
    let no_tor = Client::over(bento_tor::Socks::unix("/nowhere/socks")).with_bounds(SHORT);
    let error = no_tor.describe(&onion).await.unwrap_err();
    assert!(error.is_tor_unreachable(), "{error}");
}

#[tokio::test]
async fn an_input_that_cannot_be_read_is_our_own_fault() {
    struct Broken;
    impl tokio::io::AsyncRead for Broken {
        fn poll_read(
            self: std::pin::Pin<&mut Self>,
            _: &mut std::task::Context<'_>,
            _: &mut tokio::io::ReadBuf<'_>,
        ) -> std::task::Poll<std::io::Result<()>> {
            std::task::Poll::Ready(Err(std::io::Error::other("the disk is gone")))
        }
    }
    let node = FakeNode::start(good).await;
    let call = Call { input: Input::stream(Broken), ..Call::new("hello") };
    let ended = client().run(&node.node(), &hello(), call).await;
    assert!(matches!(ended, Err(ClientError::Input(_))), "{ended:?}");
}

#[tokio::test]
async fn an_early_refusal_is_heard_while_a_large_input_is_still_to_be_sent() {
    let refusal = Problem::new("too-long", 413, "the input is longer than 10 bytes");
    let answer = serde_json::to_vec(&refusal).unwrap();
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let node: NodeAddress = listener.local_addr().unwrap().to_string().parse().unwrap();
    let task = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let head = format!("HTTP/1.1 413 No\r\nContent-Type: application/problem+json\r\nContent-Length: {}\r\n\r\n", answer.len());
        stream.write_all(&[head.as_bytes(), &answer].concat()).await.unwrap();
        tokio::time::sleep(Duration::from_secs(5)).await;
    });
    let call = Call { input: Input::stream(tokio::io::repeat(7)), ..Call::new("hello") };
    let ended = client().run(&node, &hello(), call).await;
    task.abort();
    assert!(matches!(&ended, Err(ClientError::Refused(told)) if told.code() == "too-long"), "{ended:?}");
}
