//! What this program knows of files in shards: one file for each, `shards/NAME.json`, beside `functions.json`.
//!
//! A file is written before a node hears of it, so that whatever is cut off goes on. Whoever works on one holds a lock on it. The sealed copy of
//! what came from stdin, `shards/NAME.sealed`, is there until it was sent.

use std::{
    fs, io,
    path::{Path, PathBuf},
    time::SystemTime,
};

use bento::{Drip, DropId, Intake, NodeAddress, OutputId, Recipe, SealedFile, Shards, Split, Tokens};
use bento_proto::Span;
use serde::{Deserialize, Serialize};

use super::now;
use crate::cli::{
    failure::Failure,
    place::{self, check_private, lock, make_private, write_whole},
};

/// Longest file that is read: a recipe, and ten thousand portions.
const BYTES_MAX: u64 = 16 << 20;

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 80;

/// A file that is in shards, or on its way.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Kept {
    version: u32,
    #[serde(flatten)]
    pub(super) file: SealedFile,
    pub(super) split: Split,
    /// How long shards are kept.
    pub(super) keep: Span,
    /// Where the file was; nothing for one that came from stdin.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) source: Option<PathBuf>,
    /// Is it for conclaves only?
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(super) conclaves: bool,
    /// Where its recipe is written besides.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) recipe: Option<PathBuf>,
    /// Its shards, once they are made,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shards: Option<Shards>,
    /// and since when the oldest of them may be there, in seconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) since: Option<u64>,
    /// What was begun and is not at its end.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) work: Option<Work>,
}

/// Something that takes a while, and goes on where it was cut off.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Work {
    pub(super) task: Task,
    /// The drop that is spread, or the job.
    pub(super) id: String,
    /// Shard, which does it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) shard: Option<Place>,
    /// Has it all of the file?
    #[serde(default)]
    pub(super) staged: bool,
    /// Its detached invocation.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) output: Option<String>,
    /// How it is to leave in portions, until nodes are chosen for them.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) planned: Option<Planned>,
    /// The file in portions.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) dripping: Option<Dripping>,
}

#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(super) enum Task {
    /// A file is spread.
    Spread,
    /// Lost shards are made up.
    Repair { more: u32, thorough: bool },
}

/// A function that this program installed for a file.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Place {
    node: String,
    invocation: String,
    shutdown: String,
    /// Has its node said that it is there?
    #[serde(default)]
    pub(super) installed: bool,
    /// How many functions it may have elsewhere.
    #[serde(default)]
    pub(super) installs: u32,
    /// When its lifetime began, in milliseconds since 1970.
    #[serde(default)]
    pub(super) renewed: u64,
}

/// Portions that are asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Planned {
    /// Bytes of each.
    pub(super) each: u64,
    /// Over how long they leave.
    pub(super) over: Span,
}

/// A file that leaves in portions.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub(super) struct Dripping {
    pub(super) drip: Drip,
    /// Dropboxes.
    pub(super) places: Vec<Place>,
    /// How many uploads were begun, whatever became of them.
    pub(super) uploads: u64,
    /// When the first of them was, in milliseconds since 1970.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(super) first: Option<u64>,
}

impl Place {
    pub(super) fn new(node: &NodeAddress, installs: u32) -> Result<Self, Failure> {
        let tokens = Tokens::mint()?;
        let (invocation, shutdown) = (tokens.invocation.reveal(), tokens.shutdown.reveal());
        Ok(Self { node: node.to_string(), invocation, shutdown, installed: false, installs, renewed: 0 })
    }

    pub(super) fn node(&self) -> Result<NodeAddress, Failure> {
        self.node.parse().map_err(|_| wrong("address"))
    }

    pub(super) fn tokens(&self) -> Result<Tokens, Failure> {
        let wrong = |_| wrong("token");
        Ok(Tokens { invocation: self.invocation.parse().map_err(wrong)?, shutdown: self.shutdown.parse().map_err(wrong)? })
    }

    pub(super) fn intake(&self) -> Result<Intake, Failure> {
        Ok(Intake { node: self.node()?, tokens: self.tokens()? })
    }
}

impl Work {
    pub(super) fn new(task: Task) -> Result<Self, Failure> {
        Ok(Self { task, id: DropId::mint()?.to_string(), shard: None, staged: false, output: None, planned: None, dripping: None })
    }

    pub(super) fn id(&self) -> Result<DropId, Failure> {
        self.id.parse().map_err(|_| wrong("name"))
    }

    pub(super) fn output(&self) -> Result<Option<OutputId>, Failure> {
        self.output.as_ref().map(|text| text.parse().map_err(|_| wrong("name"))).transpose()
    }
}

fn wrong(what: &str) -> Failure {
    Failure::input(format!("a file in shards is kept with a wrong {what}")).with_hint("`bento shard list` shows where; put the file again")
}

