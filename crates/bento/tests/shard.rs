//! `bento shard` as a person runs it, against nodes that are stopped, forget and lose things. They make no shards: `functions/shard/tests` and
//! `testnet/tests` have the real function.
#![cfg(test)]

mod fake;

use std::{
    fs,
    io::Write as _,
    process::{Child, Stdio},
    sync::MutexGuard,
    time::{Duration, Instant},
};

use fake::{
    FakeNode,
    home::{Home, compare, text},
    shard::{Shared, World},
};

const SIZE: usize = 300_000;

fn content() -> Vec<u8> {
    (0..SIZE as u32).map(|number| (number.wrapping_mul(2_654_435_761) >> 24) as u8).collect()
}

/// Is the file's beginning somewhere in it?
fn has_content(bytes: &[u8]) -> bool {
    let begins = &content()[..16];
    bytes.windows(16).any(|window| window == begins)
}

/// A person with a file, and some nodes in their list.
struct Place {
    home: Home,
    world: Shared,
    nodes: Vec<FakeNode>,
    _runtime: tokio::runtime::Runtime,
}

impl Place {
    fn new(count: usize) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
        let (nodes, world) = runtime.block_on(fake::shard::start(count));
        let home = Home::new();
        for (index, node) in nodes.iter().enumerate() {
            home.good(&["nodes", "add", &format!("n{}", index + 1), &node.address.to_string()]);
        }
        fs::write(home.path("report.pdf"), content()).unwrap();
        Self { home, world, nodes, _runtime: runtime }
    }

    fn world(&self) -> MutexGuard<'_, World> {
        self.world.lock().unwrap()
    }

    fn kept(&self, name: &str) -> String {
        fs::read_to_string(self.home.path(&format!(".local/share/bento/shards/{name}.json"))).unwrap_or_default()
    }

    fn count(&self, line: &str) -> usize {
        self.nodes.iter().map(|node| node.asked.lock().unwrap().iter().filter(|asked| asked.line == line).count()).sum()
    }

    /// What is left of files in shards, but for locks.
    fn left(&self) -> Vec<String> {
        let Ok(entries) = fs::read_dir(self.home.path(".local/share/bento/shards")) else { return Vec::new() };
        let names = entries.map(|entry| entry.unwrap().file_name().to_string_lossy().into_owned());
        names.filter(|name| !name.ends_with(".lock")).collect()
    }

    /// Waits until something is so, while a command runs.
    fn until(&self, child: &mut Child, is_so: impl Fn(&World) -> bool) {
        let end = Instant::now() + Duration::from_secs(60);
        while !is_so(&self.world()) {
            assert!(child.try_wait().unwrap().is_none(), "it ended by itself");
            assert!(Instant::now() < end, "it does not come to that");
            std::thread::sleep(Duration::from_millis(10));
        }
    }
}

