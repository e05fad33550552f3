//! The same tests once more as an ordinary user, where this one is root. Used by each test binary of this crate.

use std::os::unix::fs::PermissionsExt;
use std::process::Command;

use crate::start::program;

#[test]
fn everything_holds_for_an_ordinary_user_as_well() {
    if !rustix::process::geteuid().is_root() {
        println!("skipped: this user is not root, so all the other tests were as an ordinary user");
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let readable = || std::fs::Permissions::from_mode(0o755);
    std::fs::set_permissions(directory.path(), readable()).unwrap();
    // The build directory may be readable by root alone.
    let (tests, jail) = (directory.path().join("tests"), directory.path().join("bento-jail"));
    std::fs::copy(std::env::current_exe().unwrap(), &tests).unwrap();
    std::fs::copy(program(), &jail).unwrap();
    let output = Command::new("setpriv")
        .args(["--reuid", "65534", "--regid", "65534", "--clear-groups", "--"])
        .arg(&tests)
        .args(["--skip", "ordinary::", "--test-threads", "2"])
        .env("BENTO_JAIL_PROGRAM", &jail)
        .current_dir("/")
        .output();
    match output {
        Ok(output) => {
            let text = String::from_utf8_lossy(&output.stdout);
            assert!(output.status.success(), "{text}{}", String::from_utf8_lossy(&output.stderr));
            assert!(text.contains("test result: ok"), "{text}");
        }
        Err(error) => println!("skipped: cannot become an ordinary user: {error}"),
    }
}
