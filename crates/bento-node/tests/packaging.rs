//! The annotated files in `packaging/` have every key, tell its true default, and are accepted as they are.
#![allow(clippy::unwrap_used, reason = "a test that cannot go on stops")]

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use bento_node::{config::Config, policy};
use bento_proto::{Manifest, Policy, PolicyFile};

/// A key as a file shows it: in which table, with which default, and with which value.
struct Shown {
    table: String,
    key: String,
    default: Option<String>,
    value: String,
}

fn packaging() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../../packaging")
}

fn text(name: &str) -> String {
    std::fs::read_to_string(packaging().join(name)).unwrap()
}

/// Reads the comments of an annotated file.
///
/// ```text
/// # One sentence.
/// # Default: "24 h"
/// #lifetime = "24 h"
/// ```
fn shown(file: &str) -> Vec<Shown> {
    let (mut shown, mut table, mut default, mut described) = (Vec::new(), String::new(), None, false);
    for line in text(file).lines() {
        let setting = line.strip_prefix('#').unwrap_or(line);
        if let Some(told) = line.strip_prefix("# Default: ") {
            default = Some(told.to_owned());
        } else if line.starts_with("# ") {
            described = true;
        } else if let Some(name) = line.strip_prefix('[') {
            table = name.trim_end_matches(']').to_owned();
        } else if let Some((key, value)) = setting.split_once(" = ") {
            // Another image need not explain its keys again.
            if !["images.web", "images.shard", "images.tor"].contains(&table.as_str()) {
                let told = default.take().unwrap_or_else(|| panic!("{file}: {key} has no default"));
                assert!(described, "{file}: {key} has no description");
                let default = Some(told).filter(|told| !told.starts_with("none"));
                shown.push(Shown { table: table.clone(), key: key.to_owned(), default, value: value.to_owned() });
            }
            described = false;
        }
    }
    shown
}

/// The text of a file that says what `choose` gives for each key.
fn written(shown: &[Shown], choose: impl Fn(&Shown) -> Option<String>) -> String {
    let mut tables: BTreeMap<&str, String> = BTreeMap::new();
    for one in shown {
        let lines = tables.entry(&one.table).or_default();
        if let Some(value) = choose(one) {
            *lines += &format!("{} = {value}\n", one.key);
        }
    }
    tables.into_iter().map(|(table, lines)| if table.is_empty() { lines } else { format!("[{table}]\n{lines}") }).collect()
}

/// The keys that a table takes, as the error about an unknown one lists them.
fn keys(table: &str, error: impl Fn(&str) -> String) -> BTreeSet<String> {
    let header = if table.is_empty() { String::new() } else { format!("[{table}]\n") };
    let said = error(&format!("{header}no_such_key = 1\n"));
    let (_, list) = said.split_once(", expected ").unwrap_or_else(|| panic!("{table}: {said}"));
    list.lines().next().unwrap().split('`').skip(1).step_by(2).map(str::to_owned).collect()
}

fn keys_shown(shown: &[Shown], table: &str) -> BTreeSet<String> {
    shown.iter().filter(|one| one.table == table).map(|one| one.key.clone()).collect()
}

/// Reads a configuration from a text.
fn load(config: &str, text: &str) -> Result<(Config, PolicyFile), String> {
    let directory = tempfile::tempdir().unwrap();
    std::fs::write(directory.path().join("bentod.toml"), config).unwrap();
    std::fs::write(directory.path().join("policy.toml"), text).unwrap();
    let config = Config::read(&directory.path().join("bentod.toml")).map_err(|error| error.to_string())?;
    let file = policy::file(&config).map_err(|error| error.to_string())?;
    Ok((config, file))
}

#[test]
fn every_key_of_the_configuration_is_there() {
    let shown = shown("bentod.toml");
    // `images` comes as tables of its own.
    let tables: BTreeSet<String> = ["conclave", "images", "limits", "relay", "tor"].map(str::to_owned).into();
    let mut top = keys_shown(&shown, "");
    top.extend(tables);
    let error = |text: &str| load(text, "[offers]\n").unwrap_err();
    assert_eq!(top, keys("", error));
    for table in ["tor", "relay", "conclave", "limits", "images.python3"] {
        assert_eq!(keys_shown(&shown, table), keys(table, |text| error(&format!("name = \"n\"\nstate = \"s\"\n{text}"))), "{table}");
    }
}

#[test]
fn every_key_of_the_policy_is_there() {
    assert_eq!(keys_shown(&shown("policy.toml"), "offers"), keys("offers", |text| Policy::parse(text).unwrap_err().to_string()));
}

