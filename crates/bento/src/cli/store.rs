//! The functions this person has installed, and their tokens: `functions.json`.
//!
//! Read and written under a lock, so that two programs at once lose nothing; written whole or not at all. A file that cannot be read is
//! never written over: the tokens in it may still be saved by hand.

use std::{
    collections::BTreeMap,
    fs, io,
    path::{Path, PathBuf},
};

use bento::{NodeAddress, Tokens};
use bento_proto::{Size, Span};
use serde::{Deserialize, Serialize};

use super::{
    failure::Failure,
    place::{check_private, lock, make_private, write_whole},
};

/// Longest file that is read. A record has under 1 KiB.
const BYTES_MAX: u64 = 16 << 20;

/// The file.
#[derive(Debug)]
pub(crate) struct Store {
    directory: PathBuf,
}

/// All functions by the names this person calls them.
pub(crate) type Functions = BTreeMap<String, Record>;

/// One installed function.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    /// Where.
    node: String,
    /// The name in its manifest.
    pub(crate) function: String,
    /// Its methods.
    pub(crate) methods: Vec<String>,
    invocation: String,
    shutdown: String,
    /// SHA-256 of its bundle, in hexadecimal: an install that was cut off goes on only with the same one.
    pub(crate) bundle: String,
    /// It cannot live longer,
    pub(crate) lifetime: Span,
    /// nor send more.
    pub(crate) traffic: Size,
    /// Was it sent to the node without an answer that it is installed?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) pending: bool,
    /// Detached invocations whose outputs were not fetched yet, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) outputs: Vec<String>,
    /// Drops that were put there, oldest first.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) drops: Vec<Drop>,
    /// How often what it keeps was changed, as far as was seen.
    #[serde(default, skip_serializing_if = "is_none")]
    pub(crate) changes: u64,
    /// Was it installed for one of these drops alone?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) for_drop: bool,
}

/// A drop that was put into a Dropbox. It is kept before the node hears of it, so that an upload that is cut off goes on.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct Drop {
    /// Its name on the node.
    pub(crate) id: String,
    /// The file's name for those who fetch it.
    pub(crate) name: String,
    /// Where the file was.
    pub(crate) file: PathBuf,
    /// Bytes of the file,
    pub(crate) size: u64,
    /// and its SHA-256 in hexadecimal: another file is never encrypted under the same key.
    pub(crate) sha256: String,
    /// The multiple it is padded to.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) pad: Option<u64>,
    #[serde(flatten)]
    pub(crate) form: Form,
    /// How often it can be fetched.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) gets: Option<u64>,
    /// The path of its link, once all of it is there.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) link: Option<String>,
}

/// How a drop is encrypted.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(tag = "form", rename_all = "lowercase")]
pub(crate) enum Form {
    /// It is not.
    Plain,
    /// With this key, in hexadecimal.
    Sealed { key: String, prefix: String },
    /// To these recipients.
    Age { to: Vec<String> },
}

/// A page that was sent for with `bento browse --offline`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(crate) struct ErrandRecord {
    /// The page.
    pub(crate) url: String,
    /// Its padding: a multiple of this,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) bucket: Option<u64>,
    /// or one of these.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) sizes: Vec<u64>,
    /// Nodes and tokens: of Browser,
    pub(crate) browser: [String; 3],
    /// and of Dropbox.
    pub(crate) dropbox: [String; 3],
    pub(crate) drop: String,
    pub(crate) output: String,
    /// What it is encrypted to.
    pub(crate) identity: String,
    pub(crate) keep: Span,
    /// When it was sent for, in seconds since 1970.
    pub(crate) sent: u64,
}

/// All errands by their names.
pub(crate) type Errands = BTreeMap<String, ErrandRecord>;

#[derive(Serialize, Deserialize)]
struct Content {
    version: u32,
    functions: Functions,
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    errands: Errands,
}

fn is_none(number: &u64) -> bool {
    *number == 0
}