#[test]
fn a_file_is_put_and_fetched_with_its_recipe_by_somebody_else() {
    let place = Place::new(5);
    let other = Home::new();
    let put = place.home.json(&["shard", "put", "report.pdf", "--need", "2", "--of", "5", "--recipe", "report.recipe"]);
    assert_eq!((put["bytes"].as_u64(), put["sealed"].as_u64()), (Some(SIZE as u64), bento::FileKey::sealed_size(1_000_000)));
    assert_eq!(put["nodes"].as_array().unwrap().len(), 5);
    let recipe = fs::read_to_string(place.home.path("report.recipe")).unwrap();
    {
        use std::os::unix::fs::PermissionsExt as _;
        let world = place.world();
        let key = serde_json::from_str::<serde_json::Value>(&recipe).unwrap()["key"].as_str().unwrap().to_owned();
        let stored = world.files.values().next().unwrap();
        assert!(!has_content(stored), "it is encrypted");
        let heads: Vec<_> = place.nodes.iter().flat_map(|node| node.asked.lock().unwrap().clone()).collect();
        let told: Vec<String> =
            heads.iter().map(|asked| format!("{} {:?} {}", asked.line, asked.headers, String::from_utf8_lossy(&asked.body))).collect();
        assert!(!told.iter().any(|all| all.contains(&key) || all.contains("report.pdf")), "no node hears of the key or the name");
        assert_eq!(world.ended, 1, "Shard itself has ended");
        let mode = fs::metadata(place.home.path("report.recipe")).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o600);
    }
    // Somebody else has a node of their own and the recipe.
    fs::write(other.path("report.recipe"), &recipe).unwrap();
    let address = place.nodes[1].address.to_string();
    let loose = other.run(&["shard", "get", "report.recipe", "--node", &address]);
    assert!(text(&loose.stderr).contains("others may look into"), "{}", text(&loose.stderr));
    fs::remove_file(other.path("report.recipe")).unwrap();
    fs::copy(place.home.path("report.recipe"), other.path("report.recipe")).unwrap();
    let got = other.json(&["shard", "get", "report.recipe", "--node", &address]);
    assert_eq!((got["file"].as_str(), got["good"].as_u64(), got["of"].as_u64()), (Some("report.pdf"), Some(5), Some(5)));
    assert!(fs::read(other.path("report.pdf")).unwrap() == content());
    assert_eq!(other.run(&["shard", "get", "report.recipe", "--node", &address]).status.code(), Some(2), "a file that is there stays");
    // With a word of the recipe changed nothing opens, and no file appears.
    let key = recipe.split("\"key\": \"").nth(1).unwrap().split('"').next().unwrap();
    let wrong = recipe.replacen(key, &"07".repeat(32), 1);
    fs::write(other.path("report.recipe"), wrong).unwrap();
    let broken = other.run(&["shard", "get", "report.recipe", "--node", &address, "-o", "no"]);
    assert!(broken.status.code() == Some(2) && !other.path("no").exists(), "{}", text(&broken.stderr));
    assert_eq!(place.home.run(&["shard", "put", "report.pdf", "--recipe", "report.recipe"]).status.code(), Some(2));
}

#[test]
fn a_file_in_shards_from_put_to_rm() {
    let place = Place::new(5);
    let mut seen = String::new();
    let mut see = |line: &str| {
        let output = place.home.run(&line.split_whitespace().collect::<Vec<_>>());
        seen.push_str(&format!("$ bento {line}\n{}", text(&output.stdout)));
        text(&output.stderr).lines().for_each(|line| seen.push_str(&format!("! {line}\n")));
        seen.push_str(&format!("= {}\n\n", output.status.code().unwrap()));
    };
    see("shard list");
    see("shard put report.pdf");
    see("shard list");
    see("shard check report.pdf");
    place.world().lost = vec![(1, "corrupt: it is not what was stored".into()), (3, "missing: the node could not be reached".into())];
    see("shard get report.pdf -o copy.pdf");
    see("shard check report.pdf");
    see("shard check report.pdf --json");
    place.world().lost.push((0, "missing: gone".into()));
    see("shard get report.pdf -o more.pdf");
    see("shard check report.pdf");
    place.world().lost.truncate(2);
    see("shard repair report.pdf");
    see("shard repair report.pdf --more 1 --thorough");
    see("shard get report.pdf -o again.pdf");
    see("shard renew report.pdf");
    see("shard rm report.pdf");
    fs::remove_file(place.home.path("report.pdf")).unwrap();
    see("shard rm report.pdf");
    see("shard list --json");
    for (index, node) in place.nodes.iter().enumerate() {
        seen = seen.replace(&node.address.to_string(), &format!("NODE{}", index + 1));
    }
    compare("shard.txt", &seen);
    assert!(fs::read(place.home.path("copy.pdf")).unwrap() == content() && !place.home.path("more.pdf").exists());
    let world = place.world();
    assert_eq!(world.begun.iter().map(|(method, _)| method.as_str()).collect::<Vec<_>>(), ["spread", "repair", "repair"]);
    // Of Shard three, and all shards that there were at last.
    assert_eq!((world.ended, world.renewed), (3 + 5, 5));
    assert_eq!(place.left(), Vec::<String>::new());
}

