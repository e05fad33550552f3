//! A hostile host, with a whole node and a whole conclave: what it does is noticed, and it learns nothing. Each attack is beside what the same host may do.
//!
//! What it can do to single messages is tried in `tests/attest`, one by one; here it is seen that the programs are built so that this holds.

use std::fs;

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::{
    host::{Do, FIRST_RECORD, To},
    world::{Node, PATIENCE, Person, functions},
};

const SECRET: &str = "what the host would like to know";

/// A function that counts how often it was invoked, in its store.
const COUNTER: &str = r#"
def count(api):
    so_far = int(api.store.get("count")) if "count" in dict(api.store.list()) else 0
    api.store.put("count", str(so_far + 1).encode())
    api.output.write(f"{so_far + 1}\n".encode())
"#;

struct Stage {
    node: Node,
    person: Person,
    given: String,
    echo: String,
}

impl Stage {
    fn new() -> Self {
        let (node, person) = (Node::start(&[]), Person::new());
        fs::write(person.home.path().join("letter"), SECRET.repeat(6000)).unwrap();
        let counter = person.home.path().join("counter");
        fs::create_dir(&counter).unwrap();
        let manifest = "name = \"counter\"\nmethods = [\"count\"]\n[needs]\nstorage = \"1 MiB\"\ncalls = [\"store.*\"]\n";
        fs::write(counter.join("manifest.toml"), manifest).unwrap();
        fs::write(counter.join("function.py"), COUNTER).unwrap();
        let given = node.given().display().to_string();
        Self { node, person, given, echo: functions().join("echo").display().to_string() }
    }

    async fn bento(&self, words: &[&str]) -> crate::world::Said {
        self.person.bento(&[words, &["--require-conclave", "--simulator-protects-nobody", &self.given]].concat()).await
    }

    /// Sends the secret, and wants it back.
    async fn echo(&self) -> crate::world::Said {
        self.bento(&["run", &self.node.address, &self.echo, "echo", "--input", "letter"]).await
    }

    /// The same host, honest, is of use.
    async fn is_of_use(&self) {
        self.node.host.is_honest();
        let said = self.echo().await;
        assert!(said.status == 0 && said.out == SECRET.repeat(6000), "{said:?}");
        self.learns_nothing();
    }

