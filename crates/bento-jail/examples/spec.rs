//! Prints the usual spec of a jail for Python, as JSON, for programs in other languages that start `bento-jail` and fill in the rest.
//!
//! ```text
//! cargo run -p bento-jail --example spec [PYTHON]
//! ```

use std::error::Error;
use std::io::Write;
use std::path::PathBuf;

use bento_jail::{Scratch, Spec, default_syscalls, python_openings};

fn main() -> Result<(), Box<dyn Error>> {
    let python = std::env::args_os().nth(1).map_or_else(|| "/usr/bin/python3.11".into(), PathBuf::from);
    let spec = Spec {
        openings: python_openings(&python, &[])?,
        program: python,
        arguments: Vec::new(),
        environment: [("LANG", "C.UTF-8"), ("HOME", "/tmp"), ("MALLOC_ARENA_MAX", "1")].map(|(n, v)| (n.into(), v.into())).to_vec(),
        scratch: Scratch { bytes: 4 << 20, inodes: 64 },
        memory_bytes: 256 << 20,
        cpu_seconds: 4,
        processes: 16,
        descriptors: 64,
        syscalls: default_syscalls().iter().map(|name| (*name).to_owned()).collect(),
    };
    Ok(writeln!(std::io::stdout(), "{}", serde_json::to_string(&spec)?)?)
}