#[test]
fn a_killed_put_goes_on_and_only_with_the_same_file() {
    let place = Place::new(4);
    let words = ["shard", "put", "report.pdf", "--progress"];
    place.world().drops.faults.hold_put = Some(100_000);
    let mut child = place.home.command(&words).spawn().unwrap();
    place.until(&mut child, |world| world.drops.faults.hold_put.is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    let drop = place.world().drops.drops.keys().next().unwrap().clone();
    assert!(place.kept("report.pdf").contains(&drop), "it is kept before the node hears of it");
    let list = place.home.good(&["shard", "list"]);
    assert!(list.contains("on its way to a node; `bento shard put --resume report.pdf` goes on"), "{list}");
    let early = place.home.run(&["shard", "get", "report.pdf"]);
    assert!(early.status.code() == Some(2) && text(&early.stderr).contains("still on its way"), "{}", text(&early.stderr));

    let mut changed = content();
    changed[7] ^= 1;
    fs::write(place.home.path("report.pdf"), &changed).unwrap();
    for words in [&words[..], &["shard", "put", "--resume"], &["shard", "put", "--resume", "report.pdf"]] {
        let refused = place.home.run(words);
        assert_eq!(refused.status.code(), Some(2), "{words:?}");
        assert!(text(&refused.stderr).contains("has changed since"), "{}", text(&refused.stderr));
    }
    assert_eq!(place.world().drops.drops[&drop].bytes.len(), 100_000, "nothing of it was sent under the same key");
    fs::write(place.home.path("report.pdf"), content()).unwrap();
    let again = place.home.run(&words);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("going on from 100000 of "), "{}", text(&again.stderr));
    {
        let world = place.world();
        assert_eq!((world.drops.drops.len(), world.drops.installed), (1, 1));
    }
    place.home.good(&["shard", "get", "report.pdf", "-o", "copy"]);
    assert!(fs::read(place.home.path("copy")).unwrap() == content());
}

#[test]
fn a_node_that_is_stopped_meanwhile_is_asked_again_and_what_it_forgot_is_sent_anew() {
    let place = Place::new(4);
    {
        let mut world = place.world();
        world.fails =
            vec!["the node was stopped before the method returned".into(), "jobs.Underway: another invocation is doing this".into()];
        world.runs = 1;
    }
    let put = place.home.run(&["shard", "put", "report.pdf", "--progress"]);
    assert_eq!(put.status.code(), Some(0), "{}", text(&put.stderr));
    assert!(text(&put.stderr).contains("its node was stopped meanwhile; it goes on"));
    assert_eq!((place.world().begun.len(), place.count("POST /v1/invoke/add")), (3, 1));
    // The same drop each time: the function goes on with it.
    let drops: Vec<_> = place.world().begun.iter().map(|(_, arguments)| arguments["drop"].clone()).collect();
    assert!(drops.windows(2).all(|pair| pair[0] == pair[1]));

    // Too few nodes: what was sent stays, and the same command goes on.
    place.world().fails = vec!["shelves.NotEnoughNodes: 3 of 4 nodes took a shard; x: gone".into()];
    let few = place.home.run(&["shard", "put", "report.pdf"]);
    assert_eq!(few.status.code(), Some(6), "{}", text(&few.stderr));
    assert!(text(&few.stderr).contains("too few nodes took a shard: 3 of 4"), "{}", text(&few.stderr));
    place.home.good(&["shard", "put", "report.pdf"]);
    assert_eq!(place.count("POST /v1/invoke/add"), 2);
    // Another node: the one before is given up.
    place.world().fails = vec!["Full: [Errno 122] no room".into()];
    let full = place.home.run(&["shard", "put", "report.pdf", "--node", "n1"]);
    assert!(text(&full.stderr).contains("the node has no room for the file: no room"), "{}", text(&full.stderr));
    let ended = place.world().ended;
    place.home.good(&["shard", "put", "--resume", "report.pdf-3", "--node", "n2"]);
    // The nodes here share what they have, so that it was not sent once more.
    assert_eq!((place.world().ended, place.count("POST /v1/invoke/add")), (ended + 2, 3));
}

