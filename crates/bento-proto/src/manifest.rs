//! What an author says of a function: `manifest.toml`.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::{
    bundle,
    call::CallPattern,
    exit_policy::ExitPolicy,
    limits::{DESCRIPTORS_MIN, MANIFEST_BYTES_MAX, MANIFEST_RULES_MAX, MEMORY_BYTES_MIN, METHODS_MAX, SCRATCH_BYTES_MIN},
    lines,
    syscalls::Syscalls,
    unit::{Rate, Share, Size, Span},
};

/// A function's name, code, methods and needs.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Manifest {
    /// Short name: lower-case letters, digits and hyphens, 1 to 40 of them.
    pub name: String,
    /// One line for people.
    pub description: String,
    /// The file of the bundle that has the methods.
    pub code: String,
    /// The methods that can be invoked.
    pub methods: Vec<String>,
    /// What it asks of a node.
    pub needs: Needs,
}

/// What a function asks of a node. Every key may be left out; it then asks for the small amount given here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Needs {
    /// Which set of packages. `python3`.
    pub image: String,
    /// Address space of its process. 64 MiB.
    pub memory: Size,
    /// Its file system in memory, its own code included. 8 MiB.
    pub scratch: Size,
    /// What it keeps in its node's store. Nothing.
    pub storage: Size,
    /// CPU time over its whole life. 10 s.
    pub cpu: Span,
    /// Part of one processor core, averaged over a short time. 100 %.
    pub share: Share,
    /// Bytes of all its streams, both ways, over its whole life. 16 MiB.
    pub traffic: Size,
    /// Bytes of all its streams together, both ways, averaged over a second. 4 MiB/s.
    pub rate: Rate,
    /// From install to the end. 10 min.
    pub lifetime: Span,
    /// Is its process kept, and started with the node? That takes its key on the node's disk. No.
    pub keep_awake: bool,
    /// Threads at the same time, its first one included. 8.
    pub processes: u32,
    /// Open descriptors at the same time. 64.
    pub descriptors: u32,
    /// Invocations at the same time. 1.
    pub invocations: u32,
    /// Functions that it has on other nodes at the same time. None.
    pub installs: u32,
    /// Circuits of its own that it has open at the same time. None.
    pub circuits: u32,
    /// Onion services of its own that it has at the same time. None.
    pub onion_services: u32,
    /// Calls of the function API. None.
    pub calls: Vec<CallPattern>,
    /// Where its connections leave. `any`.
    pub egress: Egress,
    /// Where it connects. Nowhere.
    pub connect: ExitPolicy,
    /// System calls. The default.
    pub syscalls: Syscalls,
}

/// Where a function's connections leave.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Egress {
    /// Through the node's own Tor client and somebody's exit relay.
    Tor,
    /// From the node's own address.
    Direct,
    /// Whichever the node offers first; only a manifest says so.
    Any,
}

impl fmt::Display for Egress {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(match self {
            Self::Tor => "tor",
            Self::Direct => "direct",
            Self::Any => "any",
        })
    }
}

impl Default for Needs {
    fn default() -> Self {
        Self {
            image: "python3".into(),
            memory: Size::mib(64),
            scratch: Size::mib(8),
            storage: Size::default(),
            cpu: Span::seconds(10),
            share: Share::CORE,
            traffic: Size::mib(16),
            rate: Rate::mib(4),
            lifetime: Span::seconds(600),
            keep_awake: false,
            processes: 8,
            descriptors: 64,
            invocations: 1,
            installs: 0,
            circuits: 0,
            onion_services: 0,
            calls: Vec::new(),
            egress: Egress::Any,
            connect: ExitPolicy::default(),
            syscalls: Syscalls::default(),
        }
    }
}

/// Why a text is no manifest.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum ManifestError {
    /// It is too long to look at.
    #[error("it has {0} bytes, and at most {MANIFEST_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// TOML, a key or a value is wrong; the text names the line.
    #[error("{0}")]
    Toml(String),
    /// A key has a value that cannot be.
    #[error("{line}{key}: {reason}")]
    Value {
        /// Its line, as `line 3: `; empty where the text does not have the key.
        line: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    name: String,
    #[serde(default)]
    description: String,
    #[serde(default = "default_code")]
    code: String,
    methods: Vec<String>,
    #[serde(default)]
    needs: Needs,
}

fn default_code() -> String {
    "function.py".into()
}

impl Manifest {
    /// Reads a manifest.
    ///
    /// # Errors
    /// With the line, when it is not TOML, has an unknown key, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, ManifestError> {
        if text.len() > MANIFEST_BYTES_MAX {
            return Err(ManifestError::TooLong(text.len()));
        }
        let file: File = toml::from_str(text).map_err(|error| ManifestError::Toml(error.to_string().trim_end().to_owned()))?;
        let value = |key, reason: String| Err(ManifestError::Value { line: lines::front(text, key), key, reason });
        if !is_name(&file.name) {
            return value("name", "must be 1 to 40 lower-case letters, digits and hyphens".into());
        }
        if file.description.chars().count() > 200 || file.description.contains(char::is_control) {
            return value("description", "must be one line of at most 200 characters".into());
        }
        if let Err(error) = bundle::check_name(&file.code) {
            return value("code", error.to_string());
        }
        if !file.code.ends_with(".py") {
            return value("code", "must be a Python file, its name ending in .py".into());
        }
        if file.methods.is_empty() || file.methods.len() > METHODS_MAX {
            return value("methods", format!("must name 1 to {METHODS_MAX} methods"));
        }
        if let Some(wrong) = file.methods.iter().find(|method| !is_method(method)) {
            return value(
                "methods",
                format!(
                    "`{}` is no name of a method: letters, digits and underscores, not beginning with a digit or an underscore",
                    clip(wrong)
                ),
            );
        }
        if let Err((key, reason)) = file.needs.check() {
            return value(key, reason);
        }
        Ok(Self { name: file.name, description: file.description, code: file.code, methods: file.methods, needs: file.needs })
    }
}