impl Kept {
    pub(super) fn new(file: SealedFile, split: Split, keep: Span) -> Self {
        Self { version: 1, file, split, keep, source: None, conclaves: false, recipe: None, shards: None, since: None, work: None }
    }

    /// Its recipe, if it is whole.
    pub(super) fn whole(&self) -> Option<Recipe> {
        self.shards.clone().map(|shards| Recipe::new(self.file.clone(), shards))
    }

    /// How long its shards last at least, as far as that is known.
    pub(super) fn left(&self) -> Option<Span> {
        self.since.map(|since| Span::seconds((since + self.keep.as_seconds_up()).saturating_sub(now())))
    }

    /// Is it on its way to its shards?
    pub(super) fn is_underway(&self) -> bool {
        self.shards.is_none()
    }
}

/// All of them.
#[derive(Debug)]
pub(super) struct Shelves {
    directory: PathBuf,
}

/// One of them, which nobody else changes meanwhile.
#[derive(Debug)]
pub(super) struct Open {
    /// What it is called here.
    pub(super) name: String,
    path: PathBuf,
    pub(super) kept: Kept,
    _lock: fs::File,
}

impl Shelves {
    pub(super) fn new() -> Result<Self, Failure> {
        Ok(Self { directory: place::data()?.join("shards") })
    }

    fn path(&self, name: &str) -> PathBuf {
        self.directory.join(format!("{name}.json"))
    }

    /// The names of all, sorted.
    pub(super) fn names(&self) -> Result<Vec<String>, Failure> {
        let entries = match fs::read_dir(&self.directory) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(error) => return Err(Failure::file("reading", &self.directory, &error)),
        };
        let names = entries.flatten().filter_map(|entry| Some(entry.file_name().to_str()?.strip_suffix(".json")?.to_owned()));
        let mut names: Vec<String> = names.filter(|name| !name.starts_with('.')).collect();
        names.sort();
        Ok(names)
    }

    /// When one was written last.
    pub(super) fn changed(&self, name: &str) -> Option<SystemTime> {
        fs::metadata(self.path(name)).and_then(|found| found.modified()).ok()
    }

    /// One as it is now, if there is one of this name.
    pub(super) fn read(&self, name: &str) -> Result<Option<Kept>, Failure> {
        // A name is no path.
        if name != safe(name) {
            return Ok(None);
        }
        read(&self.directory, &self.path(name))
    }

    /// The same, to work on it.
    pub(super) fn open(&self, name: &str) -> Result<Open, Failure> {
        make_private(&self.directory)?;
        let path = self.path(name);
        let lock = lock(&path)?;
        let kept = self.read(name)?.ok_or_else(|| unknown(name))?;
        Ok(Open { name: name.to_owned(), path, kept, _lock: lock })
    }

    /// Keeps a new one under a name of its own, which is like the file's.
    pub(super) fn add(&self, kept: Kept) -> Result<Open, Failure> {
        make_private(&self.directory)?;
        let own = safe(&kept.file.name);
        let mut names = std::iter::once(own.clone()).chain((2..).map(|number| format!("{own}-{number}")));
        loop {
            let name = names.next().unwrap_or_default();
            let path = self.path(&name);
            // What a lock is held on is somebody's, or is about to be.
            if path.exists() {
                continue;
            }
            let lock = lock(&path)?;
            if !path.exists() {
                let open = Open { name, path, kept, _lock: lock };
                open.save()?;
                return Ok(open);
            }
        }
    }
}

pub(super) fn unknown(name: &str) -> Failure {
    Failure::input(format!("no file in shards is called `{}`", bento::line(name)))
        .with_hint("`bento shard list` shows those that are; a recipe is given by its path, as in `./report.recipe`")
}

fn read(directory: &Path, path: &Path) -> Result<Option<Kept>, Failure> {
    check_private(directory, 0o700)?;
    check_private(path, 0o600)?;
    let bytes = match fs::metadata(path) {
        Ok(found) if found.len() > BYTES_MAX => return Err(damaged(path, "it is too long")),
        Ok(_) => fs::read(path).map_err(|error| Failure::file("reading", path, &error))?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(Failure::file("reading", path, &error)),
    };
    // The text of the error names line and column only; a token could be in its value.
    let kept: Kept =
        serde_json::from_slice(&bytes).map_err(|error| damaged(path, &format!("line {}, column {}", error.line(), error.column())))?;
    if kept.version != 1 {
        return Err(damaged(path, &format!("it is of version {}, and this program knows version 1", kept.version)));
    }
    Ok(Some(kept))
}

fn damaged(path: &Path, why: &str) -> Failure {
    Failure::input(format!("{} cannot be read: {why}", path.display()))
        .with_hint("repair it, or move it away: the key in it is the only way to its file")
}