#[test]
fn what_no_node_takes_leaves_nothing_behind() {
    let place = Place::new(3);
    for (words, said) in [
        (&["shard", "put", "report.pdf"][..], "3 of 3 nodes can take a shard, and 4 are needed"),
        (&["shard", "put", "report.pdf", "--over", "1h"], "3 of 3 nodes can take a shard, and 4 are needed"),
        (&["shard", "put", "report.pdf", "--of", "3", "--mode", "fountain"], "does not have raptorq"),
        (&["shard", "put", "report.pdf", "--of", "3", "--keep", "30d"], "needs 30 d of lifetime"),
    ] {
        let refused = place.home.run(words);
        assert_eq!(refused.status.code(), Some(3), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains(said) && text(&refused.stderr).contains("Hint: "), "{}", text(&refused.stderr));
    }
    place.home.good(&["nodes", "add", "gone", "127.0.0.1:1"]);
    let silent = place.home.run(&["shard", "put", "report.pdf", "--keep", "30d"]);
    assert!(text(&silent.stderr).contains("0 of 4 nodes can take a shard") && text(&silent.stderr).contains("; 1 node did not answer"));
    place.home.good(&["nodes", "remove", "gone"]);
    place.world().policy = Some("[offers]\nimage = [\"python3\"]\n".into());
    let no_image = place.home.run(&["shard", "put", "report.pdf", "--of", "2"]);
    assert!(text(&no_image.stderr).contains("shard needs shard of image, and it offers python3"), "{}", text(&no_image.stderr));
    assert_eq!((place.world().drops.installed, place.left()), (0, vec![]));
}

#[test]
fn where_a_conclave_is_required_nothing_is_read_or_said_to_a_node_itself() {
    let place = Place::new(4);
    let refused = place.home.run(&["shard", "put", "report.pdf", "--require-conclave"]);
    assert_eq!(refused.status.code(), Some(2), "{}", text(&refused.stderr));
    assert!(text(&refused.stderr).contains("nothing says which conclaves are accepted"), "{}", text(&refused.stderr));
    assert!(place.nodes.iter().all(|node| node.asked.lock().unwrap().is_empty()) && place.left().is_empty());
    place.home.good(&["nodes", "remove", "n4"]);
    place.home.good(&["nodes", "add", "n4", &format!("{}/conclave", place.nodes[3].address)]);
    let refused = place.home.run(&["shard", "put", "report.pdf"]);
    assert!(text(&refused.stderr).contains("3 of 4 nodes can take a shard, and 4 are needed; n4: "), "{}", text(&refused.stderr));
    assert_eq!((place.world().drops.installed, place.left()), (0, vec![]));
    place.home.good(&["shard", "put", "report.pdf", "--of", "3"]);
    // What lies outside conclaves is used where none is required, and nowhere else.
    for words in [&["shard", "get", "report.pdf", "-o", "no"][..], &["shard", "check", "report.pdf"], &["shard", "repair", "report.pdf"]] {
        let refused = place.home.run(&[words, &["--require-conclave"]].concat());
        assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
        assert!(text(&refused.stderr).contains("lies outside a conclave"), "{}", text(&refused.stderr));
    }
    place.home.good(&["shard", "get", "report.pdf", "-o", "yes"]);
}

