//! Every fuzz target in one program, so that all of them are linked once. `BENTO_FUZZ` names the one that runs; `fuzz/run` sets it.
//!
//! A target is a function of bytes. It panics when it finds something, and libFuzzer keeps the bytes.
#![no_main]

mod admit;
mod answers;
mod bundle;
mod channel;
mod control;
mod controller;
mod evidence;
mod exit_policy;
mod frames;
mod http;
mod manifest;
mod node;
mod operations;
mod page;
mod policy;
mod port;
mod rules;
mod socks;
mod text;
mod units;

use std::sync::OnceLock;

use libfuzzer_sys::fuzz_target;

type Target = fn(&[u8]);

const TARGETS: &[(&str, Target)] = &[
    ("admit", admit::run),
    ("answers", answers::run),
    ("bundle", bundle::run),
    ("channel", channel::run),
    ("control", control::run),
    ("controller", controller::run),
    ("evidence", evidence::run),
    ("exit-policy", exit_policy::run),
    ("frames", frames::run),
    ("http", http::run),
    ("manifest", manifest::run),
    ("operations", operations::run),
    ("page", page::run),
    ("policy", policy::run),
    ("socks", socks::run),
    ("units", units::run),
];

static TARGET: OnceLock<Target> = OnceLock::new();

fuzz_target!(
    init: {
        let wanted = std::env::var("BENTO_FUZZ").unwrap_or_default();
        let found = TARGETS.iter().find(|(name, _)| *name == wanted);
        let Some((_, target)) = found else {
            // One name a line, for `fuzz/run` to list.
            TARGETS.iter().for_each(|(name, _)| println!("{name}"));
            std::process::exit(2);
        };
        let _ = TARGET.set(*target);
    },
    |data: &[u8]| TARGET.get().expect("set by init")(data)
);
