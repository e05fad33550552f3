//! What is refused before anything runs, and why.

use crate::support::{Installed, ask, bundle, run, shared};

#[tokio::test]
async fn what_the_policy_does_not_offer_is_refused_with_its_line() {
    let code = "def hello(api):\n    api.output.write(b'x')\n";
    for (needs, key, within) in [
        ("memory = '257 MiB'", "memory", "memory = '256 MiB'"),
        ("scratch = '17 MiB'", "scratch", "scratch = '16 MiB'"),
        ("cpu = '21 s'", "cpu", "cpu = '20 s'"),
        ("traffic = '65 MiB'", "traffic", "traffic = '64 MiB'"),
        ("lifetime = '601 s'", "lifetime", "lifetime = '600 s'"),
        ("processes = 33", "processes", "processes = 32"),
        ("descriptors = 257", "descriptors", "descriptors = 256"),
        ("invocations = 9", "invocations", "invocations = 8"),
        ("image = 'web'", "image", "image = 'python3'"),
        ("egress = 'tor'\nconnect = ['accept *:80']", "egress", "egress = 'direct'\nconnect = ['accept *:80']"),
        ("connect = ['accept *:443']", "connect", "connect = ['accept *:80']"),
        ("connect = ['accept 127.0.0.2:80']", "connect", "connect = ['accept 127.0.0.1:80']"),
    ] {
        let refused = run(shared(), needs, code, "hello", b"").await;
        assert_eq!((refused.status.as_u16(), refused.code().as_str()), (403, "not-offered"), "{needs}");
        let line = refused.problem().line.unwrap();
        assert_eq!(line.key, key, "{needs}");
        assert_eq!(run(shared(), within, code, "hello", b"").await.body, "x", "{within}");
    }
}

#[tokio::test]
async fn bundles_that_are_none_are_refused() {
    let good = bundle("", "def hello(api):\n    api.output.write(b'x')\n");
    let install = async |archive: Vec<u8>| Installed::new(shared()).install(archive).await;
    let renamed = |from: &str, to: &str| {
        let mut archive = good.clone();
        let at = archive.windows(from.len()).position(|window| window == from.as_bytes()).unwrap();
        archive[at..at + to.len()].copy_from_slice(to.as_bytes());
        // The checksum of the header that the name begins (POSIX ustar).
        archive[at + 148..at + 156].fill(b' ');
        let sum: u32 = archive[at..at + 512].iter().map(|byte| u32::from(*byte)).sum();
        archive[at + 148..at + 156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        archive
    };
    let mut link = renamed("function.py", "function.py");
    let at = link.windows(11).position(|window| window == b"function.py").unwrap();
    link[at + 156] = b'2';
    for (archive, says) in [
        (Vec::new(), "manifest.toml"),
        (b"garbage".repeat(1000), "archive"),
        (good[..good.len() / 3].to_vec(), ""),
        (renamed("function.py", "../tion.py."), "../tion.py"),
        (renamed("function.py", "/unction.py"), "/unction.py"),
        (link, ""),
        (bundle("colour = 'red'", "def hello(api): pass\n"), "colour"),
        (bundle("memory = 'much'", "def hello(api): pass\n"), "much"),
    ] {
        let answer = install(archive).await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "bad-bundle"));
        assert!(answer.problem().detail.contains(says), "{says}: {}", answer.problem().detail);
    }
    let long = install(vec![0; (1 << 20) + 1]).await;
    assert_eq!((long.status.as_u16(), long.code().as_str()), (413, "too-long"));
    assert_eq!(install(good).await.status, 201);
}

#[tokio::test]
async fn code_that_cannot_be_loaded_is_told_with_its_traceback() {
    for (code, says) in [
        ("def hello(api): pass\nnonsense nonsense\n", "SyntaxError"),
        ("def hello(api): pass\nimport no_such_module\n", "ModuleNotFoundError"),
        ("def hello(api): pass\nraise ValueError('at import')\n", "at import"),
        ("def hello(api): pass\ndel hello\n", "hello"),
        ("def hello(api): pass\nimport os\nos._exit(7)\n", "status 7"),
        ("def hello(api): pass\nimport os\nos.write(3, b'garbage')\nos.read(3, 1)\n", "frame"),
    ] {
        let answer = run(shared(), "", code, "hello", b"").await;
        assert_eq!((answer.status.as_u16(), answer.code().as_str()), (422, "unloadable"), "{code}");
        assert!(answer.problem().detail.contains(says), "{code}: {}", answer.problem().detail);
    }
    let memory = run(shared(), "memory = '64 MiB'", "def hello(api): pass\nx = bytearray(1 << 30)\n", "hello", b"").await;
    assert_eq!(memory.status, 422);
}

#[tokio::test]
async fn requests_that_lie_or_are_too_long_are_refused() {
    let archive = bundle("", "def hello(api):\n    api.output.write(b'x')\n");
    let length = archive.len().to_string();
    let run = async |length: &str, arguments: &str, body: Vec<u8>| {
        ask(shared(), "POST", "/v1/run/hello", &[("bento-bundle-length", length), ("bento-arguments", arguments)], body).await
    };
    assert_eq!(run(&length, "{}", archive.clone()).await.body, "x");
    assert_eq!(run("99999999999", "{}", archive.clone()).await.code(), "too-long");
    assert_eq!(run("-1", "{}", archive.clone()).await.code(), "bad-request");
    assert_eq!(run(&(archive.len() + 1).to_string(), "{}", archive.clone()).await.code(), "bad-request");
    assert_eq!(run("10", "{}", archive.clone()).await.code(), "bad-bundle");
    assert_eq!(run(&length, "{", archive.clone()).await.code(), "bad-request");
    assert_eq!(run(&length, &format!("{{\"a\": \"{}\"}}", "x".repeat(17_000)), archive.clone()).await.code(), "too-long");
    // A head beyond all bounds does not even become a request.
    assert_eq!(run(&length, &"x".repeat(100_000), archive).await.status, 431);
    let no_digest = ask(shared(), "POST", "/v1/functions", &[("bento-invocation-digest", "zz")], "").await;
    assert_eq!(no_digest.status, 401);
    assert_eq!(ask(shared(), "GET", "/v1/nothing", &[], "").await.code(), "not-found");
    assert_eq!(ask(shared(), "PUT", "/v1/functions", &[], "").await.code(), "method");
}