#[test]
fn shards_in_conclaves_and_outside_are_never_those_of_one_file() {
    let place = Place::new(3);
    // Who makes the shards says that one of them is somewhere else.
    let first = place.nodes[0].address.to_string();
    place.world().mixes = true;
    let refused = place.home.run(&["shard", "put", "report.pdf", "--of", "3"]);
    assert!(
        !refused.status.success() && text(&refused.stderr).contains("some of its shards lie in conclaves"),
        "{}",
        text(&refused.stderr)
    );
    place.world().mixes = false;
    place.home.good(&["shard", "rm", "report.pdf"]);
    place.home.good(&["shard", "put", "report.pdf", "--of", "3", "--recipe", "plain"]);
    // So does who changed the recipe.
    let recipe = fs::read_to_string(place.home.path("plain")).unwrap();
    fs::copy(place.home.path("plain"), place.home.path("mixed")).unwrap();
    fs::write(place.home.path("mixed"), recipe.replacen(&first, &format!("{first}/conclave"), 1)).unwrap();
    let asked = || place.nodes.iter().map(|node| node.asked.lock().unwrap().len()).sum::<usize>();
    let before = asked();
    for words in [&["shard", "get", "./mixed", "-o", "no"][..], &["shard", "check", "./mixed"], &["shard", "repair", "./mixed"]] {
        for more in [&[][..], &["--require-conclave"]] {
            let refused = place.home.run(&[words, more].concat());
            assert_eq!(refused.status.code(), Some(4), "{}", text(&refused.stderr));
            let error = text(&refused.stderr);
            assert!(error.contains("lies outside a conclave and others in one") && !error.contains("leave it out"), "{error}");
        }
    }
    assert_eq!(asked(), before, "a node was asked");
    // Nor has it taken the place of the one that is kept.
    place.home.good(&["shard", "get", "report.pdf", "-o", "yes"]);
}

#[test]
fn what_nodes_have_no_room_for_is_told_before_it_is_read_with_how_large_it_may_be() {
    let place = Place::new(5);
    // Nobody could read them to their end within a test.
    for (name, size) in [("large", 1_000_000_000_000), ("portions", 140_000_000_000)] {
        fs::File::create(place.home.path(name)).unwrap().set_len(size).unwrap();
    }
    for (words, said, most) in [
        (&["shard", "put", "large"][..], "0 of 5 nodes can take a shard, and 4 are needed; n", "of up to 64 MB like that; for more"),
        (&["shard", "put", "portions", "--over", "6h", "--each", "16000000"], "dropbox needs ", "of up to 63 MB like that; for more"),
        (&["shard", "put", "large", "--need", "3", "--of", "3"], "; n", "or give a larger `--need`"),
    ] {
        let refused = place.home.run(words);
        let error = text(&refused.stderr);
        assert_eq!(refused.status.code(), Some(3), "{error}");
        assert!(error.contains(said) && error.contains(most), "{error}");
        assert!(error.contains(" of storage, and it offers 64 MiB ("), "{error}");
    }
    assert_eq!((place.world().drops.installed, place.left()), (0, vec![]));
    let asked: Vec<String> = place.nodes.iter().flat_map(|node| node.asked.lock().unwrap().clone()).map(|asked| asked.line).collect();
    assert!(asked.iter().all(|line| line == "GET /v1/node"), "{asked:?}");

    // A repair says so as early, and the recipe stays; what could be put can be repaired.
    fs::File::create(place.home.path("most")).unwrap().set_len(4_000_000).unwrap();
    place.home.good(&["shard", "put", "most"]);
    place.world().lost = vec![(0, "missing: gone".into())];
    place.world().policy = Some(format!("{}traffic = \"20 MiB\"\n", fake::shard::POLICY));
    let begun = place.world().begun.len();
    let refused = place.home.run(&["shard", "repair", "most"]);
    let said = text(&refused.stderr);
    assert!(refused.status.code() == Some(3) && said.contains(" of traffic, and it offers 20 MiB ("), "{said}");
    assert_eq!(place.world().begun.len(), begun);
    place.world().policy = None;
    place.home.good(&["shard", "repair", "most"]);
}

