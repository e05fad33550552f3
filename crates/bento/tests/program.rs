//! The program `bento` from outside: what it prints, where, and its exit status. Each transcript is compared with a file in `golden/`;
//! `BENTO_GOLDEN=write cargo test -p bento --test program` writes them anew, to be looked at with `git diff`.
#![cfg(test)]

mod fake;

use std::{
    fs,
    io::Write as _,
    os::unix::fs::PermissionsExt as _,
    path::PathBuf,
    process::{Command, Output, Stdio},
    time::{Duration, Instant},
};

use bento_proto::{Problem, Size};
use fake::{Act, Asked, FakeNode, good, json, pad, page, problem, streamed, whole};

/// Asks for more than the node has in several lines.
const GREEDY: &str = "[needs]\nimage = \"data\"\nshare = \"400 %\"\nrate = \"1 GiB/s\"\ncalls = [\"net.connect\"]\negress = \"direct\"\nconnect = [\"accept *:22\", \"accept *:443\"]\nsyscalls = [\"default\", \"+getcpu\"]\n";

/// A person's home, with a function in it, and a node.
struct Home {
    directory: tempfile::TempDir,
    node: FakeNode,
    runtime: tokio::runtime::Runtime,
    transcript: String,
}

impl Home {
    fn new(script: impl Fn(&Asked) -> Vec<Act> + Send + Sync + 'static) -> Self {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build().unwrap();
        let node = runtime.block_on(FakeNode::start(script));
        let directory = tempfile::tempdir().unwrap();
        for (name, method, needs) in
            [("hello", "hello", ""), ("echo", "echo", ""), ("large", "hello", "[needs]\nmemory = \"4 GiB\"\n"), ("greedy", "hello", GREEDY)]
        {
            let function = directory.path().join(name);
            fs::create_dir(&function).unwrap();
            let manifest = format!("name = \"{name}\"\nmethods = [\"{method}\"]\n{needs}");
            fs::write(function.join("manifest.toml"), manifest).unwrap();
            fs::write(function.join("function.py"), "").unwrap();
        }
        Self { directory, node, runtime, transcript: String::new() }
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.path().join(name)
    }

    fn command(&self, line: &str) -> Command {
        let mut command = Command::new(env!("CARGO_BIN_EXE_bento"));
        command.current_dir(self.directory.path()).env_clear().env("HOME", self.directory.path()).env("COLUMNS", "100");
        // Not split at spaces within single quotes.
        let address = self.node.address.to_string();
        for (index, part) in line.split('\'').enumerate() {
            if index % 2 == 1 {
                command.arg(part);
            } else {
                command.args(part.split_whitespace().map(|word| word.replace("NODE", &address)));
            }
        }
        command
    }

    fn run(&self, line: &str) -> Output {
        let begin = Instant::now();
        let output = self.command(line).stdin(Stdio::null()).output().unwrap();
        assert!(begin.elapsed() < Duration::from_secs(20), "{line} took very long");
        output
    }

    /// Runs a command and writes down what was seen.
    fn see(&mut self, line: &str) -> Output {
        let output = self.run(line);
        let clean = |bytes: &[u8]| {
            let text = String::from_utf8(bytes.to_vec()).unwrap();
            assert!(!text.contains(|letter: char| letter.is_control() && letter != '\n'), "{line}: {text:?}");
            text.replace(&self.node.address.to_string(), "NODE").replace(&self.directory.path().display().to_string(), "HOME")
        };
        let mut seen = format!("$ bento {line}\n{}", clean(&output.stdout));
        for line in clean(&output.stderr).lines() {
            seen.push_str(&format!("! {line}\n"));
        }
        seen.push_str(&format!("= {}\n\n", output.status.code().unwrap()));
        self.transcript.push_str(&seen);
        output
    }

    fn compare(&self, name: &str) {
        fake::home::compare(name, &self.transcript);
    }
}

fn stdout(output: &Output) -> String {
    String::from_utf8(output.stdout.clone()).unwrap()
}

