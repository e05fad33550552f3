//! What lasts: functions and what they store, over kills of the node; leases; and what is gone when it is gone.

use std::path::Path;

use bento_proto::SealKey;

use crate::support::{Installed, Node, POLICY, ask, bundle, installed_at, run, until};

const STORES: &str = "storage = \"4 MiB\"\ncalls = [\"store.*\"]";

const NOTES: &str = r#"
def put(api, name):
    data = api.input.read()
    api.store.put(name, data)
    api.output.write(str(len(data)).encode())

def append(api, name):
    api.store.append(name, api.input.read())

def get(api, name, offset=0, length=None):
    api.output.write(api.store.get(name, offset, length))

def send(api, name, offset=0, length=None, before="", after="", declared=None):
    if declared is not None:
        api.output.length(declared)
    api.output.write(before.encode())
    count = api.output.write_stored(name, offset, length)
    api.output.write(after.format(count).encode())

def names(api, prefix=""):
    api.output.write(" ".join(f"{entry.name}:{entry.size}" for entry in api.store.list(prefix)).encode())

def delete(api, name):
    api.output.write(str(api.store.delete(name)).encode())

def usage(api):
    used, limit = api.store.usage()
    api.output.write(f"{used} {limit}".encode())

def torn(api, name):
    out = api.store.writer(name)
    out.write(b"x" * 300_000)
    api.output.write(b"written")
    import time
    time.sleep(60)
"#;

fn args(name: &str) -> String {
    format!("{{\"name\": \"{name}\"}}")
}

/// All that is under a directory, as one.
fn on_disk(directory: &Path) -> Vec<u8> {
    let mut all = Vec::new();
    for entry in std::fs::read_dir(directory).unwrap().flatten() {
        if entry.file_type().unwrap().is_dir() {
            all.extend(on_disk(&entry.path()));
        } else {
            all.extend(std::fs::read(entry.path()).unwrap_or_default());
        }
    }
    all
}

fn has(all: &[u8], what: &[u8]) -> bool {
    all.windows(what.len()).any(|window| window == what)
}

#[tokio::test]
async fn what_was_stored_is_there_after_the_node_was_killed_and_what_was_not_committed_is_not() {
    let node = Node::start(POLICY, "");
    let mut function = installed_at(node.address, STORES, NOTES).await;
    let large: Vec<u8> = (0..1_000_000u32).flat_map(|number| number.to_le_bytes()).take(1_500_000).collect();
    assert_eq!(function.invoke_with("put", &args("letter"), "A secret letter").await.body, "15");
    assert_eq!(function.invoke_with("put", &args("large"), large.clone()).await.body, "1500000");
    assert!(function.invoke_with("append", &args("letter"), ", and more").await.whole);
    // One is being written when the node is killed.
    let token = format!("Bearer {}", function.invocation.reveal());
    let writing = crate::support::start(
        node.address,
        "POST",
        "/v1/invoke/torn",
        &[("authorization", &token), ("bento-arguments", &args("torn"))],
        "",
    )
    .await;
    assert_eq!(writing.status(), 200);

    let state = node.directory.path().join("state");
    let disk = on_disk(&state);
    for secret in [b"A secret letter".as_slice(), b"letter", b"out.write(b", b"and more", &large[5000..5064]] {
        assert!(!has(&disk, secret), "{}", String::from_utf8_lossy(secret));
    }
    assert!(!has(&disk, function.invocation.reveal().as_bytes()) && !has(&disk, SealKey::of(&function.invocation).reveal().as_bytes()));

    let node = node.killed_and_started();
    function.address = node.address;
    assert_eq!(function.invoke("get", &args("letter")).await.body, "A secret letter, and more");
    assert_eq!(function.invoke("get", &args("large")).await.body, large);
    assert_eq!(
        function.invoke("get", "{\"name\": \"large\", \"offset\": 1000000, \"length\": 70000}").await.body,
        large[1_000_000..1_070_000]
    );
    assert_eq!(function.invoke("names", "{}").await.body, "large:1500000 letter:25");
    assert_eq!(function.invoke("delete", &args("large")).await.body, "True");
    assert_eq!(function.invoke("delete", &args("torn")).await.body, "False");
    let usage = function.invoke("usage", "{}").await.body;
    assert_eq!(usage, format!("{} {}", 25 + 1024, 4 << 20), "what is deleted or was not committed counts no more");
    assert_eq!(function.status().await.storage_used.as_bytes(), 25 + 1024);
}