#[test]
fn what_comes_from_stdin_is_sealed_on_disk_until_it_is_sent_and_its_client_may_leave() {
    let place = Place::new(4);
    place.world().runs = 1;
    let put = |words: &[&str]| {
        let mut child = place.home.command(words).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&content()).unwrap();
        child.wait_with_output().unwrap()
    };
    let offline = put(&["shard", "put", "-", "--name", "a b.tar", "--offline"]);
    assert_eq!(offline.status.code(), Some(0), "{}", text(&offline.stderr));
    assert!(text(&offline.stdout).contains("makes the shards alone; `bento shard get a-b.tar` fetches it"), "{}", text(&offline.stdout));
    assert_eq!(place.world().ended, 0);
    let list = place.home.good(&["shard", "list"]);
    assert!(list.contains("a node makes the shards"), "{list}");
    let got = place.home.json(&["shard", "get", "a-b.tar"]);
    assert_eq!(got["file"], "a b.tar");
    assert!(fs::read(place.home.path("a b.tar")).unwrap() == content());
    assert_eq!((place.world().ended, place.left()), (1, vec!["a-b.tar.json".to_owned()]));

    // Killed while it is sent: what is on the disk is ciphertext, and goes on.
    place.world().drops.faults.hold_put = Some(5000);
    let mut child = place.home.command(&["shard", "put", "-"]).stdin(Stdio::piped()).spawn().unwrap();
    child.stdin.take().unwrap().write_all(&content()).unwrap();
    place.until(&mut child, |world| world.drops.faults.hold_put.is_none());
    child.kill().unwrap();
    child.wait().unwrap();
    let spool = fs::read(place.home.path(".local/share/bento/shards/stdin.sealed")).unwrap();
    assert!(!has_content(&spool));
    place.home.good(&["shard", "put", "--resume", "stdin"]);
    let stdout = place.home.run(&["shard", "get", "stdin", "-o", "-"]);
    assert!(stdout.stdout == content(), "{}", text(&stdout.stderr));
    assert!(!place.left().contains(&"stdin.sealed".to_owned()));
}

#[test]
fn what_came_from_stdin_stays_when_nobody_takes_it_and_goes_on_when_somebody_does() {
    let place = Place::new(4);
    let put = |words: &[&str]| {
        let mut child = place.home.command(words).stdin(Stdio::piped()).spawn().unwrap();
        child.stdin.take().unwrap().write_all(&content()).unwrap();
        let output = child.wait_with_output().unwrap();
        (output.status.code(), text(&output.stderr))
    };
    place.world().policy = Some(format!("{}storage = \"1 MiB\"\n", fake::shard::POLICY));
    let (status, said) = put(&["shard", "put", "-"]);
    assert!(status == Some(3) && said.contains("too little"), "{said}");
    assert!(said.contains("what came is kept: `bento shard put --resume stdin` goes on with it, `bento shard rm stdin`"), "{said}");
    // In portions only, where that was asked for.
    place.world().policy = Some("[offers]\nimage = [\"python3\"]\n".into());
    let (_, said) = put(&["shard", "put", "-", "--name", "drip", "--over", "1s", "--each", "50000"]);
    assert!(said.contains("--resume drip"), "{said}");
    let again = place.home.run(&["shard", "put", "--resume", "drip"]);
    assert!(again.status.code() == Some(3) && text(&again.stderr).contains("--resume drip"), "{}", text(&again.stderr));
    // A node that took it in its policy, and has no room now.
    place.world().policy = None;
    place.world().busy = true;
    let (_, said) = put(&["shard", "put", "-", "--name", "late"]);
    assert!(!place.world().busy && said.contains("--resume late"), "{said}");
    for name in ["stdin", "drip", "late"] {
        let spool = fs::read(place.home.path(&format!(".local/share/bento/shards/{name}.sealed"))).unwrap();
        assert!(!has_content(&spool));
        let said = place.home.json(&["shard", "put", "--resume", name]);
        assert_eq!(said["seen"]["uploads"].as_u64(), (name == "drip").then_some(7), "{said}");
        assert!(place.home.run(&["shard", "get", name, "-o", "-"]).stdout == content());
    }
    assert!(!place.left().iter().any(|name| name.ends_with(".sealed")));
}