fn stderr(output: &Output) -> String {
    String::from_utf8(output.stderr.clone()).unwrap()
}

#[test]
fn the_help_of_every_command() {
    let mut home = Home::new(good);
    home.see("");
    home.see("--help");
    let balance = ["balance", "balance up", "balance status", "balance down"];
    let cover = ["cover", "cover run", "cover send", "cover status"];
    let dropbox = ["dropbox", "dropbox put", "dropbox get", "dropbox list", "dropbox rm"];
    let shard = ["put", "get", "repair", "check", "renew", "list", "rm"].map(|command| format!("shard {command}"));
    let shard = std::iter::once("shard").chain(shard.iter().map(String::as_str));
    for command in ["nodes", "verify", "policy", "install", "invoke", "output", "renew", "run", "status", "shutdown", "browse"]
        .into_iter()
        .chain(cover)
        .chain(dropbox)
        .chain(shard)
        .chain(balance)
    {
        home.see(&format!("{command} --help"));
    }
    home.compare("help.txt");
}

#[test]
fn a_bad_command_line_says_what_and_what_next() {
    let mut home = Home::new(good);
    let wrong = "name = \"wrong\"\nmethods = [\"hello\"]\n[needs]\nsyscalls = [\n  \"default\",\n  \"+frobnicate\",\n]\n";
    fs::write(home.path("wrong.toml"), wrong).unwrap();
    for line in [
        "brose example.org",
        "browse",
        "browse ftp://site.example",
        "browse site.example --bucket 1 --node NODE",
        "browse site.example --bucket many",
        "browse site.example --sizes 100,200 --node NODE",
        "browse site.example --bucket 1000 --sizes 20000",
        "browse site.example --json -o -",
        "browse site.example",
        "browse site.example --cover",
        "browse site.example --cover 'Not A Name'",
        "browse site.example --cover --node NODE",
        "cover run NODE --rate 50",
        "cover run NODE --rate 10MiB/s",
        "cover run NODE --for 10s",
        "cover run NODE --ramp 20min",
        "cover run NODE --low-data --rate 4KiB/s",
        "cover run NODE --name 'Not A Name'",
        "cover send NODE --circuits 101",
        "cover send NODE --frames 0",
        "cover send NODE --machine 02e --shape poisson",
        "cover send NODE --sink NODE --to 192.0.2.7:9000",
        "dropbox put nowhere --node NODE",
        "dropbox put hello --node NODE",
        "dropbox put hello/function.py --at dropbox",
        "dropbox put hello/function.py --pad 0",
        "dropbox put hello/function.py --plain --pad 10",
        "dropbox put hello/function.py --to age1nobody",
        "dropbox put hello/function.py --gets 0",
        "dropbox put hello/function.py --expires soon",
        "dropbox get report.pdf",
        "dropbox get dropbox/abcd",
        "dropbox get http://example.org/l/abc",
        "dropbox get http://NODE/v1/node",
        "dropbox get http://NODE/l/abc#k=short",
        "dropbox get http://NODE/l/abc#e=age",
        "dropbox get http://NODE/l/abc --identity hello/manifest.toml",
        "dropbox get http://NODE/l/abc#n=hello",
        "dropbox get http://NODE/l/abc --json -o -",
        "dropbox list dropbox",
        "dropbox rm abc",
        "dropbox rm abcd",
        "shard put",
        "shard put nowhere",
        "shard put hello",
        "shard put hello/function.py --need 3 --of 2",
        "shard put hello/function.py --of 200",
        "shard put hello/function.py --mode raid",
        "shard put hello/function.py --pad 0",
        "shard put hello/function.py --over 6h --pad 10",
        "shard put hello/function.py --over soon",
        "shard put hello/function.py --each 100000",
        "shard put hello/function.py --over 6h --each 10",
        "shard put hello/function.py --over 6h --resume",
        "shard put hello/function.py --recipe hello",
        "shard put hello/function.py --recipe nowhere/recipe",
        "shard put hello/function.py",
        "shard put --resume",
        "shard put --resume nowhere",
        "shard get nowhere",
        "shard get ./nowhere",
        "shard get hello/manifest.toml",
        "shard repair nowhere",
        "shard check nowhere",
        "shard renew nowhere",
        "shard rm nowhere",
        "nodes add Anna NODE",
        "nodes add anna example.org",
        "nodes add anna pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryc.onion",
        "nodes add anna pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf5pscryd.onion",
        "nodes add anna expyuzz4wqqyqhjn.onion",
        "nodes remove anna",
        "nodes --fit hello",
        "policy anna",
        "policy 192.0.2.1:80",
        "policy NODE --explain nowhere",
        "policy NODE --explain wrong.toml",
        "install NODE nowhere",
        "install NODE .",
        "install NODE hello --name Hello",
        "invoke hello hello",
        "run NODE hello goodbye",
        "run NODE hello hello name",
        "run NODE hello hello name=1 name=2",
        "run NODE hello hello --arguments [1]",
        "run NODE hello hello --input nowhere",
        "run NODE hello hello --output nowhere/out",
        "run NODE hello hello --output hello",
        "run NODE hello hello --json",
        "run NODE hello hello --socks",
        "run pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion hello hello --socks localhost:9050",
        "run NODE hello hello --wait soon",
    ] {
        let output = home.see(line);
        assert_eq!(output.status.code(), Some(2), "{line}");
        assert!(output.stdout.is_empty(), "{line}");
        let text = stderr(&output);
        let lines: Vec<&str> = text.lines().collect();
        assert!(matches!(lines.as_slice(), [error, hint] if error.starts_with("Error: ") && hint.starts_with("Hint: ")), "{line}: {text}");
    }
    home.compare("bad-input.txt");
}

