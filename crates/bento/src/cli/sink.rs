//! Where an output goes.
//!
//! A file is there whole or not at all. A terminal gets no control characters of a function.

use std::{
    fs,
    io::{self, IsTerminal as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::{Path, PathBuf},
};

use tempfile::NamedTempFile;
use tokio::io::AsyncWriteExt as _;

use super::failure::Failure;

/// A place for an output.
#[derive(Debug)]
pub(crate) enum Sink {
    /// Stdout, to a terminal or elsewhere.
    Stdout(tokio::io::Stdout, Option<Plain>),
    /// A file that takes its name when it is whole.
    File {
        /// It, under another name.
        file: NamedTempFile,
        /// What it will be called.
        path: PathBuf,
        /// May it take the place of another one?
        force: bool,
    },
    /// What is there and is no regular file: a device, a named pipe.
    Device(tokio::fs::File, PathBuf),
}

impl Sink {
    /// Opens a place: nothing or `-` is stdout.
    pub(crate) async fn open(path: Option<&Path>, force: bool) -> Result<Self, Failure> {
        let Some(path) = path.filter(|path| *path != Path::new("-")) else {
            let plain = io::stdout().is_terminal().then(Plain::default);
            return Ok(Self::Stdout(tokio::io::stdout(), plain));
        };
        match fs::metadata(path) {
            Ok(found) if found.is_dir() => {
                return Err(Failure::input(format!("{} is a directory", path.display())).with_hint("give a file's path"));
            }
            Ok(found) if !found.is_file() => {
                let opened = tokio::fs::OpenOptions::new().write(true).open(path).await;
                let file = opened.map_err(|error| Failure::file("opening", path, &error))?;
                return Ok(Self::Device(file, path.to_owned()));
            }
            Ok(_) if !force => return Err(is_there(path)),
            _ => {}
        }
        let directory = directory(path);
        // With the mode of any new file: what the person's umask leaves of it.
        let mode = fs::Permissions::from_mode(0o666);
        let made = tempfile::Builder::new().prefix(".bento-").permissions(mode).tempfile_in(directory);
        let file = made.map_err(|error| Failure::file("making a file in", directory, &error))?;
        Ok(Self::File { file, path: path.to_owned(), force })
    }

    /// Does a person see it at once?
    pub(crate) fn is_terminal(&self) -> bool {
        matches!(self, Self::Stdout(_, Some(_)))
    }

    pub(crate) async fn write(&mut self, bytes: &[u8]) -> Result<(), Failure> {
        match self {
            Self::Stdout(out, plain) => {
                let shown = plain.as_mut().map(|plain| plain.pass(bytes));
                let written = out.write_all(shown.as_deref().map_or(bytes, str::as_bytes)).await;
                match written {
                    Ok(()) => out.flush().await.map_err(|error| Failure::output(&error)),
                    Err(error) => Err(Failure::output(&error)),
                }
            }
            Self::File { file, path, .. } => file.write_all(bytes).map_err(|error| Failure::file("writing", path, &error)),
            Self::Device(file, path) => file.write_all(bytes).await.map_err(|error| Failure::file("writing", path, &error)),
        }
    }

    /// The output is whole. Says where the file is, if it is one.
    pub(crate) async fn finish(self) -> Result<Option<PathBuf>, Failure> {
        match self {
            Self::Stdout(mut out, _) => out.flush().await.map_err(|error| Failure::output(&error)).map(|()| None),
            Self::Device(mut file, path) => match file.flush().await {
                Ok(()) => Ok(Some(path)),
                Err(error) => Err(Failure::file("writing", &path, &error)),
            },
            Self::File { file, path, force } => {
                let own = path.clone();
                let named = tokio::task::spawn_blocking(move || named(file, &own, force)).await;
                match named.unwrap_or_else(|error| Err(io::Error::other(error.to_string()))) {
                    Ok(()) => Ok(Some(path)),
                    Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(is_there(&path)),
                    Err(error) => Err(Failure::file("writing", &path, &error)),
                }
            }
        }
    }
}

/// Gives a file its name, and has both on the disk: whoever sent it may erase its own copy then.
fn named(file: NamedTempFile, path: &Path, force: bool) -> io::Result<()> {
    file.as_file().sync_all()?;
    let named = if force { file.persist(path) } else { file.persist_noclobber(path) };
    named.map_err(|error| error.error)?;
    match fs::File::open(directory(path)).and_then(|directory| directory.sync_all()) {
        // Some file systems have no such thing, and some directories may be written to and not read.
        Err(error) if matches!(error.kind(), io::ErrorKind::InvalidInput | io::ErrorKind::PermissionDenied) => Ok(()),
        synced => synced,
    }
}

fn directory(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

fn is_there(path: &Path) -> Failure {
    Failure::input(format!("{} is there already", path.display())).with_hint("give another path, or `--force` to replace it")
}

/// Takes control characters out of a stream of UTF-8, whatever its pieces are. What is not UTF-8 becomes U+FFFD.
#[derive(Debug, Default)]
pub(crate) struct Plain {
    /// The beginning of a character whose end has not come.
    rest: Vec<u8>,
}

impl Plain {
    fn pass(&mut self, bytes: &[u8]) -> String {
        let mut all = std::mem::take(&mut self.rest);
        all.extend_from_slice(bytes);
        let mut out = String::with_capacity(all.len());
        for chunk in all.utf8_chunks() {
            out.push_str(&bento::paragraph(chunk.valid()));
            match chunk.invalid() {
                [] => {}
                // The last, and it may be whole with the next piece.
                cut if cut.len() < 4 && all.ends_with(cut) && std::str::from_utf8(cut).is_err_and(|error| error.error_len().is_none()) => {
                    self.rest = cut.to_vec();
                }
                _ => out.push('\u{fffd}'),
            }
        }
        out
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[tokio::test]
    async fn a_file_is_there_when_it_is_whole_and_never_takes_anothers_place() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("out");
        let count = || fs::read_dir(directory.path()).unwrap().count();

        let mut dropped = Sink::open(Some(&path), false).await.unwrap();
        dropped.write(b"half").await.unwrap();
        assert!(!path.exists());
        drop(dropped);
        assert_eq!(count(), 0);

        let mut sink = Sink::open(Some(&path), false).await.unwrap();
        let late = Sink::open(Some(&path), false).await.unwrap();
        sink.write(b"whole").await.unwrap();
        assert_eq!(sink.finish().await.unwrap(), Some(path.clone()));
        assert_eq!(late.finish().await.unwrap_err().status, 2);
        assert_eq!(Sink::open(Some(&path), false).await.unwrap_err().status, 2);
        assert_eq!(fs::read(&path).unwrap(), b"whole");

        let mut forced = Sink::open(Some(&path), true).await.unwrap();
        forced.write(b"new").await.unwrap();
        forced.finish().await.unwrap();
        assert_eq!((fs::read(&path).unwrap().as_slice(), count()), (b"new".as_slice(), 1));
    }

    #[tokio::test]
    async fn a_device_is_written_to_and_not_replaced() {
        let mut sink = Sink::open(Some(Path::new("/dev/null")), false).await.unwrap();
        sink.write(b"x").await.unwrap();
        sink.finish().await.unwrap();
        assert!(!fs::metadata("/dev/null").unwrap().is_file());
        assert_eq!(Sink::open(Some(Path::new("/tmp")), true).await.unwrap_err().status, 2);
    }

    proptest! {
        #[test]
        fn a_terminal_gets_the_text_without_its_control_characters(text in any::<String>(), cut in any::<prop::sample::Index>()) {
            let at = cut.index(text.len() + 1);
            let mut plain = Plain::default();
            let shown = plain.pass(&text.as_bytes()[..at]) + &plain.pass(&text.as_bytes()[at..]);
            prop_assert_eq!(shown, bento::paragraph(&text));
        }

        #[test]
        fn no_bytes_bring_a_control_character(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
            let shown = Plain::default().pass(&bytes);
            prop_assert!(!shown.contains(|letter: char| letter.is_control() && letter != '\n' && letter != '\t'));
        }
    }
}