#[test]
fn a_download_that_breaks_goes_on_and_its_report_comes_whole() {
    let place = Place::new(4);
    place.home.good(&["shard", "put", "report.pdf"]);
    place.world().drops.faults.short = true;
    place.world().lost = vec![(2, "missing: gone\u{1b}[2J".into())];
    let got = place.home.json(&["shard", "get", "report.pdf", "-o", "copy"]);
    assert_eq!((got["broken"].as_u64(), got["good"].as_u64(), got["lost"][0]["number"].as_u64()), (Some(1), Some(3), Some(2)));
    assert_eq!(got["lost"][0]["why"], "missing: gone[2J");
    assert!(fs::read(place.home.path("copy")).unwrap() == content());
}

#[test]
fn a_repair_that_was_cut_off_goes_on_and_a_recipe_in_a_file_is_replaced() {
    let place = Place::new(6);
    place.home.good(&["shard", "put", "report.pdf", "--recipe", "r"]);
    let before = fs::read_to_string(place.home.path("r")).unwrap();
    place.home.good(&["shard", "rm", "report.pdf"]);
    place.world().lost = vec![(0, "missing: gone".into())];
    place.world().runs = usize::MAX;
    let mut child = place.home.command(&["shard", "repair", "r"]).spawn().unwrap();
    place.until(&mut child, |world| world.begun.len() == 2 && world.runs < usize::MAX);
    child.kill().unwrap();
    child.wait().unwrap();
    let list = place.home.good(&["shard", "list"]);
    assert!(list.contains("a repair was cut off; `bento shard repair report.pdf` goes on"), "{list}");
    assert_eq!(fs::read_to_string(place.home.path("r")).unwrap(), before, "until it is done the old one holds");
    let other = place.home.run(&["shard", "repair", "report.pdf", "--more", "1"]);
    assert!(text(&other.stderr).contains("another repair"), "{}", text(&other.stderr));
    place.world().runs = 0;
    let said = place.home.json(&["shard", "repair", "report.pdf"]);
    assert_eq!((said["lost"][0]["number"].as_u64(), said["made"][0]["number"].as_u64()), (Some(0), Some(4)), "{said}");
    assert_eq!(place.world().begun.len(), 2, "it was not begun twice");
    let after: serde_json::Value = serde_json::from_str(&fs::read_to_string(place.home.path("r")).unwrap()).unwrap();
    assert_eq!(after["shards"]["shards"].as_array().unwrap().len(), 4);
    place.home.good(&["shard", "get", "r", "-o", "copy"]);
    assert!(fs::read(place.home.path("copy")).unwrap() == content());
}