#[test]
fn a_function_from_install_to_shutdown() {
    let mut home = Home::new(good);
    for line in [
        "nodes",
        "nodes add here NODE",
        "nodes add here NODE",
        "nodes add there 127.0.0.1:1",
        "nodes",
        "nodes --json",
        "nodes --fit hello",
        "nodes --fit large",
        "nodes --fit large --json",
        "policy here",
        "policy here --explain large",
        "policy here --explain large/manifest.toml --json",
        "policy here --explain greedy/manifest.toml",
        "policy here --json --explain hello",
        "status",
        "install here hello",
        "install here hello",
        "install here hello --name hello",
        "invoke hello hello name=Ada",
        "invoke hello hello --output out.txt",
        "invoke hello hello --output out.txt",
        "invoke hello hello --output out.txt --force --json",
        "invoke hello goodbye",
        "run here hello hello",
        "run there hello hello",
        "status",
        "status hello",
        "status hello --json",
        "shutdown hello",
        "shutdown hello-2 --forget --json",
        "shutdown hello",
        "status --json",
        "nodes remove there",
        "nodes remove there",
        "nodes",
    ] {
        home.see(line);
    }
    home.compare("life.txt");
    assert_eq!(fs::read(home.path("out.txt")).unwrap(), b"Hello, world!\n");
}

