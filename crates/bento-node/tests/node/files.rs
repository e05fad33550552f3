//! The operator's files and commands.

use std::process::Command;

use crate::support::{POLICY, ask, shared};

fn check(config: &str, policy: &str) -> (bool, String) {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bentod.toml"), config).unwrap();
    std::fs::write(directory.path().join("policy.toml"), policy).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_bentod")).args(["check", "--config"]).arg(directory.path().join("bentod.toml")).output().unwrap();
    (output.status.success(), format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr)))
}

const CONFIG: &str = "name = \"Test\"\nstate = \"state\"\nlisten = \"127.0.0.1:0\"\n[tor]\noff = true\n";

#[test]
fn check_says_what_this_machine_enforces() {
    let (good, said) = check(CONFIG, POLICY);
    assert!(good, "{said}");
    for wall in ["namespaces", "mounts", "landlock", "seccomp", "limits"] {
        assert!(said.contains(&format!("stands {wall}")), "{wall}: {said}");
    }
    assert!(!said.contains("FAILS"));
}

#[test]
fn wrong_files_are_refused_with_line_and_reason() {
    for (config, policy, says) in [
        (CONFIG.replace("listen", "lissen"), POLICY.to_owned(), vec!["line 3", "lissen"]),
        (CONFIG.replace("127.0.0.1:0", "0.0.0.0:80"), POLICY.to_owned(), vec!["loopback"]),
        (CONFIG.replace("off = true", "control = \"127.0.0.1:9051\""), POLICY.to_owned(), vec!["socks"]),
        (format!("{CONFIG}[limits]\nsessions = 0\n"), POLICY.to_owned(), vec!["limits.sessions"]),
        (format!("{CONFIG}[limits]\nsessions = 9223372036854775807\n"), POLICY.to_owned(), vec!["limits.sessions"]),
        (format!("{CONFIG}[images.python3]\npackages = [\"no_such_package\"]\n"), POLICY.to_owned(), vec!["no_such_package"]),
        (CONFIG.to_owned(), POLICY.replace("memory", "memmory"), vec!["line 5", "memmory"]),
        (CONFIG.to_owned(), POLICY.replace("256 MiB", "256 MB"), vec!["line 5", "256 MB"]),
        (CONFIG.to_owned(), POLICY.replace("accept *:80", "allow *:80"), vec!["line 10", "allow *:80"]),
        (CONFIG.to_owned(), POLICY.replace("python3", "web"), vec!["web", "python3"]),
        (CONFIG.to_owned(), POLICY.replace("\"direct\"", "\"tor\""), vec!["egress"]),
    ] {
        let (good, said) = check(&config, &policy);
        assert!(!good && said.contains("Error: ") && said.contains("Hint: "), "{said}");
        for word in says {
            assert!(said.contains(word), "{word}: {said}");
        }
    }
}

#[tokio::test]
async fn the_page_says_in_words_what_is_offered_and_runs_no_script() {
    let answer = ask(shared(), "GET", "/", &[], "").await;
    let text = String::from_utf8(answer.body.to_vec()).unwrap();
    for words in ["Bento node", "256 MiB", "accept 127.0.0.1/32:*", "standard library"] {
        assert!(text.contains(words), "{words}");
    }
    assert!(!text.contains("<script") && answer.headers["content-security-policy"].to_str().unwrap().contains("default-src 'none'"));
}