    fn learns_nothing(&self) {
        assert!(!self.node.host.saw(SECRET.as_bytes()), "the host has the secret");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_changes_reorders_repeats_or_loses_what_it_carries_is_noticed() {
    let stage = Stage::new();
    stage.is_of_use().await;
    for (what, way) in [("to the conclave", To::Conclave), ("to the client", To::Client)] {
        for attack in ["changes", "loses", "repeats", "cuts"] {
            stage.node.host.does(move |_, to, count, mut message| {
                // The second record: the first has the request's or the answer's head.
                if (to, count) != (way, FIRST_RECORD + 1) {
                    return Do::Pass(message);
                }
                match attack {
                    "changes" => {
                        let last = message.len() - 1;
                        message[last] ^= 1;
                        Do::Pass(message)
                    }
                    "loses" => Do::Pass(Vec::new()),
                    "repeats" => Do::Pass([message.clone(), message].concat()),
                    _ => Do::Cut(Vec::new()),
                }
            });
            let said = stage.echo().await;
            // Nothing partial passes for the whole: the exit status says that it is none.
            assert!(![0, 2].contains(&said.status) && SECRET.repeat(6000).starts_with(&said.out), "{attack} {what}: {said:?}");
            stage.learns_nothing();
        }
    }
    // Two records in the other's place.
    let held = std::sync::Mutex::new(Vec::new());
    stage.node.host.does(move |_, to, count, message| {
        let mut held = held.lock().unwrap();
        match (to, count) {
            (To::Client, 3) => {
                *held = message;
                Do::Pass(Vec::new())
            }
            (To::Client, 4) => Do::Pass([message, std::mem::take(&mut *held)].concat()),
            _ => Do::Pass(message),
        }
    });
    assert_ne!(stage.echo().await.status, 0);
    stage.is_of_use().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_that_is_played_again_does_nothing_again() {
    let stage = Stage::new();
    let done = stage.bento(&["install", &stage.node.address, "counter"]).await;
    assert_eq!(done.status, 0, "{done:?}");
    let count = async || stage.bento(&["invoke", "counter", "count"]).await.out;
    assert_eq!(count().await, "1\n");
    let sent = stage.node.host.sent();
    assert!(sent.len() >= 2);
    for session in sent {
        // All that the client sent, to the same conclave, with the same name in front.
        let mut stream = UnixStream::connect(stage.node.path("inside/sessions.sock")).await.unwrap();
        stream.write_all(&session).await.unwrap();
        let mut answer = Vec::new();
        // It answers with evidence, over the old nonce, and ends it where the handshake is not for it.
        let _ = timeout(PATIENCE, stream.read_to_end(&mut answer)).await.expect("it ends");
        assert!(answer.len() > 1000);
    }
    assert_eq!(count().await, "2\n");
    stage.learns_nothing();
}

#[tokio::test(flavor = "multi_thread")]
async fn a_host_that_brings_clients_elsewhere_is_noticed_before_anything_is_said() {
    let stage = Stage::new();
    // Another node's conclave, which works.
    let other = Stage::new();
    other.is_of_use().await;
    stage.node.host.diverts(&other.node.path("inside"), None);
    stage.echo().await.refused(4, "not accepted");
    // The same conclave, in another node's name: as if that one's host had diverted its clients here.
    stage.node.host.diverts(&stage.node.path("inside"), Some(other.node.address.as_bytes()));
    stage.echo().await.refused(4, "another node's conclave");
    // Without any: nobody answers there.
    stage.node.host.diverts(&stage.node.path("nowhere"), None);
    assert_ne!(stage.echo().await.status, 0);
    stage.node.host.diverts(&stage.node.path("inside"), None);
    stage.is_of_use().await;
    stage.learns_nothing();
    assert!(!other.node.host.saw(SECRET.as_bytes()));
}

#[tokio::test(flavor = "multi_thread")]
async fn other_code_debug_mode_old_collateral_and_a_broken_machine_are_not_accepted() {
    let mut stage = Stage::new();
    let code = stage.person.home.path().join("counter/function.py").display().to_string();
    // What a client knows is the list of before, as it would be a publisher's.
    let list = fs::read(stage.node.given().join("measurements")).unwrap();
    for (more, says) in [
        (vec!["--measured", &code], "not in the list of measurements"),
        (vec!["--debug-mode"], "debug mode"),
        (vec!["--collateral-days", "9"], "days old"),
        (vec!["--state", "OutOfDate"], "OutOfDate"),
        (vec!["--state", "Revoked"], "Revoked"),
        (vec!["--state", "SWHardeningNeeded"], "SWHardeningNeeded"),
    ] {
        stage.node.start_conclave(&more);
        if more[0] == "--measured" {
            fs::write(stage.node.given().join("measurements"), &list).unwrap();
        }
        stage.echo().await.refused(4, says);
        stage.learns_nothing();
    }
    stage.node.start_conclave(&[]);
    stage.is_of_use().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_conclave_that_was_stopped_goes_on_with_what_is_sealed_on_the_hosts_disk() {
    let mut stage = Stage::new();
    assert_eq!(stage.bento(&["install", &stage.node.address, "counter"]).await.status, 0);
    assert_eq!(stage.bento(&["invoke", "counter", "count"]).await.out, "1\n");
    stage.node.stop_conclave();
    let said = stage.bento(&["invoke", "counter", "count"]).await;
    assert_ne!(said.status, 0, "nobody is there");
    stage.node.start_conclave(&[]);
    assert_eq!(stage.bento(&["invoke", "counter", "count"]).await.out, "2\n");

    // The disk is the host's: neither code nor names nor values are on it in the clear.
    for file in walk(&stage.node.path("sealed")) {
        let bytes = fs::read(&file).unwrap_or_default();
        for secret in ["def count", "so_far"] {
            assert!(!crate::host::contains(&bytes, secret.as_bytes()), "{secret} is in {}", file.display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_disk_that_is_put_back_to_what_it_was_is_noticed_by_who_saw_more() {
    let mut stage = Stage::new();
    assert_eq!(stage.bento(&["install", &stage.node.address, "counter"]).await.status, 0);
    assert_eq!(stage.bento(&["invoke", "counter", "count"]).await.out, "1\n");
    stage.node.stop_conclave();
    // All that the host has: what it keeps now, it can put back later.
    let (sealed, old) = (stage.node.path("sealed"), stage.node.path("old"));
    copy(&sealed, &old);
    stage.node.start_conclave(&[]);
    assert_eq!(stage.bento(&["invoke", "counter", "count"]).await.out, "2\n");

    // Without a copy put back, a restart changes nothing.
    stage.node.stop_conclave();
    stage.node.start_conclave(&[]);
    assert_eq!(stage.bento(&["invoke", "counter", "count"]).await.out, "3\n");

    stage.node.stop_conclave();
    fs::remove_dir_all(&sealed).unwrap();
    copy(&old, &sealed);
    stage.node.start_conclave(&[]);
    stage.bento(&["invoke", "counter", "count"]).await.refused(3, "an earlier state was put in its place");
    stage.bento(&["status", "counter"]).await.refused(3, "an earlier state was put in its place");

    // Who saw nothing has nothing to compare: to another person with the same tokens it looks whole.
    let forgetful = Person::new();
    let kept = stage.person.home.path().join(".local/share/bento/functions.json");
    let text = fs::read_to_string(&kept).unwrap();
    let mut functions: serde_json::Value = serde_json::from_str(&text).unwrap();
    functions["functions"]["counter"].as_object_mut().unwrap().remove("changes").unwrap();
    let place = forgetful.home.path().join(".local/share/bento");
    let mut private = fs::DirBuilder::new();
    std::os::unix::fs::DirBuilderExt::mode(private.recursive(true), 0o700).create(&place).unwrap();
    fs::write(place.join("functions.json"), functions.to_string()).unwrap();
    fs::set_permissions(place.join("functions.json"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
    let words = ["invoke", "counter", "count", "--require-conclave", "--simulator-protects-nobody", &stage.given];
    assert_eq!(forgetful.done(&words).await, "2\n");
}

fn copy(from: &std::path::Path, to: &std::path::Path) {
    let done = std::process::Command::new("cp").arg("-a").arg(from).arg(to).status().unwrap();
    assert!(done.success());
}

fn walk(directory: &std::path::Path) -> Vec<std::path::PathBuf> {
    let mut found = Vec::new();
    for entry in fs::read_dir(directory).unwrap().map(Result::unwrap) {
        match entry.file_type().unwrap() {
            kind if kind.is_dir() && entry.file_name() != "runtime" => found.extend(walk(&entry.path())),
            kind if kind.is_file() => found.push(entry.path()),
            _ => {}
        }
    }
    found
}

/// Where a stream of the conclave goes: to who takes everything, and says how much that was.
async fn sink() -> (u16, std::sync::Arc<std::sync::atomic::AtomicUsize>) {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let (port, came) = (listener.local_addr().unwrap().port(), std::sync::Arc::new(std::sync::atomic::AtomicUsize::new(0)));
    let all = std::sync::Arc::clone(&came);
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            let all = std::sync::Arc::clone(&all);
            tokio::spawn(async move {
                let mut chunk = vec![0; 64 * 1024];
                while let Ok(count @ 1..) = stream.read(&mut chunk).await {
                    all.fetch_add(count, std::sync::atomic::Ordering::SeqCst);
                }
            });
        }
    });
    (port, came)
}

/// A stream as a conclave asks its host for one: what the host answers, and the stream.
async fn asked(node: &Node, port: u16) -> (u8, UnixStream) {
    let mut stream = ask(node, port).await;
    (answered(&mut stream).await, stream)
}

async fn ask(node: &Node, port: u16) -> UnixStream {
    let mut stream = UnixStream::connect(node.path("outside/direct.sock")).await.unwrap();
    let [high, low] = port.to_be_bytes();
    let asking = [&b"\x05\x01\x02"[..], b"\x01\x01a\x01b", &[5, 1, 0, 1, 127, 0, 0, 1, high, low]].concat();
    stream.write_all(&asking).await.unwrap();
    stream
}

async fn answered(stream: &mut UnixStream) -> u8 {
    let mut answer = [0; 14];
    timeout(PATIENCE, stream.read_exact(&mut answer)).await.unwrap().unwrap();
    answer[5]
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_conclave_has_half_of_its_nodes_connections_and_the_nodes_own_functions_the_others() {
    let node = Node::bounding(&[], &[], "[limits]\nconnections = 2");
    let person = Person::new();
    let (port, _) = sink().await;
    let code = person.home.path().join("reach");
    fs::create_dir(&code).unwrap();
    let needs = format!("calls = [\"net.connect\"]\negress = \"direct\"\nconnect = [\"accept 127.0.0.1:{port}\"]");
    fs::write(code.join("manifest.toml"), format!("name = \"reach\"\ncode = \"reach.py\"\nmethods = [\"reach\"]\n[needs]\n{needs}\n"))
        .unwrap();
    let reach = format!("def reach(api):\n    api.connect(\"127.0.0.1\", {port}).close()\n    api.output.write(b\"reached\")\n");
    fs::write(code.join("reach.py"), reach).unwrap();

    let (answer, first) = asked(&node, port).await;
    assert_eq!(answer, 0);
    // As many more as it likes get no answer, and nothing of what a function has.
    let mut more = Vec::new();
    for _ in 0..3 {
        more.push(ask(&node, port).await);
    }
    assert_eq!(person.done(&["run", &node.address, &code.display().to_string(), "reach"]).await, "reached");
    let said = node.status().await;
    assert!(said.contains(" 1 streams"), "{said}");
    for stream in &more {
        let waits = stream.try_read(&mut [0]).unwrap_err();
        assert_eq!(waits.kind(), std::io::ErrorKind::WouldBlock);
    }
    // They wait for their turn, and have it one after the other.
    drop(first);
    for mut stream in more {
        assert_eq!(answered(&mut stream).await, 0);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_hostile_conclave_has_the_bytes_that_its_host_gives_it_and_the_nodes_own_functions_theirs() {
    const MOST: usize = 3 << 20;
    let node = Node::bounding(&[], &[], "traffic = \"3 MiB\"\nrate = \"16 MiB/s\"");
    let person = Person::new();
    let (port, came) = sink().await;
    // Who plays the conclave pumps into several streams, as long as any takes it.
    let mut streams = Vec::new();
    for _ in 0..4 {
        let (answer, stream) = asked(&node, port).await;
        assert_eq!(answer, 0);
        streams.push(stream);
    }
    let mut pumping = tokio::task::JoinSet::new();
    for mut stream in streams {
        pumping.spawn(async move { while stream.write_all(&[7; 64 * 1024]).await.is_ok() {} });
    }
    timeout(PATIENCE, pumping.join_all()).await.expect("the host ends them");
    let passed = came.load(std::sync::atomic::Ordering::SeqCst);
    assert!(passed <= MOST && passed > MOST / 2, "{passed}");
    let said = node.status().await;
    assert!(said.contains("of at most 3 MiB in 24 hours, at 16 MiB/s at most") && said.contains("were ended or refused"), "{said}");
    // What is left of the day, less than a chunk, is used up by trying; then nothing is opened for it, and nobody brought to it.
    let mut tries = 0;
    while asked(&node, port).await.0 == 0 {
        tries += 1;
        assert!(tries < 1000, "it may try for ever");
    }
    assert_eq!(asked(&node, port).await.0, 2);
    assert!(came.load(std::sync::atomic::Ordering::SeqCst) <= MOST);
    let given = node.given().display().to_string();
    let echo = functions().join("echo").display().to_string();
    fs::write(person.home.path().join("letter"), SECRET).unwrap();
    let inside = ["run", &node.address, &echo, "echo", "--input", "letter", "--require-conclave", "--simulator-protects-nobody", &given];
    // Clients still come to it, and the node's own functions have their own.
    assert_eq!(person.done(&inside).await, SECRET);
    assert_eq!(person.done(&["run", &node.address, &echo, "echo", "--input", "letter"]).await, SECRET);
}
