//! Directories and files of the store. No link is ever followed, and what is made is for the node's user alone.

use std::{
    ffi::CStr,
    fs::File,
    io,
    os::{fd::OwnedFd, unix::fs::FileExt},
    path::Path,
};

use rustix::{
    fs::{self, AtFlags, CWD, FileType, Mode, OFlags},
    io::Errno,
};

use super::{Cause, StoreError, seal::Keys};

const DIRECTORY: Mode = Mode::RWXU;
const FILE: Mode = Mode::RUSR.union(Mode::WUSR);

/// Gives the reason of a failed operation on a file.
pub(super) fn failed(doing: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOSPC | Errno::DQUOT | Errno::FBIG) => StoreError::DiskFull,
        _ => StoreError::System(doing, Cause::File(error)),
    }
}

/// A file or directory that must be there is missing, or is something else.
pub(super) fn must_be_there(what: &'static str) -> impl Fn(io::Error) -> StoreError {
    move |error| match error.raw_os_error().map(Errno::from_raw_os_error) {
        Some(Errno::NOENT | Errno::LOOP | Errno::NOTDIR | Errno::NXIO | Errno::ISDIR) => StoreError::damaged(what),
        _ if error.kind() == io::ErrorKind::InvalidData => StoreError::damaged(what),
        _ => failed("opening a file of the store")(error),
    }
}

/// An open directory.
#[derive(Debug)]
pub(super) struct Dir(OwnedFd);

impl Dir {
    /// A directory anywhere.
    pub(super) fn at(path: &Path) -> io::Result<Self> {
        Ok(Self(fs::openat(CWD, path, flags(OFlags::RDONLY | OFlags::DIRECTORY), Mode::empty())?))
    }

    /// A directory in this one.
    pub(super) fn dir(&self, name: &str) -> io::Result<Self> {
        Ok(Self(fs::openat(&self.0, name, flags(OFlags::RDONLY | OFlags::DIRECTORY), Mode::empty())?))
    }

    /// The same, made if it is not there.
    pub(super) fn make(&self, name: &str) -> io::Result<Self> {
        match fs::mkdirat(&self.0, name, DIRECTORY) {
            Ok(()) | Err(Errno::EXIST) => self.dir(name),
            Err(error) => Err(error.into()),
        }
    }

    /// A file that is there, to read and write.
    pub(super) fn file(&self, name: &str) -> io::Result<File> {
        // Opened so that a pipe in its place cannot hold us up.
        let file = fs::openat(&self.0, name, flags(OFlags::RDWR | OFlags::NONBLOCK), Mode::empty())?;
        if FileType::from_raw_mode(fs::fstat(&file)?.st_mode) != FileType::RegularFile {
            return Err(io::ErrorKind::InvalidData.into());
        }
        Ok(file.into())
    }

    /// A new file.
    pub(super) fn create(&self, name: &str) -> io::Result<File> {
        Ok(fs::openat(&self.0, name, flags(OFlags::RDWR | OFlags::CREATE | OFlags::EXCL), FILE)?.into())
    }

    /// Is there anything of this name?
    pub(super) fn has(&self, name: &str) -> io::Result<bool> {
        match fs::statat(&self.0, name, AtFlags::SYMLINK_NOFOLLOW) {
            Ok(_) => Ok(true),
            Err(Errno::NOENT) => Ok(false),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a file, if it is there.
    pub(super) fn remove(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes a directory and all in it, if it is there. Links in it are removed, not followed.
    pub(super) fn remove_all(&self, name: &str) -> io::Result<()> {
        match fs::unlinkat(&self.0, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => return Ok(()),
            Err(Errno::ISDIR | Errno::PERM) => {}
            Err(error) => return Err(error.into()),
        }
        let inner = self.dir(name)?;
        for entry in inner.names()? {
            inner.remove_all(&entry)?;
        }
        match fs::unlinkat(&self.0, name, AtFlags::REMOVEDIR) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// Gives a file another name, in place of what had it.
    pub(super) fn rename(&self, from: &str, to: &str) -> io::Result<()> {
        Ok(fs::renameat(&self.0, from, &self.0, to)?)
    }

    /// The names in it. One that is not text is not ours; it is left out.
    pub(super) fn names(&self) -> io::Result<Vec<String>> {
        let mut names = Vec::new();
        for entry in fs::Dir::read_from(&self.0)? {
            if let Ok(name) = CStr::to_str(entry?.file_name())
                && name != "."
                && name != ".."
            {
                names.push(name.to_owned());
            }
        }
        Ok(names)
    }

    /// Waits until names in it are on the disk.
    pub(super) fn sync(&self) -> io::Result<()> {
        Ok(fs::fsync(&self.0)?)
    }
}

fn flags(more: OFlags) -> OFlags {
    more | OFlags::NOFOLLOW | OFlags::CLOEXEC
}

/// How far a database had come when something was last changed in it, in a file of its own.
///
/// SQLite takes a log with a flipped bit for one that ends there, and quietly goes back to the state before. This file, which is written
/// right after each commit, shows that. It is not waited for: it may be behind after a power cut, and then shows less.
#[derive(Debug)]
pub(super) struct Mark(File);

const MARK_BYTES: usize = 24 + 8 + 16;

impl Mark {
    /// The mark that is there, and what it says.
    pub(super) fn read(dir: &Dir, name: &str, keys: &Keys) -> Result<Option<(Self, u64)>, StoreError> {
        let file = match dir.file(name) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            file => file.map_err(must_be_there("a mark"))?,
        };
        let mut sealed = [0; MARK_BYTES];
        file.read_exact_at(&mut sealed, 0).map_err(|_| StoreError::damaged("a mark"))?;
        let text = keys.open("mark", &[], &sealed).and_then(|text| text.try_into().ok()).ok_or_else(|| StoreError::damaged("a mark"))?;
        Ok(Some((Self(file), u64::from_le_bytes(text))))
    }

    /// A new mark.
    pub(super) fn make(dir: &Dir, name: &str, keys: &Keys, counter: u64) -> Result<Self, StoreError> {
        let half = format!("{name}.new");
        let making = failed("making a mark");
        dir.remove(&half).map_err(&making)?;
        let mark = Self(dir.create(&half).map_err(&making)?);
        mark.0.write_all_at(&keys.seal("mark", &[], &counter.to_le_bytes())?, 0).map_err(&making)?;
        mark.0.sync_all().map_err(&making)?;
        dir.rename(&half, name).map_err(&making)?;
        dir.sync().map_err(&making)?;
        Ok(mark)
    }

    /// Says how far it has come. What is acknowledged does not depend on it, so failing is no failure.
    pub(super) fn set(&self, keys: &Keys, counter: u64) {
        if let Ok(sealed) = keys.seal("mark", &[], &counter.to_le_bytes()) {
            let _ = self.0.write_all_at(&sealed, 0);
        }
    }
}
