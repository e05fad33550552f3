//! A stream that is sealed while it comes, for what cannot be read twice.
//!
//! What is written is what [`Parcel::sealed`](super::Parcel::sealed) would give of the same bytes. The padding's head tells the length, which is
//! known at the end only: since each chunk is sealed by its number alone, the first one is written last.

use std::{
    fs::File,
    io::{self, Read},
    os::unix::fs::FileExt as _,
};

use bento_proto::pad::HEAD;
use sha2::{Digest as _, Sha256};

use super::{
    pad,
    seal::{CHUNK, FileKey},
};

/// A stream that was sealed into a file.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Spooled {
    /// Bytes that came,
    pub size: u64,
    /// and their SHA-256.
    pub digest: [u8; 32],
    /// Bytes of the file.
    pub sealed: u64,
}

/// Seals what comes, padded, into an empty file. `total` says to how many bytes so many are padded, those of the padding's head included.
/// `progress` hears how many have come. It blocks.
///
/// # Errors
/// When the stream cannot be read or the file written, or it becomes too long.
pub fn spool(
    input: &mut impl Read,
    key: &FileKey,
    file: &File,
    total: impl FnOnce(u64) -> io::Result<u64>,
    mut progress: impl FnMut(u64),
) -> io::Result<Spooled> {
    let long = || io::Error::new(io::ErrorKind::InvalidInput, "it is too large to be encrypted");
    let write = |number: u64, is_last: bool, plain: &[u8]| {
        let sealed = key.seal(number, is_last, plain).ok_or_else(long)?;
        file.write_all_at(&sealed, FileKey::begins(number))
    };
    file.write_all_at(&key.prefix(), 0)?;
    let (mut digest, mut size) = (Sha256::new(), 0);
    let mut read = |count: usize| -> io::Result<Vec<u8>> {
        let mut chunk = Vec::with_capacity(CHUNK);
        input.take(count as u64).read_to_end(&mut chunk)?;
        digest.update(&chunk);
        size += chunk.len() as u64;
        progress(size);
        Ok(chunk)
    };
    let first = read(CHUNK - HEAD)?;
    // One chunk behind: the last one is sealed as that, and filled up.
    let (mut number, mut held) = (0, None::<Vec<u8>>);
    loop {
        let next = if first.len() < CHUNK - HEAD { Vec::new() } else { read(CHUNK)? };
        if next.is_empty() {
            break;
        }
        number += 1;
        if let Some(full) = held.replace(next) {
            write(number - 1, false, &full)?;
        }
    }
    let (size, digest): (u64, [u8; 32]) = (size, digest.finalize().into());
    let total = total(size + HEAD as u64)?;
    let last = total.div_ceil(CHUNK as u64).saturating_sub(1);
    let length = |number: u64| usize::try_from((total - number * CHUNK as u64).min(CHUNK as u64)).unwrap_or(CHUNK);
    if total < size + HEAD as u64 {
        return Err(io::Error::other("the padding is shorter than what is padded"));
    }
    let filled = |number: u64, mut plain: Vec<u8>| {
        plain.resize(length(number), 0);
        write(number, number == last, &plain)
    };
    if let Some(held) = held {
        filled(number, held)?;
    }
    for number in number + 1..=last {
        filled(number, Vec::new())?;
    }
    let mut head = pad::head(size, &digest).to_vec();
    head.extend_from_slice(&first);
    filled(0, head)?;
    Ok(Spooled { size, digest, sealed: FileKey::sealed_size(total).ok_or_else(long)? })
}

#[cfg(test)]
mod tests {
    use std::fs;

    use super::*;
    use crate::{Parcel, Source};

    #[test]
    fn what_comes_as_a_stream_is_sealed_as_a_file_is() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let first = CHUNK - HEAD;
        for size in [0, 1, first - 1, first, first + 1, first + CHUNK - 1, first + CHUNK, first + CHUNK + 1, 300_000] {
            for multiple in [1, 1000, 100_000, 1_000_000] {
                let content: Vec<u8> = (0..size).map(|index| (index % 251) as u8).collect();
                fs::write(&path, &content).unwrap();
                let key = FileKey::mint().unwrap();
                let parcel = Parcel::sealed(Source::open(&path, Some(multiple), |_, _| ()).unwrap(), key.clone()).unwrap();
                let file = tempfile::tempfile_in(directory.path()).unwrap();
                let mut told = 0;
                let spooled =
                    spool(&mut &content[..], &key, &file, |held| Ok(held.next_multiple_of(multiple)), |bytes| told = bytes).unwrap();
                assert_eq!((spooled.size, told, spooled.sealed), (size as u64, size as u64, parcel.size()), "{size} {multiple}");
                assert_eq!(spooled.digest, <[u8; 32]>::from(Sha256::digest(&content)));
                let mut sealed = vec![0; usize::try_from(parcel.size()).unwrap()];
                assert_eq!(file.metadata().unwrap().len(), parcel.size());
                file.read_exact_at(&mut sealed, 0).unwrap();
                assert!(sealed == parcel.part(0, sealed.len() + 1).unwrap(), "{size} {multiple}");
            }
        }
    }
}