#[test]
fn the_defaults_that_are_told_are_the_true_ones() {
    let told = shown("bentod.toml");
    let needed = |one: &Shown| (one.table.is_empty() && (one.key == "name" || one.key == "state")).then(|| one.value.clone());
    let (with, without) = (written(&told, |one| one.default.clone().or_else(|| needed(one))), written(&told, needed));
    let described = |text: &str| {
        let (mut config, _) = load(text, "[offers]\n").unwrap();
        // The one part that depends on where the file lies.
        config.policy = config.policy.file_name().unwrap().into();
        format!("{config:#?}")
    };
    assert_eq!(described(&with), described(&without));

    let told = shown("policy.toml");
    assert!(told.iter().all(|one| one.default.is_some()));
    assert_eq!(Policy::parse(&written(&told, |one| one.default.clone())), Policy::parse("[offers]\n"));
}

#[test]
fn each_setting_that_is_not_made_could_be_made() {
    let told = shown("bentod.toml");
    // A tor is off, of one's own, or one that runs.
    for without in [vec!["off", "control", "socks"], vec!["off", "program", "lines"], vec!["program", "lines", "control", "socks"]] {
        let choose = |one: &Shown| (one.table != "tor" || !without.contains(&one.key.as_str())).then(|| one.value.clone());
        let config = written(&told, choose);
        load(&config, "[offers]\negress = [\"direct\"]\n").unwrap_or_else(|error| panic!("{config}\n{error}"));
    }
    for one in shown("policy.toml") {
        Policy::parse(&format!("[offers]\n{} = {}\n", one.key, one.value)).unwrap();
    }
}

#[test]
fn the_shipped_files_are_accepted_by_bentod_check() {
    let directory = tempfile::tempdir().unwrap();
    let config = text("bentod.toml").replace("\"/var/lib/bento\"", "\"state\"");
    assert!(config.contains("state = \"state\""));
    std::fs::write(directory.path().join("bentod.toml"), config).unwrap();
    std::fs::write(directory.path().join("policy.toml"), text("policy.toml")).unwrap();
    let output =
        Command::new(env!("CARGO_BIN_EXE_bentod")).args(["check", "--config"]).arg(directory.path().join("bentod.toml")).output().unwrap();
    let (said, error) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    assert!(output.status.success(), "{said}{error}");
    for line in ["image          web: ", "tor            /", "wall           stands landlock", "memory = \"512 MiB\""] {
        assert!(said.contains(line), "{line}: {said}");
    }
    assert!(!said.contains("FAILS"), "{said}");
    // Checking leaves nothing behind.
    assert!(!directory.path().join("state").exists());
}

#[test]
fn the_shipped_policy_admits_the_standard_functions() {
    let policy = Policy::parse(&text("policy.toml")).unwrap();
    let mut count = 0;
    for entry in std::fs::read_dir(packaging().join("../functions")).unwrap() {
        let path = entry.unwrap().path().join("manifest.toml");
        if let Ok(manifest) = std::fs::read_to_string(&path) {
            let manifest = Manifest::parse(&manifest).unwrap();
            // An operator has to open Tor to functions: the shipped policy does not.
            if ["cover", "load-balancer"].contains(&manifest.name.as_str()) {
                assert!(policy.admit(&manifest).is_err());
                continue;
            }
            policy.admit(&manifest).unwrap_or_else(|refusal| panic!("{}: {refusal}", manifest.name));
            count += 1;
        }
    }
    assert!(count >= 3);
}

#[test]
fn the_shipped_policy_takes_files_as_large_as_it_says_and_the_default_one_smaller_ones() {
    use bento::{Dropbox, Load, Mode, Split, Standard, with_room};

    let day = bento_proto::Span::seconds(24 * 3600);
    let drop = |size| vec![with_room(Standard::Dropbox.bundle().unwrap(), Dropbox::room_for(size, None, day.duration())).unwrap()];
    let shards = |size| {
        let split = Split { need: 2, of: 4, mode: Mode::Rs };
        let load = Load { size, split, keep: day, made: 4, installs: 4 };
        let repair = Load { made: 2, installs: 2, ..load }.repair_bundle(false).unwrap();
        let shard = load.shard_bundle().unwrap();
        vec![load.shelf_bundle(&shard).unwrap(), shard, repair]
    };
    let usual = Policy::parse("[offers]\nimage = [\"python3\", \"shard\"]\n").unwrap();
    for (policy, megabytes) in [(Policy::parse(&text("policy.toml")).unwrap(), 250), (usual, 60)] {
        let takes = |bundles: Vec<bento_proto::bundle::Bundle>| bundles.iter().all(|bundle| policy.admit(&bundle.manifest).is_ok());
        let (size, more) = (megabytes * 1_000_000, megabytes * 1_200_000);
        assert!(takes(drop(size)) && takes(shards(size)), "{megabytes} MB");
        assert!(!takes(drop(more)) && !takes(shards(more)), "more than {megabytes} MB");
    }
}
