//! The same attacks once more as an ordinary user, where this one is root.

use std::{os::unix::fs::PermissionsExt, path::Path, process::Command};

use crate::support::program;

#[test]
fn everything_holds_for_an_ordinary_user_as_well() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this user is not root, so all the other tests were as an ordinary user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    std::fs::set_permissions(directory.path(), std::fs::Permissions::from_mode(0o755)).unwrap();
    let copy = |from: &Path, name: &str| {
        // The build directory may be readable by root alone.
        let to = directory.path().join(name);
        std::fs::copy(from, &to).unwrap();
        to
    };
    let bentod = copy(&program(), "bentod");
    copy(&program().with_file_name("bento-jail"), "bento-jail");
    let tests = copy(&std::env::current_exe().unwrap(), "tests");
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(tests)
        .args(["escapes::", "--skip", "ordinary::", "--test-threads", "2"])
        .env("BENTOD_PROGRAM", bentod)
        .current_dir("/")
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            assert!(text.contains("test result: ok") && !text.contains("ok. 0 passed"), "{text}");
        }
        Err(error) => println!("skipped: cannot become an ordinary user: {error}"),
    }
}