#[test]
fn each_no_has_its_exit_status() {
    let mut home = Home::new(|asked: &Asked| {
        let arguments = asked.header("bento-arguments").unwrap_or_default();
        let Some(case) = arguments.split('"').nth(3) else { return good(asked) };
        let refusal = |code, status, detail: &str| Problem::new(code, status, detail);
        match case {
            "busy" => problem(&refusal("busy", 429, "the node has as many functions as it takes (50); try again later, or elsewhere")),
            "escape" => problem(&refusal("busy", 429, "no\u{1b}[2J\u{1b}]0;owned\u{7}\nError: all is well")),
            "unloadable" => problem(&Problem {
                traceback: Some("Traceback\n  File \"hello.py\", line 1\nNameError".into()),
                ..refusal("unloadable", 422, "the function cannot be loaded: NameError")
            }),
            "trouble" => problem(&refusal("trouble", 500, "the node failed")),
            "failed" => {
                streamed(&[b"some"], r#"{"outcome":"failed","error":"ValueError: no","traceback":"Traceback\n  ValueError: no\n"}"#)
            }
            "killed" => streamed(&[b"some"], r#"{"outcome":"killed","bound":"memory"}"#),
            "cut" => vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec())],
            "stall" => vec![Act::Send(b"HTTP/1.1 200 OK\r\nContent-Length: 10\r\n\r\nhalf".to_vec()), Act::Hold],
            "garbage" => vec![Act::Send(b"\0\x01\x02\r\n\r\n".to_vec())],
            _ => good(asked),
        }
    });
    for (case, status) in [
        ("fine", 0),
        ("busy", 3),
        ("escape", 3),
        ("unloadable", 3),
        ("trouble", 6),
        ("failed", 1),
        ("killed", 1),
        ("cut", 6),
        ("stall", 6),
        ("garbage", 6),
    ] {
        let output = home.see(&format!("run NODE hello hello case={case} --output out --force --wait '500 ms'"));
        assert_eq!(output.status.code(), Some(status), "{case}");
        assert_eq!(home.path("out").exists(), status == 0, "{case}");
        let _ = fs::remove_file(home.path("out"));
    }
    home.see("run NODE hello hello case=failed --output out --json");
    home.see("run NODE hello hello case=killed --output out --json");
    let onion = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
    let output = home.see(&format!("run {onion} hello hello --socks unix:/nowhere/socks"));
    assert_eq!(output.status.code(), Some(5));
    home.compare("statuses.txt");
    let left: Vec<_> = fs::read_dir(home.directory.path()).unwrap().map(|entry| entry.unwrap().file_name()).collect();
    assert!(left.iter().all(|name| !name.to_string_lossy().starts_with(".bento")), "{left:?}");
}

#[test]
fn a_page_is_fetched_and_written_once() {
    let mut home = Home::new(good);
    fs::write(home.path("taken.html"), "mine").unwrap();
    for line in [
        "nodes add small 127.0.0.1:1",
        "nodes add wide NODE",
        "browse site.example --progress",
        "browse site.example --node wide --json",
        "browse https://site.example/a -o taken.html --node wide",
        "browse site.example --node NODE --warc site.warc -o -",
        "browse site.example --node wide --sizes 20000,40000",
        "browse site.example --function large --node wide",
    ] {
        home.see(line);
    }
    home.compare("browse.txt");
    assert_eq!(fs::read(home.path("site.example.html")).unwrap(), b"<p>Hi");
    assert_eq!(fs::read(home.path("site.example-2.html")).unwrap(), b"<p>Hi");
    assert_eq!(fs::read(home.path("site.warc")).unwrap(), b"WARC/1.1");
    assert_eq!(fs::read(home.path("taken.html")).unwrap(), b"mine");
    // What a new file has, and no more: the person's umask decides.
    let mode = fs::metadata(home.path("site.example.html")).unwrap().permissions().mode();
    let usual = fs::metadata(home.path("taken.html")).unwrap().permissions().mode();
    assert_eq!(mode, usual);
}

#[test]
fn a_page_that_does_not_come_leaves_no_file() {
    let header =
        serde_json::json!({"outcome": "error", "error": "no such\u{1b}[2J host", "url": "https://site.example", "html": 0, "warc": 0});
    let mut home = Home::new(move |asked: &Asked| match asked.header("bento-arguments") {
        Some(arguments) if arguments.contains("stall") => {
            let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nbentopad".to_vec();
            vec![Act::Send(begun), Act::Hold]
        }
        Some(arguments) if arguments.contains("lie") => whole(&pad(&page("<p>Hi", ""), 2_000_000)),
        Some(_) => whole(&pad(format!("{header}\n").as_bytes(), 1_000_000)),
        None => {
            let mut told = fake::description();
            told.policy.offers.memory = Size::mib(1);
            json("200 OK", &told)
        }
    });
    home.see("browse site.example --node NODE");
    home.see("browse site.example --node NODE --json");
    home.see("browse lie.example --node NODE");
    home.see("browse stall.example --node NODE --wait '300 ms'");
    home.see("nodes add here NODE");
    home.see("browse site.example --progress");
    home.compare("no-page.txt");
    assert!(!home.path("site.example.html").exists() && !home.path("lie.example.html").exists());
}

