//! What is sent: a file as it was, or the sealed copy of what came from stdin.

use std::{fs, io, path::Path, sync::Arc};

use bento::{Drip, FileKey, Parcel, SealedFile, Source, Spooled};
use bento_proto::pad::HEAD;
use data_encoding::HEXLOWER;

use super::{blocking, kept::Open};
use crate::cli::{context::Context, failure::Failure, place};

/// How a file is padded before it is sealed.
#[derive(Clone, Copy, Debug)]
pub(super) enum Padding {
    /// To a multiple of this.
    Multiple(u64),
    /// So that portions of this size are full when it is sealed.
    Portions(u64),
}

impl Padding {
    /// To how many bytes, for so many with the padding's head.
    pub(super) fn total(self, held: u64) -> io::Result<u64> {
        let wrong = |text: String| io::Error::new(io::ErrorKind::InvalidInput, text);
        match self {
            Self::Multiple(multiple) => {
                held.checked_next_multiple_of(multiple.max(1)).ok_or_else(|| wrong("it is too large to be padded like that".into()))
            }
            Self::Portions(each) => Drip::count(held, each).map(|(_, plain)| plain).map_err(|error| wrong(error.to_string())),
        }
    }
}

/// Reads a file once; it and what it is padded to.
pub(super) async fn read(context: &Context, path: &Path, padding: Padding) -> Result<Source, Failure> {
    let (show, own) = (Arc::clone(&context.show), path.to_owned());
    let read = blocking(move || {
        let held = fs::metadata(&own)?.len().saturating_add(HEAD as u64);
        Source::open(&own, Some(padding.total(held)?), |done, total| show.moved("read", done, total))
    });
    read.await.map_err(|error| Failure::file("reading", path, &error))
}

/// Seals what comes from stdin into a file.
pub(super) async fn spooled(context: &Context, path: &Path, key: &FileKey, padding: Padding) -> Result<Spooled, Failure> {
    let (show, own, key) = (Arc::clone(&context.show), path.to_owned(), key.clone());
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    place::make_private(&directory)?;
    let written = blocking(move || {
        let file = tempfile::Builder::new().prefix(".bento-").tempfile_in(&directory)?;
        let mut told = 0;
        let spooled = bento::spool(
            &mut io::stdin().lock(),
            &key,
            file.as_file(),
            |held| padding.total(held),
            |bytes| {
                // As often as it is seen.
                if bytes >= told + (1 << 20) {
                    told = bytes;
                    show.now(&format!("{bytes} bytes came"));
                }
            },
        )?;
        file.as_file().sync_all()?;
        file.persist(&own).map_err(|error| error.error)?;
        Ok(spooled)
    });
    written.await.map_err(|error| Failure::file("writing", path, &error))
}

/// What is sent of a file that was read now.
pub(super) fn parcel(source: Source, file: &SealedFile) -> Result<Parcel, Failure> {
    let long = || Failure::input("the file is too long to be encrypted");
    Parcel::sealed(source, file.key().map_err(|error| Failure::input(error.to_string()))?).ok_or_else(long)
}

/// What is sent of a file that was begun before: it must be as it was.
pub(super) async fn again(context: &Context, open: &Open) -> Result<Parcel, Failure> {
    let Some(path) = &open.kept.source else {
        let (show, path) = (Arc::clone(&context.show), open.spool());
        let own = path.clone();
        let read = blocking(move || Source::open(&own, None, |done, total| show.moved("read", done, total))).await;
        let source = read.map_err(|error| Failure::file("reading", &path, &error))?;
        return if source.size() == open.kept.file.sealed { Ok(Parcel::plain(source)) } else { Err(changed(&path, &open.name)) };
    };
    let file = &open.kept.file;
    let total = FileKey::plain_size(file.sealed).ok_or_else(|| Failure::input("the file is kept with a wrong size"))?;
    let found = fs::metadata(path).map_err(|error| Failure::file("reading", path, &error))?.len();
    if found != file.size {
        return Err(changed(path, &open.name));
    }
    let source = read(context, path, Padding::Multiple(total)).await?;
    // Never another file under the same key.
    if HEXLOWER.encode(source.digest()) != file.sha256 {
        return Err(changed(path, &open.name));
    }
    parcel(source, file)
}

fn changed(path: &Path, name: &str) -> Failure {
    Failure::input(format!("{} has changed since it was begun to be sent", path.display()))
        .with_hint(format!("put it back as it was, or `bento shard rm {name}` and put it again"))
}
