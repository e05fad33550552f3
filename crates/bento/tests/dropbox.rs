//! Drops, put and fetched by the library against a Dropbox that breaks streams and lies, and by the program as a person runs it.
#![cfg(test)]

mod fake;

use std::{
    fs,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use bento::{
    Announcement, Client, ClientError, Download, DropError, DropId, DropLink, DropRefusal, Dropbox, FileKey, Locked, OpenError, Opening,
    Origin, Parcel, Piece, Source, Taker, Tokens, Upload,
};
use fake::{
    FakeNode,
    dropbox::Shared,
    home::{Home, text},
};

const SIZE: usize = 300_000;

fn content() -> Vec<u8> {
    (0..SIZE as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// A file, its parcel, and a Dropbox for it.
struct Sent {
    _directory: tempfile::TempDir,
    path: PathBuf,
    key: FileKey,
    parcel: Parcel,
    drop: Announcement,
    node: FakeNode,
    state: Shared,
    dropbox: Dropbox,
}

impl Sent {
    async fn new(gets: Option<u64>) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        fs::write(&path, content()).unwrap();
        let key = FileKey::mint().unwrap();
        let parcel = Parcel::sealed(Source::open(&path, Some(100_000), |_, _| ()).unwrap(), key.clone()).unwrap();
        let expires = Duration::from_secs(60);
        let drop = Announcement { id: DropId::mint().unwrap(), size: parcel.size(), expires, gets, name: None };
        let (node, state) = fake::dropbox::start().await;
        let token = Tokens::mint().unwrap().invocation;
        let dropbox = Dropbox { client: Client::direct(), node: node.node(), token, taker: Taker::Dropbox };
        Self { _directory: directory, path, key, parcel, drop, node, state, dropbox }
    }

    /// Uploads; what was told: where it went on, and how often the stream broke.
    async fn upload(&self) -> (Result<bento::Uploaded, DropError>, Vec<u64>) {
        let from: Arc<Mutex<Vec<u64>>> = Arc::default();
        let told = Arc::clone(&from);
        let uploaded = self.dropbox.upload(&self.drop, &self.parcel, move |upload| {
            if let Upload::From(offset) = upload {
                told.lock().unwrap().push(offset);
            }
        });
        let uploaded = uploaded.await;
        let from = from.lock().unwrap().clone();
        (uploaded, from)
    }

    fn opening(&self) -> Opening {
        Opening { locked: Locked::Key((*self.key.key()).into()), padded: true, name: None }
    }

    fn link(&self) -> Origin {
        let link = DropLink { node: self.node.node(), path: format!("/l/{}", self.drop.id), opening: self.opening() };
        Origin::Link(Client::direct(), link)
    }

    async fn fetch(&self, origin: Origin) -> Result<(Vec<u8>, Vec<u64>), DropError> {
        let mut download = Download::new(origin, &self.opening(), Vec::new())?;
        let (mut file, mut broke) = (Vec::new(), Vec::new());
        loop {
            match download.next().await? {
                Piece::Bytes(bytes) => file.extend(bytes),
                Piece::Broke(at, _) => broke.push(at),
                Piece::End => return Ok((file, broke)),
            }
        }
    }
}

#[tokio::test]
async fn an_upload_goes_on_where_the_stream_broke() {
    let sent = Sent::new(None).await;
    sent.state.lock().unwrap().faults.cut_puts = vec![3, 100_000];
    let (uploaded, from) = sent.upload().await;
    assert_eq!((uploaded.unwrap().broken, from), (2, vec![0, 3, 100_003]));
    let drop = sent.state.lock().unwrap().drops[&sent.drop.id.to_string()].clone();
    assert_eq!(drop.bytes.len() as u64, sent.parcel.size());
    // The same again sends nothing.
    assert_eq!(sent.upload().await.1, vec![sent.parcel.size()]);
    assert_eq!(sent.fetch(sent.link()).await.unwrap().0, content());
}

#[tokio::test]
async fn a_download_goes_on_where_the_stream_broke_and_counts_once() {
    let sent = Sent::new(Some(2)).await;
    sent.upload().await.0.unwrap();
    for origin in [sent.link(), Origin::Dropbox(sent.dropbox.clone(), sent.drop.id)] {
        sent.state.lock().unwrap().faults.cut_gets = vec![5, 65_552, 200_001];
        let (file, broke) = sent.fetch(origin).await.unwrap();
        assert!(file == content());
        assert_eq!(broke, vec![5, 65_557, 265_558]);
    }
    assert!(matches!(sent.fetch(sent.link()).await, Err(DropError::Refused(DropRefusal::UsedUp))));
}

#[tokio::test]
async fn what_was_changed_cut_or_is_another_length_is_refused() {
    let sent = Sent::new(None).await;
    sent.upload().await.0.unwrap();
    let set = |change: &dyn Fn(&mut fake::dropbox::Faults)| {
        let mut state = sent.state.lock().unwrap();
        state.faults = fake::dropbox::Faults::default();
        change(&mut state.faults);
    };
    for (at, wrong) in [(0, OpenError::Key), (9, OpenError::Key), (200_000, OpenError::Changed)] {
        set(&|faults| faults.flip = Some(at));
        assert!(matches!(sent.fetch(sent.link()).await, Err(DropError::Open(error)) if error == wrong), "{at}");
    }
    set(&|faults| faults.short = true);
    assert!(matches!(sent.fetch(sent.link()).await, Err(DropError::Open(OpenError::Changed))));
    // Another length when it goes on.
    set(&|faults| (faults.short, faults.cut_gets) = (true, vec![1000]));
    assert!(matches!(sent.fetch(sent.link()).await, Err(DropError::Client(ClientError::Violation(_)))));
    set(&|_| ());
    assert!(sent.fetch(sent.link()).await.is_ok());
}

#[tokio::test]
async fn a_changed_file_is_not_sent_and_a_node_that_lies_is_not_believed() {
    let sent = Sent::new(None).await;
    sent.state.lock().unwrap().faults.lie = Some(10_000_000);
    assert!(matches!(sent.upload().await.0, Err(DropError::Client(ClientError::Violation(_)))));
    sent.state.lock().unwrap().faults.lie = None;
    let mut changed = content();
    changed[70_000] ^= 1;
    fs::write(&sent.path, changed).unwrap();
    assert!(matches!(sent.upload().await.0, Err(DropError::File(_))));
    assert!(sent.state.lock().unwrap().drops.values().all(|drop| drop.sha256.is_none()));
}

#[tokio::test]
async fn what_was_never_reached_fails_at_once() {
    let mut sent = Sent::new(None).await;
    sent.dropbox.node = "127.0.0.1:1".parse().unwrap();
    let begin = Instant::now();
    assert!(matches!(sent.upload().await.0, Err(DropError::Client(ClientError::NotThere(_)))));
    let origin = Origin::Dropbox(sent.dropbox.clone(), sent.drop.id);
    assert!(matches!(sent.fetch(origin).await, Err(DropError::Client(ClientError::NotThere(_)))));
    assert!(begin.elapsed() < Duration::from_secs(5));
}

/// A node in a runtime of its own, for programs that run beside it.
fn node() -> (tokio::runtime::Runtime, FakeNode, Shared) {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
    let (node, state) = runtime.block_on(fake::dropbox::start());
    (runtime, node, state)
}

#[test]
fn a_file_is_put_listed_fetched_by_another_and_erased() {
    let (_runtime, node, state) = node();
    let (home, other) = (Home::new(), Home::new());
    fs::write(home.path("report 1.pdf"), content()).unwrap();
    let address = node.address.to_string();
    let put = home.json(&["dropbox", "put", "report 1.pdf", "--node", &address, "--gets", "2"]);
    let (link, id) = (put["link"].as_str().unwrap(), put["drop"].as_str().unwrap());
    assert_eq!((put["bytes"].as_u64(), put["sealed"].as_u64()), (Some(SIZE as u64), FileKey::sealed_size(1_000_000)));
    assert!(link.contains("#k=") && link.ends_with("&n=report%201.pdf&p=1"), "{link}");
    {
        let state = state.lock().unwrap();
        let drop = &state.drops[id];
        let begins = &content()[..16];
        assert!(drop.page && drop.name.is_none() && !drop.bytes.windows(16).any(|window| window == begins));
        let heads: Vec<_> = node.asked.lock().unwrap().iter().map(|asked| (asked.line.clone(), asked.headers.clone())).collect();
        assert!(format!("{heads:?}").contains(id) && !format!("{heads:?}").contains("report"), "the node sees no name");
    }
    let list = home.good(&["dropbox", "list"]);
    assert!(list.contains("report 1.pdf") && list.contains("2 gets left") && list.contains(&id[..12]), "{list}");

    let got = other.json(&["dropbox", "get", link]);
    assert_eq!((got["file"].as_str(), got["bytes"].as_u64()), (Some("report 1.pdf"), Some(SIZE as u64)));
    assert!(fs::read(other.path("report 1.pdf")).unwrap() == content());
    assert_eq!(other.run(&["dropbox", "get", link]).status.code(), Some(2), "a file that is there is not replaced");
    let own = home.good(&["dropbox", "get", &format!("dropbox/{}", &id[..8]), "-o", "copy"]);
    assert!(own.starts_with("Decrypted and whole: 300000 bytes"), "{own}");
    let beyond = other.run(&["dropbox", "get", link, "-o", "more"]);
    assert_eq!(beyond.status.code(), Some(3));
    assert!(text(&beyond.stderr).contains("as often as its sender allowed") && !other.path("more").exists());

    let gone = home.json(&["dropbox", "rm", &id[..8]]);
    assert_eq!((gone["existed"].as_bool(), gone["ended"].as_bool()), (Some(true), Some(true)));
    let state = state.lock().unwrap();
    assert_eq!((state.installed, state.ended, state.drops.len()), (1, 1, 0));
    assert!(!home.kept().contains("bento-invoke-") && !home.kept().contains(id));
}

#[test]
fn a_killed_upload_goes_on_in_the_next_run_and_a_changed_file_is_sent_anew() {
    let (_runtime, node, state) = node();
    let home = Home::new();
    fs::write(home.path("file"), content()).unwrap();
    let address = node.address.to_string();
    let words = ["dropbox", "put", "file", "--node", &address, "--no-pad", "--progress"];
    let interrupted = |taken: usize| {
        state.lock().unwrap().faults.hold_put = Some(taken);
        let mut child = home.command(&words).spawn().unwrap();
        while state.lock().unwrap().faults.hold_put.is_some() {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            std::thread::sleep(Duration::from_millis(10));
        }
        child.kill().unwrap();
        child.wait().unwrap();
    };
    interrupted(100_000);
    let first = state.lock().unwrap().drops.keys().next().unwrap().clone();
    assert!(home.kept().contains(&first), "its key is kept before the node hears of it");
    let again = home.run(&words);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    let said = text(&again.stderr);
    assert!(said.contains(&format!("going on from 100000 of {} bytes", FileKey::sealed_size(SIZE as u64).unwrap())), "{said}");
    let link = text(&again.stdout).lines().last().unwrap().to_owned();
    home.good(&["dropbox", "get", &link, "-o", "copy"]);
    assert!(fs::read(home.path("copy")).unwrap() == content());
    assert_eq!(state.lock().unwrap().drops.len(), 1);

    // Cut off again, and then the file is another one: nothing of it is sent under the key of the first.
    interrupted(50_000);
    let second = state.lock().unwrap().drops.keys().find(|id| **id != first).unwrap().clone();
    let mut changed = content();
    changed[0] ^= 1;
    fs::write(home.path("file"), &changed).unwrap();
    let anew = home.run(&words);
    assert_eq!(anew.status.code(), Some(0), "{}", text(&anew.stderr));
    assert!(text(&anew.stderr).contains("has changed since its upload was cut off"), "{}", text(&anew.stderr));
    let state = state.lock().unwrap();
    assert_eq!((state.drops.len(), state.drops[&second].bytes.len()), (3, 50_000));
    let third = state.drops.iter().find(|(id, _)| **id != first && **id != second).unwrap().1;
    assert_ne!(third.bytes[..7], state.drops[&second].bytes[..7], "another prefix");
}

#[test]
fn a_file_for_a_recipient_opens_with_its_identity_and_a_plain_one_is_as_it_was() {
    use age::secrecy::ExposeSecret as _;

    let (_runtime, node, state) = node();
    let home = Home::new();
    fs::write(home.path("file"), content()).unwrap();
    let address = node.address.to_string();
    let (own, stranger) = (age::x25519::Identity::generate(), age::x25519::Identity::generate());
    for (name, identity) in [("own", &own), ("stranger", &stranger)] {
        fs::write(home.path(name), format!("# key\n{}\n", identity.to_string().expose_secret())).unwrap();
    }
    let put = home.json(&["dropbox", "put", "file", "--node", &address, "--to", &own.to_public().to_string()]);
    let link = put["link"].as_str().unwrap();
    assert!(link.ends_with("#e=age&n=file&p=1"), "{link}");
    let stored = state.lock().unwrap().drops.values().next().unwrap().bytes.clone();
    assert!(stored.starts_with(b"age-encryption.org/v1\n"));
    assert_eq!(fs::read_dir(home.path(".local/share/bento/drops")).unwrap().count(), 0, "the copy is gone");
    home.good(&["dropbox", "get", link, "--identity", "own", "-o", "copy"]);
    assert!(fs::read(home.path("copy")).unwrap() == content());
    for words in [&["dropbox", "get", link, "-o", "no"][..], &["dropbox", "get", link, "-o", "no", "--identity", "stranger"]] {
        let output = home.run(words);
        assert_eq!(output.status.code(), Some(2), "{}", text(&output.stderr));
        assert!(text(&output.stderr).contains("Hint: ") && !home.path("no").exists());
    }

    let put = home.json(&["dropbox", "put", "file", "--node", &address, "--plain", "--name", "a b"]);
    assert!(put["link"].as_str().unwrap().ends_with("#n=a%20b"));
    let drops = state.lock().unwrap().drops.clone();
    let plain = drops.values().find(|drop| drop.name.as_deref() == Some("a b")).unwrap();
    assert!(plain.bytes == content() && !plain.page);
    let own = format!("{}/{}", put["dropbox"].as_str().unwrap(), put["drop"].as_str().unwrap());
    let link = put["link"].as_str().unwrap();
    let said = home.good(&["dropbox", "get", link]);
    assert!(said.starts_with("As the node sent it, which could have changed it: 300000 bytes in a b"), "{said}");
    assert!(fs::read(home.path("a b")).unwrap() == content());
    let said = home.good(&["dropbox", "get", &own, "-o", "own copy"]);
    assert!(said.starts_with("Whole: 300000 bytes"), "{said}");
    // Its sender knows what it was; who has the link alone does not.
    state.lock().unwrap().faults.flip = Some(7);
    let changed = home.run(&["dropbox", "get", &own, "-o", "no"]);
    assert_eq!(changed.status.code(), Some(6), "{}", text(&changed.stderr));
    assert!(text(&changed.stderr).contains("what came is not what was sent: its SHA-256 is ") && !home.path("no").exists());
    let said = home.json(&["dropbox", "get", link, "-o", "other"]);
    assert_eq!(said["checked"], false, "{said}");
}

#[test]
fn what_a_full_dropbox_refuses_leaves_nothing_behind_and_a_broken_get_no_file() {
    let (_runtime, node, state) = node();
    let home = Home::new();
    fs::write(home.path("file"), content()).unwrap();
    let address = node.address.to_string();
    let put = home.json(&["dropbox", "put", "file", "--node", &address]);
    let large = fs::File::create(home.path("large")).unwrap();
    large.set_len(60_000_000).unwrap();
    let full = home.run(&["dropbox", "put", "large", "--at", "dropbox"]);
    assert_eq!(full.status.code(), Some(3), "{}", text(&full.stderr));
    assert!(text(&full.stderr).contains("the Dropbox is full") && !home.kept().contains("large"));
    state.lock().unwrap().faults.flip = Some(500_000);
    let broken = home.run(&["dropbox", "get", put["link"].as_str().unwrap(), "-o", "copy"]);
    assert_eq!(broken.status.code(), Some(6), "{}", text(&broken.stderr));
    assert!(!home.path("copy").exists());
    let is_left = |path: &Path| path.file_name().unwrap().to_string_lossy().starts_with(".bento-");
    assert!(!fs::read_dir(home.0.path()).unwrap().any(|entry| is_left(&entry.unwrap().path())));
}

/// A file that nobody could read to its end within a test.
fn endless(path: &Path) {
    fs::File::create(path).unwrap().set_len(1_000_000_000_000).unwrap();
}

#[test]
fn what_no_node_takes_is_told_before_it_is_read_with_what_is_missing_and_how_large_it_may_be() {
    let (_runtime, node, state) = node();
    let home = Home::new();
    fs::write(home.path("file"), content()).unwrap();
    endless(&home.path("large"));
    let address = node.address.to_string();
    home.good(&["nodes", "add", "here", &address]);
    let recipient = age::x25519::Identity::generate().to_public().to_string();
    for (words, most) in [
        (&["dropbox", "put", "large"][..], "here takes files of up to 63 MB; for more add"),
        (&["dropbox", "put", "large", "--node", "here", "--gets", "10"], "of up to 20 MB, and with `--gets 1` of 65 MB; another"),
        (&["dropbox", "put", "large", "--to", &recipient], "of up to 63 MB; for more"),
        (&["dropbox", "put", "large", "--plain"], "of up to 65 MB; for more"),
    ] {
        let refused = home.run(words);
        let said = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{said}");
        assert!(said.starts_with("Error: here does not take large: dropbox needs ") && said.contains(most), "{said}");
        assert!(said.contains(" of storage, and it offers 64 MiB (") && said.contains(" of traffic, and it offers 256 MiB ("), "{said}");
        assert!(said.contains(" too little); "), "{said}");
    }
    home.good(&["nodes", "add", "gone", "127.0.0.1:1"]);
    let silent = text(&home.run(&["dropbox", "put", "large"]).stderr);
    assert!(
        silent.starts_with("Error: no node that answered takes large; here: ") && silent.contains("; 1 node did not answer"),
        "{silent}"
    );
    home.good(&["nodes", "remove", "gone"]);
    let long = home.run(&["dropbox", "put", "file", "--expires", "30d"]);
    let said = text(&long.stderr);
    assert!(said.contains("30 d of lifetime, and it offers 1 d (29 d too little)") && said.contains("`--expires`"), "{said}");
    {
        let asked = node.asked.lock().unwrap();
        assert!(asked.iter().all(|asked| asked.line == "GET /v1/node"), "{asked:?}");
        assert!(!home.path(".local/share/bento/functions.json").exists() && !home.path(".local/share/bento/drops").exists());
    }
    // As large as is said it is taken, and a little more is not. The node here refuses it afterwards, as one that is full.
    fs::File::create(home.path("most")).unwrap().set_len(63_000_000).unwrap();
    let taken = home.run(&["dropbox", "put", "most"]);
    assert!(text(&taken.stderr).contains("the Dropbox is full"), "{}", text(&taken.stderr));
    fs::File::create(home.path("most")).unwrap().set_len(64_000_000).unwrap();
    let beyond = home.run(&["dropbox", "put", "most"]);
    assert!(text(&beyond.stderr).contains("here does not take most"), "{}", text(&beyond.stderr));

    // One that is installed is asked for what it has left.
    home.good(&["dropbox", "put", "file"]);
    let installed = state.lock().unwrap().installed;
    let refused = home.run(&["dropbox", "put", "large", "--at", "dropbox"]);
    let said = text(&refused.stderr);
    assert_eq!(refused.status.code(), Some(3), "{said}");
    assert!(said.contains("dropbox has 67 MB of its storage left, and the file takes 1000"), "{said}");
    assert_eq!(state.lock().unwrap().installed, installed);
    home.good(&["dropbox", "put", "file", "--at", "dropbox", "--name", "another"]);
}
