//! What a jail shall be: parsed from JSON, checked before the first wall goes up.

use std::ffi::OsStr;
use std::ops::RangeInclusive;
use std::os::unix::ffi::OsStrExt;
use std::path::{Component, Path, PathBuf};

use serde::{Deserialize, Serialize};
use thiserror::Error;

use crate::{SCRATCH, syscalls};

/// Longest spec. One with a hundred openings is near 16 KiB; the kernel carries a message of this size with its usual buffers.
pub const SPEC_BYTES_MAX: usize = 128 * 1024;

/// Most openings. Each is a mount, which costs some 30 microseconds.
const OPENINGS_MAX: usize = 512;

/// Below 16 MiB of address space no dynamically linked program of use starts; without this bound it would die without a word.
const MEMORY_BYTES: RangeInclusive<u64> = 16 << 20..=1 << 46;

/// A tmpfs of size 0 has no bound at all, so one page is the least.
const SCRATCH_BYTES: RangeInclusive<u64> = 4096..=1 << 40;

/// A tmpfs with 0 inodes has no bound at all, and one is its own root directory.
const SCRATCH_INODES: RangeInclusive<u64> = 2..=1 << 24;

const CPU_SECONDS: RangeInclusive<u64> = 1..=1 << 30;
const PROCESSES: RangeInclusive<u64> = 1..=32_768;

/// Four are open when the program starts, and the loader needs some to read its libraries.
const DESCRIPTORS: RangeInclusive<u64> = 8..=1 << 20;

/// What a jail shall be.
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Spec {
    /// The program to start: an absolute path inside, in one of the openings.
    pub program: PathBuf,
    /// Its arguments, without the program's own name, which is `program`. Nothing secret: others on the machine can read them.
    pub arguments: Vec<String>,
    /// Its whole environment.
    pub environment: Vec<(String, String)>,
    /// What it may read.
    pub openings: Vec<Opening>,
    /// What it may write.
    pub scratch: Scratch,
    /// Bound of its address space.
    pub memory_bytes: u64,
    /// Bound of its CPU time, user and system together, of all its threads.
    pub cpu_seconds: u64,
    /// Most threads at a time, the first included. There is never a second process.
    pub processes: u64,
    /// Most open descriptors at a time.
    pub descriptors: u64,
    /// The system calls that are open, by name. Usually [`default_syscalls`](crate::default_syscalls).
    pub syscalls: Vec<String>,
}

/// A file or directory of the machine that can be read inside, and never written.
///
/// The function is an ordinary user to it, so where the jail is put up by root the files themselves must be readable by all. The directories
/// above need not be: what leads to an opening outside does not exist inside.
#[derive(Clone, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Opening {
    /// Where it is on the machine. A symbolic link is followed.
    pub outside: PathBuf,
    /// Where it shall be inside.
    pub inside: PathBuf,
}

impl Opening {
    /// The same path on both sides.
    pub fn same(path: impl Into<PathBuf>) -> Self {
        let path = path.into();
        Self { outside: path.clone(), inside: path }
    }
}

/// The bounds of what can be written, at [`SCRATCH`].
#[derive(Clone, Copy, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(deny_unknown_fields)]
pub struct Scratch {
    /// Most bytes in all files together.
    pub bytes: u64,
    /// Most files and directories, the scratch directory itself included.
    pub inodes: u64,
}

/// What is wrong with a [`Spec`].
#[derive(Clone, Debug, Eq, Error, PartialEq)]
#[error("{0}")]
pub struct Flaw(String);

impl Spec {
    /// Says what is wrong with the spec, as far as that can be known without the machine. `bento-jail` asks this first.
    pub fn check(&self) -> Result<(), Flaw> {
        absolute("program", &self.program)?;
        for argument in &self.arguments {
            without_nul("an argument", argument.as_bytes())?;
        }
        for (name, value) in &self.environment {
            without_nul("an environment variable", name.as_bytes())?;
            without_nul("an environment variable", value.as_bytes())?;
            if name.is_empty() || name.contains('=') {
                return flaw(format!("{name:?} cannot be the name of an environment variable"));
            }
        }
        self.check_openings()?;
        within("scratch.bytes", self.scratch.bytes, SCRATCH_BYTES)?;
        within("scratch.inodes", self.scratch.inodes, SCRATCH_INODES)?;
        within("memory_bytes", self.memory_bytes, MEMORY_BYTES)?;
        within("cpu_seconds", self.cpu_seconds, CPU_SECONDS)?;
        within("processes", self.processes, PROCESSES)?;
        within("descriptors", self.descriptors, DESCRIPTORS)?;
        self.syscalls.iter().try_for_each(|name| syscalls::check(name).map_err(Flaw))
    }

    fn check_openings(&self) -> Result<(), Flaw> {
        if self.openings.len() > OPENINGS_MAX {
            return flaw(format!("{} openings are more than {OPENINGS_MAX}", self.openings.len()));
        }
        let mut inside = Vec::with_capacity(self.openings.len());
        for opening in &self.openings {
            absolute("an opening's outside", &opening.outside)?;
            absolute("an opening's inside", &opening.inside)?;
            if opening.inside.starts_with(SCRATCH) || opening.inside == Path::new("/") || opening.inside.starts_with("/dev") {
                return flaw(format!("nothing can be opened at {}", opening.inside.display()));
            }
            inside.push(opening.inside.as_path());
        }
        // In the order of paths, whatever lies within an opening follows it directly.
        inside.sort_unstable();
        if let Some([outer, inner]) = inside.array_windows().find(|[outer, inner]| inner.starts_with(outer)) {
            return flaw(format!("the opening {} lies within the opening {}", inner.display(), outer.display()));
        }
        match inside.iter().any(|opening| self.program.starts_with(opening)) {
            true => Ok(()),
            false => flaw(format!("the program {} is in none of the openings", self.program.display())),
        }
    }
}

fn absolute(what: &str, path: &Path) -> Result<(), Flaw> {
    without_nul(what, path.as_os_str().as_bytes())?;
    // `components` makes light of `/./` and `//`, and nothing depends on those.
    let mut parts = path.components();
    if parts.next() != Some(Component::RootDir) {
        return flaw(format!("{what} must be an absolute path, not {}", path.display()));
    }
    match parts.all(|part| matches!(part, Component::Normal(name) if name != OsStr::new(".."))) {
        true => Ok(()),
        false => flaw(format!("{what} must not lead upwards: {}", path.display())),
    }
}

fn without_nul(what: &str, bytes: &[u8]) -> Result<(), Flaw> {
    match bytes.contains(&0) {
        true => flaw(format!("{what} contains a zero byte")),
        false => Ok(()),
    }
}

fn within(what: &str, value: u64, bounds: RangeInclusive<u64>) -> Result<(), Flaw> {
    match bounds.contains(&value) {
        true => Ok(()),
        false => flaw(format!("{what} is {value}, and must be from {} to {}", bounds.start(), bounds.end())),
    }
}

fn flaw<T>(text: String) -> Result<T, Flaw> {
    Err(Flaw(text))
}