#[tokio::test]
async fn what_is_stored_goes_straight_to_the_output_in_its_place_and_as_much_as_was_declared() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, STORES, NOTES).await;
    let large: Vec<u8> = (0..1_000_000u32).flat_map(|number| number.to_le_bytes()).take(1_500_000).collect();
    assert_eq!(function.invoke_with("put", &args("large"), large.clone()).await.body, "1500000");
    assert_eq!(function.invoke_with("put", &args("small"), "small").await.body, "5");
    let send = async |arguments: &str| function.invoke("send", &format!("{{{arguments}}}")).await;

    let whole = send(r#""name": "large", "before": "before ", "after": " after {}""#).await;
    assert!(whole.whole && whole.body == [b"before ", &large[..], b" after 1500000"].concat());
    assert_eq!(send(r#""name": "large", "offset": 65530, "length": 70000, "declared": 70000"#).await.body, large[65_530..135_530]);
    assert_eq!(send(r#""name": "small", "offset": 1, "length": 9, "after": " {}""#).await.body, "mall 4");
    assert_eq!(send(r#""name": "small", "offset": 9, "after": "{}""#).await.body, "0");
    assert!(send(r#""name": "another""#).await.problem().detail.contains("Missing"));
    // The client is told that it is not whole.
    let more = send(r#""name": "large", "before": "before", "declared": 1500000"#).await;
    assert!(!more.whole);
    let less = send(r#""name": "large", "declared": 1500001"#).await;
    assert!(!less.whole);
    // It counts as what the function sends, and not as what it stores.
    let status = function.status().await;
    assert!((4_500_000..6_500_000).contains(&status.traffic_used.as_bytes()), "{}", status.traffic_used);
    // Who may store and read may not do this for that.
    let calls = "storage = \"4 MiB\"\ncalls = [\"store.put\", \"store.get\"]";
    let code = "def both(api):\n    api.store.put('a', b'x')\n    api.output.write_stored('a')\n";
    assert!(run(node.address, calls, code, "both", b"").await.problem().detail.contains("does not ask for the call `store.send`"));
}

#[tokio::test]
async fn a_client_that_leaves_ends_what_is_sent_and_the_function_goes_on() {
    let node = Node::start(POLICY, "");
    let function =
        installed_at(node.address, "storage = \"4 MiB\"\ntraffic = \"64 MiB\"\ninvocations = 2\ncalls = [\"store.*\"]", LEAVES).await;
    assert!(function.invoke_with("put", "{}", vec![7; 3 << 20]).await.whole);
    let token = format!("Bearer {}", function.invocation.reveal());
    let sending = crate::support::start(node.address, "POST", "/v1/invoke/send", &[("authorization", &token)], "").await;
    assert_eq!(sending.status(), 200);
    drop(sending);
    // Waits for the other invocation to be told.
    assert_eq!(function.invoke("ended", "{}").await.body, "BrokenPipeError");
}

const LEAVES: &str = r#"
import threading

told = threading.Event()
why = []

def put(api):
    api.store.put("large", api.input.read())

def send(api):
    try:
        while True:
            api.output.write_stored("large")
    except OSError as error:
        why.append(type(error).__name__)
        told.set()

def ended(api):
    assert told.wait(60)
    api.output.write(why[0].encode())
"#;

#[tokio::test]
async fn a_function_stores_what_it_was_granted_and_not_a_byte_more() {
    let node = Node::start(POLICY, "");
    let function = installed_at(node.address, STORES, NOTES).await;
    assert_eq!(function.invoke_with("put", &args("a"), vec![1; 3 << 20]).await.body, format!("{}", 3 << 20));
    let full = function.invoke_with("put", &args("b"), vec![2; 2 << 20]).await;
    assert!(full.problem().detail.contains("Full"), "{}", full.problem().detail);
    assert_eq!(function.invoke("names", "{}").await.body, format!("a:{}", 3 << 20));
    // What takes the place of something that was there may need both at once, and then there is room again.
    assert!(function.invoke_with("put", &args("b"), vec![2; 1 << 19]).await.whole);
    // One that does not ask for it has none, whatever it calls.
    let without = run(node.address, "calls = [\"store.*\"]", NOTES, "usage", b"").await;
    assert_eq!(without.body, "0 0");
    let refused = run(node.address, "storage = \"1 MiB\"", NOTES, "usage", b"").await;
    assert!(refused.problem().detail.contains("does not ask for the call `store.usage`"));
    let fits =
        run(node.address, STORES, "def both(api):\n    api.store.put('a', b'x')\n    api.output.write(api.store.get('a'))\n", "both", b"")
            .await;
    assert_eq!(fits.body, "x");
    // What lived for one call has left nothing.
    let functions = node.directory.path().join("state/functions");
    until("one function is on the disk", || std::fs::read_dir(&functions).unwrap().count() == 1).await;
}

#[tokio::test]
async fn another_token_opens_nothing_and_the_same_install_is_the_same_function_after_a_restart() {
    let node = Node::start(POLICY, "");
    let mut function = installed_at(node.address, STORES, NOTES).await;
    let mut other = installed_at(node.address, STORES, NOTES).await;
    assert!(function.invoke_with("put", &args("mine"), "mine").await.whole);
    assert_eq!(other.invoke("names", "{}").await.body, "");
    let node = node.killed_and_started();
    (function.address, other.address) = (node.address, node.address);
    // By its shutdown token nothing can be read of what is sealed.
    let token = format!("Bearer {}", function.shutdown.reveal());
    assert_eq!(ask(node.address, "GET", "/v1/function", &[("authorization", &token)], "").await.code(), "sealed");
    assert_eq!(function.install(bundle(STORES, NOTES)).await.status, 200);
    assert_eq!(function.install(bundle(STORES, "def other(api):\n    pass\n")).await.code(), "token-in-use");
    // A wrong key under the right digests opens nothing, and does no harm.
    let forged = Installed::new(node.address);
    let headers = [
        ("bento-invocation-digest", other.invocation.digest().to_string()),
        ("bento-shutdown-digest", other.shutdown.digest().to_string()),
        ("bento-seal", SealKey::of(&forged.invocation).reveal().to_string()),
    ];
    let headers = headers.each_ref().map(|(name, value)| (*name, value.as_str()));
    let answer = ask(node.address, "POST", "/v1/functions", &headers, bundle(STORES, NOTES)).await;
    assert!(answer.status.is_client_error() || answer.status.is_server_error(), "{}", answer.status);
    assert_eq!(other.invoke("names", "{}").await.body, "");
    assert_eq!(function.invoke("names", "{}").await.body, "mine:4");
    let missing = ask(node.address, "POST", "/v1/functions", &headers[..2], bundle(STORES, NOTES)).await;
    assert_eq!(missing.code(), "bad-request");
}

#[tokio::test]
async fn a_function_that_was_ended_is_gone_from_the_disk_also_when_it_was_sealed() {
    let node = Node::start(POLICY, "");
    let functions = node.directory.path().join("state/functions");
    let count = || std::fs::read_dir(&functions).unwrap().count();
    let first = installed_at(node.address, STORES, NOTES).await;
    let mut second = installed_at(node.address, STORES, NOTES).await;
    assert!(first.invoke_with("put", &args("a"), "a").await.whole);
    assert!(second.invoke_with("put", &args("b"), "b").await.whole);
    assert_eq!(count(), 2);
    assert_eq!(first.end().await.status, 204);
    assert_eq!(count(), 1);
    assert_eq!(first.invoke("names", "{}").await.code(), "unknown-token");
    let node = node.killed_and_started();
    let functions = node.directory.path().join("state/functions");
    let count = || std::fs::read_dir(&functions).unwrap().count();
    second.address = node.address;
    assert_eq!(count(), 1);
    assert_eq!(second.end().await.status, 204);
    assert_eq!(count(), 0);
    assert_eq!(second.invoke("names", "{}").await.code(), "unknown-token");
}

#[tokio::test]
async fn a_lease_can_be_renewed_and_without_that_a_function_ends_and_is_erased() {
    let node = Node::start(POLICY, "");
    let needs = format!("{STORES}\nlifetime = \"8 s\"");
    let (renewed, left) = (installed_at(node.address, &needs, NOTES).await, installed_at(node.address, &needs, NOTES).await);
    let begun = std::time::Instant::now();
    let token = format!("Bearer {}", renewed.shutdown.reveal());
    // Again and again, past the first end.
    while begun.elapsed() < std::time::Duration::from_secs(10) {
        let answer = ask(node.address, "POST", "/v1/renew", &[("authorization", &token)], "").await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
        tokio::time::sleep(std::time::Duration::from_millis(500)).await;
    }
    assert!(renewed.invoke_with("put", &args("a"), "a").await.whole);
    assert_eq!(left.invoke("names", "{}").await.code(), "unknown-token");
    let invocation = format!("Bearer {}", renewed.invocation.reveal());
    let swapped = ask(node.address, "POST", "/v1/renew", &[("authorization", &invocation)], "").await;
    assert_eq!(swapped.code(), "bad-token");
    let functions = node.directory.path().join("state/functions");
    until("both are erased", || std::fs::read_dir(&functions).unwrap().count() == 0).await;
    assert_eq!(renewed.invoke("names", "{}").await.code(), "unknown-token");
}

#[tokio::test]
async fn a_lease_goes_on_over_a_restart_and_what_is_sealed_can_be_renewed() {
    let node = Node::start(POLICY, "");
    let mut long = installed_at(node.address, STORES, NOTES).await;
    let _short = installed_at(node.address, "lifetime = \"1 s\"", NOTES).await;
    let node = node.killed_and_started();
    long.address = node.address;
    let token = format!("Bearer {}", long.shutdown.reveal());
    let renewed = ask(node.address, "POST", "/v1/renew", &[("authorization", &token)], "").await;
    let remaining: serde_json::Value = serde_json::from_slice(&renewed.body).unwrap();
    let remaining: bento_proto::Span = remaining["remaining"].as_str().unwrap().parse().unwrap();
    // What it needs by default is ten minutes, of which none is gone.
    assert!((595..=600).contains(&remaining.as_seconds_up()), "{remaining}");
    assert_eq!(long.invoke("names", "{}").await.body, "");
    let functions = node.directory.path().join("state/functions");
    until("the other one is gone", || std::fs::read_dir(&functions).unwrap().count() == 1).await;
}

#[tokio::test]
async fn what_was_used_is_not_forgiven_by_a_restart() {
    let node = Node::start(POLICY, "[limits]\nsleep = \"300 ms\"\nready = 0");
    let spin = "def spin(api):\n    import time\n    while time.process_time() < 0.6:\n        pass\n";
    let mut function = installed_at(node.address, "cpu = \"2 s\"", spin).await;
    assert!(function.invoke("spin", "{}").await.whole);
    // What it used is written down when its process ends.
    let bentod = node.pid();
    until("it sleeps", || crate::support::descendants(bentod, "python3.11").is_empty()).await;
    let before = function.status().await;
    assert!(before.cpu_used.as_millis() >= 500, "{}", before.cpu_used);
    let node = node.killed_and_started();
    function.address = node.address;
    let after = function.status().await;
    assert_eq!((after.cpu_used, after.traffic_used), (before.cpu_used, before.traffic_used));
}

#[tokio::test]
async fn a_function_that_is_kept_awake_is_up_again_without_its_client() {
    let policy = POLICY.to_owned() + "keep_awake = true\n";
    let node = Node::start(&policy, "[limits]\nready = 0\nsleep = \"200 ms\"");
    let needs = format!("{STORES}\nkeep_awake = true");
    let mut awake = installed_at(node.address, &needs, NOTES).await;
    assert!(awake.invoke_with("put", &args("a"), "a").await.whole);
    let node = node.killed_and_started();
    let bentod = node.pid();
    until("it is up", || crate::support::descendants(bentod, "python3.11").len() == 1).await;
    tokio::time::sleep(std::time::Duration::from_millis(600)).await;
    assert_eq!(crate::support::descendants(bentod, "python3.11").len(), 1, "it does not sleep");
    awake.address = node.address;
    assert_eq!(awake.invoke("get", &args("a")).await.body, "a");
    // Elsewhere nobody may ask for that.
    let strict = Node::start(POLICY, "");
    assert_eq!(Installed::new(strict.address).install(bundle(&needs, NOTES)).await.code(), "not-offered");
}

#[tokio::test]
async fn what_is_to_be_awake_and_could_not_be_started_is_tried_again() {
    let policy = POLICY.to_owned() + "keep_awake = true\n";
    let node = Node::start(&policy, "[limits]\nready = 0\nsleep = \"200 ms\"");
    let needs = format!("{STORES}\nkeep_awake = true");
    let mut functions = Vec::new();
    for needs in [&needs, &needs, STORES] {
        functions.push(installed_at(node.address, needs, NOTES).await);
    }
    let node = node.killed_and_filled(|state| std::fs::write(state.with_file_name("policy.toml"), POLICY).unwrap());
    functions.iter_mut().for_each(|function| function.address = node.address);
    let [awake, gone, sleeper] = functions.as_slice() else { panic!("three were installed") };
    let says = |words: &str| node.log.lock().unwrap().contains(words);
    until("it is refused", || says("could not be started")).await;
    assert_eq!(gone.end().await.status, 204);
    let count = || crate::support::descendants(node.pid(), "python3.11").len();
    assert_eq!(count(), 0);
    // Nobody invokes it: what kept it from being started has passed, and that is all.
    crate::policy::reread(&node, "policy.toml", &policy, "the new policy counts").await;
    until("it is up", || says("was started after all")).await;
    assert!(awake.status().await.awake && !sleeper.status().await.awake);
    assert_eq!((count(), gone.invoke("names", "{}").await.code()), (1, "unknown-token".into()));
    assert_eq!(awake.invoke("names", "{}").await.body, "");
}

#[tokio::test]
async fn a_crash_forgives_no_more_than_a_few_seconds_and_nothing_is_written_of_one_that_rests() {
    const BUSY: &str = r#"
import threading, time

def begin(api):
    def burn():
        until = time.thread_time() + 0.3
        while time.thread_time() < until:
            pass
    threading.Thread(target=burn, daemon=True).start()
    api.output.write(bytes(100_000))
"#;
    let node = Node::start(&format!("{POLICY}keep_awake = true"), "");
    let mut function = installed_at(node.address, "storage = \"1 MiB\"\nkeep_awake = true\ncpu = \"10 s\"", BUSY).await;
    assert_eq!(function.invoke("begin", "{}").await.body.len(), 100_000);
    let mark = node.directory.path().join("state/functions.mark");
    let written = || mark.metadata().unwrap().modified().unwrap();
    let end = std::time::Instant::now() + crate::support::PATIENCE * 3;
    let (mut last, mut since) = (written(), std::time::Instant::now());
    // It still runs, and nothing of it was written since: twice as long as an entry waits at most.
    while since.elapsed() < std::time::Duration::from_secs(21) || function.status().await.cpu_used.as_millis() < 300 {
        assert!(std::time::Instant::now() < end, "it never rests");
        tokio::time::sleep(std::time::Duration::from_millis(100)).await;
        if written() != last {
            (last, since) = (written(), std::time::Instant::now());
        }
    }
    let before = function.status().await;
    assert!(before.awake);
    let node = node.killed_and_started();
    function.address = node.address;
    let after = function.status().await;
    assert!(after.cpu_used.as_millis() >= 300 && after.traffic_used.as_bytes() >= 100_000, "{after:?}");
}

#[tokio::test]
async fn all_functions_together_are_promised_no_more_than_the_node_has() {
    let node = Node::start(POLICY, "[limits]\nstorage = \"10 MiB\"");
    let first = installed_at(node.address, "storage = \"6 MiB\"", NOTES).await;
    assert_eq!(Installed::new(node.address).install(bundle("storage = \"6 MiB\"", NOTES)).await.code(), "busy");
    let mut small = installed_at(node.address, "storage = \"4 MiB\"", NOTES).await;
    assert_eq!(first.end().await.status, 204);
    let node = node.killed_and_started();
    small.address = node.address;
    let _again = installed_at(node.address, "storage = \"6 MiB\"", NOTES).await;
    assert_eq!(Installed::new(node.address).install(bundle("storage = \"1 MiB\"", NOTES)).await.code(), "busy");
    assert!(small.invoke("names", "{}").await.problem().detail.contains("store.list"));
}