impl Record {
    pub(crate) fn new(node: &NodeAddress, tokens: &Tokens, bundle: &bento_proto::bundle::Bundle, digest: String) -> Self {
        let manifest = &bundle.manifest;
        Self {
            node: node.to_string(),
            function: manifest.name.clone(),
            methods: manifest.methods.clone(),
            invocation: tokens.invocation.reveal(),
            shutdown: tokens.shutdown.reveal(),
            bundle: digest,
            lifetime: manifest.needs.lifetime,
            traffic: manifest.needs.traffic,
            pending: true,
            outputs: Vec::new(),
            drops: Vec::new(),
            changes: 0,
            for_drop: false,
        }
    }

    /// Has the other one the same tokens?
    pub(crate) fn is_same(&self, other: &Self) -> bool {
        self.invocation == other.invocation && self.shutdown == other.shutdown
    }

    pub(crate) fn node(&self) -> Result<NodeAddress, Failure> {
        self.node.parse().map_err(|error| Failure::input(format!("functions.json has a wrong address of a node: {error}")))
    }

    pub(crate) fn tokens(&self) -> Result<Tokens, Failure> {
        let wrong = |error| Failure::input(format!("functions.json has a wrong token: {error}"));
        Ok(Tokens { invocation: self.invocation.parse().map_err(wrong)?, shutdown: self.shutdown.parse().map_err(wrong)? })
    }
}

impl Store {
    pub(crate) fn in_directory(directory: PathBuf) -> Self {
        Self { directory }
    }

    fn file(&self) -> PathBuf {
        self.directory.join("functions.json")
    }

    /// All functions as they are now.
    pub(crate) fn read(&self) -> Result<Functions, Failure> {
        Ok(self.content()?.functions)
    }

    /// All errands as they are now.
    pub(crate) fn errands(&self) -> Result<Errands, Failure> {
        Ok(self.content()?.errands)
    }

    fn content(&self) -> Result<Content, Failure> {
        let path = self.file();
        check_private(&self.directory, 0o700)?;
        check_private(&path, 0o600)?;
        let bytes = match fs::metadata(&path) {
            Ok(found) if found.len() > BYTES_MAX => return Err(damaged(&path, "it is too long")),
            Ok(_) => fs::read(&path).map_err(|error| Failure::file("reading", &path, &error))?,
            Err(error) if error.kind() == io::ErrorKind::NotFound => {
                return Ok(Content { version: 1, functions: Functions::new(), errands: Errands::new() });
            }
            Err(error) => return Err(Failure::file("reading", &path, &error)),
        };
        // The text of the error names line and column only; a token could be in its value.
        let content: Content =
            serde_json::from_slice(&bytes).map_err(|error| damaged(&path, &format!("line {}, column {}", error.line(), error.column())))?;
        if content.version != 1 {
            return Err(damaged(&path, &format!("it is of version {}, and this program knows version 1", content.version)));
        }
        Ok(content)
    }

    /// Changes the functions and writes them, with nobody in between. When `change` fails, nothing is written.
    pub(crate) fn update<T>(&self, change: impl FnOnce(&mut Functions) -> Result<T, Failure>) -> Result<T, Failure> {
        self.change(|content| change(&mut content.functions))
    }

    /// The same for errands.
    pub(crate) fn update_errands<T>(&self, change: impl FnOnce(&mut Errands) -> Result<T, Failure>) -> Result<T, Failure> {
        self.change(|content| change(&mut content.errands))
    }

    fn change<T>(&self, change: impl FnOnce(&mut Content) -> Result<T, Failure>) -> Result<T, Failure> {
        make_private(&self.directory)?;
        let _lock = lock(&self.file())?;
        let mut content = self.content()?;
        let done = change(&mut content)?;
        let mut text = serde_json::to_vec_pretty(&content).map_err(|error| Failure::input(error.to_string()))?;
        text.push(b'\n');
        write_whole(&self.file(), &text, 0o600).map_err(|error| Failure::file("writing", &self.file(), &error))?;
        Ok(done)
    }