impl Needs {
    /// Checks what the types do not: the key that cannot be so, and why.
    pub(crate) fn check(&self) -> Result<(), (&'static str, String)> {
        if !is_name(&self.image) {
            return Err(("needs.image", "must be 1 to 40 lower-case letters, digits and hyphens".into()));
        }
        if self.connect.rules().len() > MANIFEST_RULES_MAX {
            return Err(("needs.connect", format!("has more than {MANIFEST_RULES_MAX} rules")));
        }
        // Whoever asks for less than can be had is told so here: what a jail refuses is taken for the node's own trouble.
        for (key, amount, least, words) in [
            ("needs.memory", self.memory.as_bytes(), MEMORY_BYTES_MIN, Size::bytes(MEMORY_BYTES_MIN).to_string()),
            ("needs.scratch", self.scratch.as_bytes(), SCRATCH_BYTES_MIN, Size::bytes(SCRATCH_BYTES_MIN).to_string()),
            ("needs.descriptors", self.descriptors.into(), DESCRIPTORS_MIN, DESCRIPTORS_MIN.to_string()),
        ] {
            if amount < least {
                return Err((key, format!("must be at least {words}")));
            }
        }
        for (key, amount) in [
            ("needs.cpu", self.cpu.as_millis()),
            ("needs.traffic", self.traffic.as_bytes()),
            ("needs.rate", self.rate.bytes_per_second()),
            ("needs.lifetime", self.lifetime.as_millis()),
            ("needs.processes", self.processes.into()),
            ("needs.invocations", self.invocations.into()),
        ] {
            if amount == 0 {
                return Err((key, "must be more than nothing".into()));
            }
        }
        Ok(())
    }
}

fn clip(text: &str) -> String {
    text.chars().take(40).collect()
}

pub(crate) fn is_name(text: &str) -> bool {
    (1..=40).contains(&text.len()) && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

fn is_method(text: &str) -> bool {
    (1..=64).contains(&text.len())
        && text.starts_with(|first: char| first.is_ascii_alphabetic())
        && text.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const GOOD: &str = r#"
        name = "browser"
        methods = ["page"]
        [needs]
        memory = "32 MiB"
        connect = ["accept *:443"]
    "#;

    #[test]
    fn a_manifest_is_read_and_what_it_leaves_out_is_small() {
        let manifest = Manifest::parse(GOOD).unwrap();
        assert_eq!((manifest.code.as_str(), manifest.needs.memory, manifest.needs.processes), ("function.py", Size::mib(32), 8));
    }

    #[test]
    fn each_wrong_manifest_is_told_what_is_wrong() {
        for (from, to, says) in [
            ("memory", "memmory", "memmory"),
            ("memory = \"32 MiB\"", "memory = \"32 MB\"", "32 MB"),
            ("memory = \"32 MiB\"", "memory = \"0 B\"", "needs.memory"),
            ("memory = \"32 MiB\"", "memory = \"16383 KiB\"", "at least 16 MiB"),
            ("memory = \"32 MiB\"", "scratch = \"4095 B\"", "at least 4 KiB"),
            ("memory = \"32 MiB\"", "descriptors = 7", "at least 8"),
            ("memory = \"32 MiB\"", "memory = 32", "line 5"),
            ("accept *:443", "accept example.org:443", "example.org"),
            ("\"page\"", "\"__init__\"", "__init__"),
            ("\"page\"", "", "methods"),
            ("browser", "Browser", "name"),
            ("[needs]", "code = \"../x.py\"\n[needs]", "line 4: code"),
            ("memory = \"32 MiB\"", "memory = \"16383 KiB\"", "line 5: needs.memory"),
            ("memory = \"32 MiB\"", "rate = \"0 B/s\"", "line 5: needs.rate"),
            ("memory = \"32 MiB\"", "share = \"0 %\"", "line 5"),
            ("memory = \"32 MiB\"", "syscalls = [\"default\",\n \"+frobnicate\"]", "line 6"),
            ("memory = \"32 MiB\"", "syscalls = [\"default\",\n \"+frobnicate\"]", "no system call `frobnicate`"),
            ("memory = \"32 MiB\"", "syscalls = \"none\"", "line 5"),
            ("[\"accept *:443\"]", "[\n\"accept *:80\",\n\"accept *:0\"]", "line 8"),
            ("connect = [\"accept *:443\"]", "calls = [\n\n\"net.listen\"]", "line 8"),
            ("[\"accept *:443\"]", "\"relay\"", "line 6"),
            ("[needs]", "egress = \"tor\"\n[needs]", "egress"),
        ] {
            let error = Manifest::parse(&GOOD.replace(from, to)).unwrap_err().to_string();
            assert!(error.contains(says), "{to}: {error}");
        }
        assert_eq!(Manifest::parse(&"#".repeat(MANIFEST_BYTES_MAX + 1)), Err(ManifestError::TooLong(MANIFEST_BYTES_MAX + 1)));
    }

    proptest! {
        #[test]
        fn no_text_panics(text in "[a-z\\[\\]\"=.\n #0-9]{0,200}") {
            let _ = Manifest::parse(&text);
        }
    }
}