#[test]
fn tokens_are_kept_before_they_are_sent_and_shown_only_when_asked_for() {
    // The node takes the function, and its answer is lost the first time.
    let lost = std::sync::atomic::AtomicBool::new(false);
    let home = Home::new(move |asked: &Asked| {
        let is_install = asked.line == "POST /v1/functions" && !asked.body.is_empty();
        if is_install && !lost.swap(true, std::sync::atomic::Ordering::SeqCst) { vec![] } else { good(asked) }
    });
    let output = home.run("install NODE hello");
    assert_eq!(output.status.code(), Some(6));
    assert!(stderr(&output).contains("--name hello` asks again with the same tokens"), "{}", stderr(&output));
    let kept = fs::read_to_string(home.path(".local/share/bento/functions.json")).unwrap();
    let first = home.node.last().header("bento-invocation-digest").unwrap().to_owned();

    let output = home.run("install NODE hello --name hello --show-tokens");
    assert_eq!(output.status.code(), Some(0), "{}", stderr(&output));
    assert_eq!(home.node.last().header("bento-invocation-digest"), Some(first.as_str()));
    let text = stdout(&output);
    let token = text.lines().find(|line| line.starts_with("bento-invoke-")).unwrap();
    assert!(kept.contains(token));
    assert_eq!(token.parse::<bento_proto::InvocationToken>().unwrap().digest().to_string(), first);

    for line in ["install NODE hello", "status", "status hello", "invoke hello hello", "shutdown hello", "status --json"] {
        let output = home.run(line);
        assert_eq!(output.status.code(), Some(0), "{line}: {}", stderr(&output));
        let all = stdout(&output) + &stderr(&output);
        assert!(!all.contains("bento-invoke-") && !all.contains("bento-shutdown-"), "{line}: {all}");
    }
}

#[test]
fn functions_json_is_for_this_person_alone_and_never_written_over_when_damaged() {
    let home = Home::new(good);
    let file = home.path(".local/share/bento/functions.json");
    assert_eq!(home.run("install NODE hello").status.code(), Some(0));
    assert_eq!(fs::metadata(&file).unwrap().permissions().mode() & 0o777, 0o600);

    fs::set_permissions(&file, fs::Permissions::from_mode(0o644)).unwrap();
    let output = home.run("status");
    assert_eq!(output.status.code(), Some(2));
    assert!(stderr(&output).contains("chmod 600"), "{}", stderr(&output));
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();

    let whole = fs::read(&file).unwrap();
    fs::write(&file, &whole[..whole.len() / 2]).unwrap();
    let output = home.run("install NODE hello");
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(fs::read(&file).unwrap(), &whole[..whole.len() / 2]);
    fs::write(&file, whole).unwrap();

    let many: Vec<_> = (0..6).map(|_| home.command("install NODE hello").stdout(Stdio::null()).spawn().unwrap()).collect();
    for mut one in many {
        assert!(one.wait().unwrap().success());
    }
    let told: serde_json::Value = serde_json::from_str(&stdout(&home.run("status --json"))).unwrap();
    let names: Vec<&str> = told["functions"].as_array().unwrap().iter().map(|one| one["name"].as_str().unwrap()).collect();
    assert_eq!(names, ["hello", "hello-2", "hello-3", "hello-4", "hello-5", "hello-6", "hello-7"]);
}