    /// One function by its name.
    pub(crate) fn find(&self, name: &str) -> Result<Record, Failure> {
        let mut functions = self.read()?;
        functions.remove(name).ok_or_else(|| {
            Failure::input(format!("no function is installed under the name `{}`", bento::line(name)))
                .with_hint("`bento status` lists those that are")
        })
    }
}

fn damaged(path: &Path, why: &str) -> Failure {
    Failure::input(format!("{} cannot be read: {why}", path.display()))
        .with_hint("repair it, or move it away: the tokens in it are the only way to its functions")
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, thread};

    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::in_directory(directory.path().join("bento"));
        (directory, store)
    }

    fn record() -> Record {
        let bundle = bento::Standard::Browser.bundle().unwrap();
        Record::new(&"127.0.0.1:8030".parse().unwrap(), &Tokens::mint().unwrap(), &bundle, String::new())
    }

    fn mode(path: &Path) -> u32 {
        fs::metadata(path).unwrap().permissions().mode() & 0o777
    }

    #[test]
    fn what_is_written_is_read_back_and_for_this_user_alone() {
        let (_directory, store) = store();
        assert!(store.read().unwrap().is_empty());
        let record = record();
        store.update(|functions| Ok(functions.insert("a".into(), record.clone()))).unwrap();
        assert_eq!(store.find("a").unwrap(), record);
        assert_eq!(store.find("b").unwrap_err().status, 2);
        assert_eq!((mode(&store.directory), mode(&store.file())), (0o700, 0o600));
        assert!(record.tokens().is_ok() && record.node().is_ok());
    }

    #[test]
    fn a_file_that_others_may_read_is_refused() {
        let (_directory, store) = store();
        store.update(|functions| Ok(functions.insert("a".into(), record()))).unwrap();
        for (path, wide, right) in [(store.file(), 0o640, 0o600), (store.directory.clone(), 0o755, 0o700)] {
            fs::set_permissions(&path, fs::Permissions::from_mode(wide)).unwrap();
            let failure = store.update(|_| Ok(())).unwrap_err();
            assert!(failure.hint.unwrap().contains("chmod"));
            fs::set_permissions(&path, fs::Permissions::from_mode(right)).unwrap();
            assert!(store.read().is_ok());
        }
    }

    #[test]
    fn a_damaged_file_is_told_and_stays_as_it_is() {
        let (_directory, store) = store();
        store.update(|functions| Ok(functions.insert("a".into(), record()))).unwrap();
        let good = fs::read(store.file()).unwrap();
        let later = String::from_utf8(good.clone()).unwrap().replace("\"version\": 1", "\"version\": 2").into_bytes();
        for damage in [&good[..good.len() / 2], b"", b"{}", later.as_slice()] {
            fs::write(store.file(), damage).unwrap();
            let failure = store.update(|functions| Ok(std::mem::take(functions))).unwrap_err();
            assert!(failure.text.contains("cannot be read") && !failure.text.contains("bento-invoke"), "{failure}");
            assert_eq!(fs::read(store.file()).unwrap(), damage);
        }
    }

    #[test]
    fn many_at_once_lose_nothing() {
        let (_directory, store) = store();
        let record = record();
        thread::scope(|scope| {
            for thread in 0..8 {
                let (store, record) = (&store, &record);
                scope.spawn(move || {
                    for index in 0..10 {
                        store.update(|functions| Ok(functions.insert(format!("{thread}-{index}"), record.clone()))).unwrap();
                        assert!(store.read().is_ok());
                    }
                });
            }
        });
        assert_eq!(store.read().unwrap().len(), 80);
        let left = fs::read_dir(&store.directory).unwrap().count();
        assert_eq!(left, 2, "only the file and its lock are left");
    }
}