impl Open {
    /// Writes it as it is now.
    pub(super) fn save(&self) -> Result<(), Failure> {
        let mut text = serde_json::to_vec_pretty(&self.kept).map_err(|error| Failure::input(error.to_string()))?;
        text.push(b'\n');
        write_whole(&self.path, &text, 0o600).map_err(|error| Failure::file("writing", &self.path, &error))
    }

    /// What is begun.
    pub(super) fn work(&mut self) -> Result<&mut Work, Failure> {
        self.kept.work.as_mut().ok_or_else(|| Failure::input("nothing is begun with this file"))
    }

    /// Where the sealed copy of a stream is.
    pub(super) fn spool(&self) -> PathBuf {
        self.path.with_extension("sealed")
    }

    /// Writes the recipe where it is wanted besides.
    pub(super) fn give(&self) -> Result<(), Failure> {
        if let (Some(path), Some(recipe)) = (&self.kept.recipe, self.kept.whole()) {
            write_whole(path, recipe.reveal()?.as_bytes(), 0o600).map_err(|error| Failure::file("writing", path, &error))?;
        }
        Ok(())
    }

    /// Forgets it.
    pub(super) fn remove(self) -> Result<(), Failure> {
        let _ = fs::remove_file(self.spool());
        fs::remove_file(&self.path).map_err(|error| Failure::file("removing", &self.path, &error))?;
        let _ = fs::remove_file(self.path.with_extension("lock"));
        Ok(())
    }
}

/// A file's name as far as it can be one here.
pub(super) fn safe(name: &str) -> String {
    let letter = |letter: char| if letter.is_alphanumeric() || "._-".contains(letter) { letter } else { '-' };
    let name: String = name.chars().map(letter).take(NAME_CHARS_MAX).collect();
    let name = name.trim_matches(['.', '-']);
    if name.is_empty() { "file".into() } else { name.to_owned() }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use bento::{FileKey, Mode};
    use proptest::prelude::*;

    use super::*;

    fn kept(name: &str) -> Kept {
        let file = SealedFile::new(name.into(), 5, &[0; 32], 100, &FileKey::mint().unwrap());
        let mut kept = Kept::new(file, Split { need: 2, of: 4, mode: Mode::Fountain }, Span::seconds(60));
        let mut work = Work::new(Task::Repair { more: 1, thorough: true }).unwrap();
        work.shard = Some(Place::new(&"127.0.0.1:8030".parse().unwrap(), 6).unwrap());
        let drip = Drip::new(100, 1000, Span::seconds(9), 2, 0, &mut || 7).unwrap();
        work.dripping = Some(Dripping { drip, places: vec![], uploads: 3, first: None });
        kept.work = Some(work);
        kept
    }

    #[test]
    fn what_is_kept_is_read_back_by_this_user_alone_and_one_at_a_time() {
        let directory = tempfile::tempdir().unwrap();
        let shelves = Shelves { directory: directory.path().join("shards") };
        assert!(shelves.names().unwrap().is_empty() && shelves.read("a b").unwrap().is_none());
        let one = shelves.add(kept("a b")).unwrap();
        assert_eq!((one.name.as_str(), shelves.read("a-b").unwrap().as_ref()), ("a-b", Some(&one.kept)));
        assert_eq!(fs::metadata(&one.path).unwrap().permissions().mode() & 0o777, 0o600);
        let two = shelves.add(kept("a b")).unwrap();
        assert_eq!(shelves.names().unwrap(), ["a-b", "a-b-2"]);
        // Somebody holds it.
        let held = shelves.open("a-b").unwrap_err();
        assert!(held.text.contains("another `bento` holds"), "{held}");
        drop(one);
        fs::write(shelves.directory.join("a-b.sealed"), b"x").unwrap();
        shelves.open("a-b").unwrap().remove().unwrap();
        assert_eq!(shelves.names().unwrap(), ["a-b-2"]);
        assert!(!shelves.directory.join("a-b.sealed").exists());
        for wide in [0o644, 0o640] {
            fs::set_permissions(&two.path, fs::Permissions::from_mode(wide)).unwrap();
            assert!(shelves.read("a-b-2").unwrap_err().hint.unwrap().contains("chmod"));
        }
        fs::set_permissions(&two.path, fs::Permissions::from_mode(0o600)).unwrap();
        let whole = fs::read_to_string(&two.path).unwrap();
        fs::write(&two.path, &whole[..whole.len() / 2]).unwrap();
        let failure = shelves.read("a-b-2").unwrap_err();
        assert!(failure.text.contains("cannot be read") && !failure.text.contains("bento-invoke"), "{failure}");
        assert!(shelves.read("../shards/a-b-2").unwrap().is_none());
    }

    proptest! {
        #[test]
        fn no_name_leads_elsewhere(text in ".{0,100}") {
            let name = safe(&text);
            prop_assert!(!name.is_empty() && !name.contains(['/', '\0']) && !name.starts_with('.'));
            prop_assert_eq!(safe(&name), name);
        }
    }
}
