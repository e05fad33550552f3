//! The shipped configuration is one that a conclave takes, and what a conclave must not have is refused with a reason.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use bento_conclave::Attested;

fn shipped() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging/conclave/conclave.toml")
}

/// A configuration with these lines more, and such a policy.
fn read(more: &str, policy: &str) -> Result<[u8; 32], String> {
    let directory = tempfile::tempdir().unwrap();
    let path = directory.path().join("conclave.toml");
    fs::write(&path, format!("name = \"n\"\nstate = \"s\"\n{more}\n")).unwrap();
    fs::write(directory.path().join("policy.toml"), format!("[offers]\n{policy}\n")).unwrap();
    Attested::read(&path).map(|attested| attested.digest).map_err(|error| error.to_string())
}

#[test]
fn the_shipped_configuration_is_taken_and_its_digest_is_what_the_program_prints() {
    let digest = Attested::read(&shipped()).unwrap().digest;
    let printed = Command::new(env!("CARGO_BIN_EXE_bento-conclave")).arg("configuration").arg("--config").arg(shipped()).output().unwrap();
    assert_eq!(String::from_utf8(printed.stdout).unwrap().trim(), data_encoding::HEXLOWER.encode(&digest));
}

#[test]
fn what_a_conclave_has_not_and_cannot_keep_is_refused() {
    assert!(read("", "").is_ok() && read("", "egress = [\"direct\"]\ncalls = [\"net.connect\"]").is_ok());
    for (more, policy, says) in [
        ("listen = \"127.0.0.1:0\"", "", "listen"),
        ("[tor]\noff = true\n", "", "[tor]"),
        ("[relay]\ncontrol = \"127.0.0.1:9051\"", "", "[relay]"),
        ("nameservers = [\"127.0.0.1:53\"]", "", "nameservers"),
        ("[conclave]\ndirectory = \"d\"", "", "[conclave]"),
        ("", "keep_awake = true", "keep_awake"),
        ("", "calls = [\"tor.*\"]", "tor.*"),
        ("", "calls = [\"tor.circuits\"]", "tor.circuits"),
        ("", "calls = [\"*\"]", "`*`"),
        ("colour = \"red\"", "", "colour"),
    ] {
        let error = read(more, policy).unwrap_err();
        assert!(error.contains(says), "{more}{policy}: {error}");
    }
}

#[test]
fn each_letter_of_both_files_counts_and_neither_can_lend_the_other_one() {
    let all = [read("", "").unwrap(), read("# more", "").unwrap(), read("", "# more").unwrap(), read("", "egress = [\"direct\"]").unwrap()];
    assert_eq!(all.iter().collect::<std::collections::BTreeSet<_>>().len(), all.len());
    assert_eq!(read("", "").unwrap(), all[0]);
}

#[test]
fn without_hardware_it_does_not_start_and_falls_back_to_nothing() {
    if Path::new("/sys/kernel/config/tsm/report").exists() || Path::new("/dev/attestation").exists() {
        return;
    }
    let directory = tempfile::tempdir().unwrap();
    let run = Command::new(env!("CARGO_BIN_EXE_bento-conclave"))
        .args(["run", "--config"])
        .arg(shipped())
        .arg("--directory")
        .arg(directory.path())
        .output()
        .unwrap();
    let said = String::from_utf8(run.stderr).unwrap();
    assert!(!run.status.success() && said.contains("there is no hardware that attests"), "{said}");
    assert_eq!(fs::read_dir(directory.path()).unwrap().count(), 0);
}