#[test]
fn a_sensitive_upload_leaves_in_equal_sizes_to_several_nodes_and_goes_on_after_a_kill() {
    let place = Place::new(4);
    let words = ["shard", "put", "report.pdf", "--over", "3s", "--each", "50000", "--progress"];
    // Held in the middle of the third upload.
    let mut child = place.home.command(&words).spawn().unwrap();
    place.until(&mut child, |world| world.drops.drops.len() == 2);
    place.world().drops.faults.hold_put = Some(20_000);
    place.until(&mut child, |world| world.drops.faults.hold_put.is_none());
    child.kill().unwrap();
    let first = child.wait_with_output().unwrap();
    let before = text(&first.stdout);
    assert!(before.contains("report.pdf leaves in 7 uploads of 50000 bytes, at random times over 3 s"), "{before}");
    assert!(before.contains("goes on with `bento shard put --resume report.pdf`"), "{before}");
    let list = place.home.good(&["shard", "list"]);
    assert!(list.contains(" of 7 uploads are there; `bento shard put --resume report.pdf` goes on"), "{list}");
    // One of those that were there is lost meanwhile.
    let gone = place.world().drops.drops.iter().find(|(_, drop)| drop.sha256.is_some()).unwrap().0.clone();
    place.world().drops.drops.remove(&gone);

    let again = place.home.run(&["shard", "put", "--resume", "--progress"]);
    assert_eq!(again.status.code(), Some(0), "{}", text(&again.stderr));
    assert!(text(&again.stderr).contains("1 uploads are not where they were left; they leave again"), "{}", text(&again.stderr));
    let said = text(&again.stdout);
    assert!(
        said.contains("On this computer's line there were 9 uploads of 50000 bytes over ") && said.contains(", 2 of them again"),
        "{said}"
    );
    let sizes: Vec<(usize, usize)> = place
        .nodes
        .iter()
        .map(|node| {
            let asked = node.asked.lock().unwrap();
            let bodies: Vec<usize> =
                asked.iter().filter(|asked| asked.line == "POST /v1/invoke/drop").map(|asked| asked.body.len()).collect();
            assert!(bodies.iter().all(|size| *size == 50_000), "{bodies:?}");
            let installs = asked.iter().filter(|asked| asked.line == "POST /v1/functions").count();
            (bodies.len(), installs)
        })
        .collect();
    assert_eq!(sizes.iter().map(|(uploads, _)| uploads).sum::<usize>(), 9);
    assert!(sizes.iter().filter(|(uploads, _)| *uploads > 0).count() >= 3, "{sizes:?}");
    place.home.good(&["shard", "get", "report.pdf", "-o", "copy"]);
    assert!(fs::read(place.home.path("copy")).unwrap() == content());
    let json = place.home.json(&["shard", "put", "report.pdf", "--over", "1s", "--each", "100000"]);
    assert_eq!((json["seen"]["uploads"].as_u64(), json["seen"]["each"].as_u64()), (Some(4), Some(100_000)), "{json}");
}

#[test]
fn a_node_that_takes_no_uploads_is_left_out() {
    let mut place = Place::new(5);
    // One of them is gone when it begins; another takes its place.
    let words = ["shard", "put", "report.pdf", "--over", "2s", "--each", "50000", "--need", "1", "--of", "2", "--progress"];
    let mut child = place.home.command(&words).spawn().unwrap();
    place.until(&mut child, |world| !world.drops.drops.is_empty());
    let busy = place.nodes.iter().position(|node| node.asked.lock().unwrap().iter().any(|asked| asked.line == "POST /v1/invoke/drop"));
    drop(place.nodes.remove(busy.unwrap()));
    let output = child.wait_with_output().unwrap();
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let said = text(&output.stderr);
    assert!(said.contains("an upload did not get there: nothing answers") || said.contains("are not where they were left"), "{said}");
    place.home.good(&["shard", "get", "report.pdf", "-o", "copy", "--wait", "5s"]);
    assert!(fs::read(place.home.path("copy")).unwrap() == content());
}

#[test]
fn rm_tells_what_it_could_not_end_and_keeps_it_until_it_is_forgotten() {
    let mut place = Place::new(4);
    place.home.good(&["shard", "put", "report.pdf"]);
    place.nodes.pop();
    let left = place.home.run(&["shard", "rm", "report.pdf"]);
    assert_eq!(left.status.code(), Some(6), "{}", text(&left.stderr));
    assert!(text(&left.stdout).contains("shard 3 at n4 is left: nothing answers") && !place.kept("report.pdf").is_empty());
    let renewed = place.home.run(&["shard", "renew", "report.pdf"]);
    assert!(
        renewed.status.code() == Some(0) && text(&renewed.stdout).contains("shard 3  n4  nothing answers"),
        "{}",
        text(&renewed.stdout)
    );
    place.home.good(&["shard", "rm", "report.pdf", "--forget"]);
    assert_eq!(place.left(), Vec::<String>::new());
}