#[test]
fn a_refused_install_leaves_no_tokens() {
    let home = Home::new(|_: &Asked| problem(&Problem::new("busy", 429, "the node has as many functions as it takes")));
    assert_eq!(home.run("install NODE hello").status.code(), Some(3));
    assert_eq!(home.run("install 127.0.0.1:1 hello").status.code(), Some(6));
    assert!(!fs::read_to_string(home.path(".local/share/bento/functions.json")).unwrap().contains("bento-invoke-"));
}

#[test]
fn input_is_streamed_and_output_is_too() {
    let home = Home::new(good);
    let mut child = home.command("run NODE echo echo --input -").stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    let mut input = child.stdin.take().unwrap();
    input.write_all(b"over\x1b[2J and back").unwrap();
    drop(input);
    let output = child.wait_with_output().unwrap();
    // Into a pipe goes what came, byte by byte.
    assert_eq!((output.status.code(), output.stdout.as_slice()), (Some(0), b"over\x1b[2J and back".as_slice()));
    assert!(output.stderr.is_empty());

    fs::write(home.path("input"), vec![7; 3_000_000]).unwrap();
    assert_eq!(home.run("run NODE echo echo --input input --output copy").status.code(), Some(0));
    assert!(fs::read(home.path("copy")).unwrap() == vec![7; 3_000_000]);
}

#[test]
fn what_a_detached_invocation_wrote_before_it_failed_is_no_file_and_stays_until_it_was_seen() {
    const FAILED: &str = r#"{"outcome":"killed","bound":"memory"}"#;
    let home = Home::new(|asked: &Asked| match asked.line.split(['?', ' ']).collect::<Vec<_>>().as_slice() {
        ["POST", "/v1/invoke/hello"] => json("202 Accepted", &serde_json::json!({})),
        ["GET", path, ..] if path.starts_with("/v1/output/") => {
            vec![Act::Send(format!("HTTP/1.1 200 OK\r\nContent-Length: 4\r\nBento-Outcome: {FAILED}\r\n\r\nhalf").into_bytes())]
        }
        ["DELETE", path] if path.starts_with("/v1/output/") => vec![Act::Send(b"HTTP/1.1 204 No Content\r\n\r\n".to_vec())],
        _ => good(asked),
    });
    let ends = || home.node.asked.lock().unwrap().iter().filter(|asked| asked.line.starts_with("DELETE /v1/output/")).count();
    assert_eq!(home.run("install NODE hello").status.code(), Some(0));
    assert_eq!(home.run("invoke hello hello --detach").status.code(), Some(0));
    for _ in 0..2 {
        let told = home.run("output hello -o out");
        let words = String::from_utf8_lossy(&told.stderr).into_owned();
        assert!(
            told.status.code() == Some(1) && words.contains("killed: memory") && words.contains("shows the 4 bytes that it wrote before"),
            "{words}"
        );
        assert!(!home.path("out").exists() && ends() == 0);
    }
    let told = home.run("output hello");
    assert_eq!((told.status.code(), told.stdout.as_slice(), ends()), (Some(1), b"half".as_slice(), 1));
    assert!(stderr(&home.run("output hello")).contains("no output to fetch"));
}

#[test]
fn an_interrupt_ends_it_with_its_status_and_no_half_file() {
    let home = Home::new(|_: &Asked| {
        let begun = b"HTTP/1.1 200 OK\r\nContent-Length: 1000000\r\n\r\nhalf".to_vec();
        vec![Act::Send(begun), Act::Hold]
    });
    for (signal, status) in [("-INT", 130), ("-TERM", 143)] {
        let child = home.command("run NODE hello hello --input - --output out --progress").stdin(Stdio::piped()).spawn();
        let mut child = child.unwrap();
        let _input = child.stdin.take();
        std::thread::sleep(Duration::from_millis(700));
        assert!(Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap().success());
        assert_eq!(child.wait().unwrap().code(), Some(status));
    }
    let names = fs::read_dir(home.directory.path()).unwrap().map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let left: Vec<String> = names.filter(|name| name.starts_with("out") || name.starts_with(".bento")).collect();
    assert!(left.is_empty(), "{left:?}");
    drop(home.runtime);
}
