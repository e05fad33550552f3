//! What an encrypted drop is: AES-256-GCM in STREAM, as `functions/dropbox/FORMAT.md` has it.
//!
//! Each chunk is sealed by its number alone, so that the ciphertext can be made again from any byte on: an upload goes on where it broke
//! off. Whoever makes it again must do so from the same plaintext, since two plaintexts under one key and prefix give both away; that is
//! held by [`Source`](super::Source), which refuses a changed file.

use std::fmt;

use aead_stream::{KeyInit as _, NewStream as _, StreamBE32, StreamPrimitive as _};
use aes_gcm::Aes256Gcm;
use zeroize::Zeroizing;

use crate::{ClientError, tokens::random};

/// Plaintext of a chunk, in bytes.
pub(super) const CHUNK: usize = 65_536;

/// What sealing adds to a chunk.
const TAG: usize = 16;

/// Random bytes before the chunks, a part of each nonce.
const PREFIX: usize = 7;

/// The key of one file, and the prefix of its nonces.
#[derive(Clone, Eq, PartialEq)]
pub struct FileKey {
    key: Zeroizing<[u8; 32]>,
    prefix: [u8; PREFIX],
}

/// Why what came is not what was sealed.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum OpenError {
    /// Nothing opens with this key.
    #[error("the key is not the key of this drop, or the drop was changed")]
    Key,
    /// A later chunk was changed, swapped or cut.
    #[error("the drop was changed or cut off")]
    Changed,
    /// It ends before a chunk does.
    #[error("the drop was cut off")]
    Cut,
    /// Longer than any can be.
    #[error("the drop is longer than such a drop can be")]
    Long,
    /// The padding inside is not what it tells.
    #[error("what is in the drop is not what was padded")]
    Padding,
    /// Not an age file, or for another identity.
    #[error("the drop cannot be opened: {0}")]
    Age(String),
}

impl FileKey {
    /// A new one, for one file.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn mint() -> Result<Self, ClientError> {
        let (key, other) = (Zeroizing::new(random()?), random()?);
        let mut prefix = [0; PREFIX];
        prefix.copy_from_slice(&other[..PREFIX]);
        Ok(Self { key, prefix })
    }

    /// The one that was made before.
    pub fn from_parts(key: [u8; 32], prefix: [u8; PREFIX]) -> Self {
        Self { key: Zeroizing::new(key), prefix }
    }

    /// The key: the secret itself.
    pub fn key(&self) -> &[u8; 32] {
        &self.key
    }

    /// The prefix, which is no secret.
    pub fn prefix(&self) -> [u8; PREFIX] {
        self.prefix
    }

    /// How long a plaintext is when it is sealed. Nothing for one that is too long.
    pub fn sealed_size(plain: u64) -> Option<u64> {
        let chunks = plain.div_ceil(CHUNK as u64).max(1);
        u32::try_from(chunks).ok()?;
        plain.checked_add(PREFIX as u64 + chunks * TAG as u64)
    }

    /// How long a plaintext is that is so long when it is sealed. Nothing for a length that none has.
    pub fn plain_size(sealed: u64) -> Option<u64> {
        let chunks = sealed.saturating_sub(PREFIX as u64).div_ceil((CHUNK + TAG) as u64);
        let plain = sealed.checked_sub(PREFIX as u64 + chunks * TAG as u64)?;
        (Self::sealed_size(plain) == Some(sealed)).then_some(plain)
    }

    /// Where a chunk begins in the sealed file.
    pub(super) fn begins(number: u64) -> u64 {
        PREFIX as u64 + number * (CHUNK + TAG) as u64
    }

    /// The chunk that holds this byte of the sealed file, and where in it; nothing for a byte of the prefix.
    pub(super) fn place(offset: u64) -> Option<(u64, usize)> {
        let behind = offset.checked_sub(PREFIX as u64)?;
        let whole = (CHUNK + TAG) as u64;
        Some((behind / whole, usize::try_from(behind % whole).unwrap_or_default()))
    }

    /// Seals one chunk.
    pub(super) fn seal(&self, number: u64, is_last: bool, plain: &[u8]) -> Option<Vec<u8>> {
        let mut chunk = Vec::with_capacity(plain.len() + TAG);
        chunk.extend_from_slice(plain);
        self.stream().encrypt_in_place(u32::try_from(number).ok()?, is_last, b"", &mut chunk).ok()?;
        Some(chunk)
    }

    fn stream(&self) -> StreamBE32<Aes256Gcm> {
        StreamBE32::from_aead(Aes256Gcm::new((&*self.key).into()), (&self.prefix).into())
    }
}

impl fmt::Debug for FileKey {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str("FileKey(…)")
    }
}

/// Takes a sealed file piece by piece and gives what it holds. Nothing of it is whole before [`end`](Self::end).
pub struct Opener {
    key: Zeroizing<[u8; 32]>,
    prefix: Vec<u8>,
    stream: Option<StreamBE32<Aes256Gcm>>,
    chunk: Vec<u8>,
    number: u64,
}

impl Opener {
    /// Opens with this key.
    pub fn new(key: [u8; 32]) -> Self {
        Self { key: Zeroizing::new(key), prefix: Vec::new(), stream: None, chunk: Vec::with_capacity(CHUNK + TAG), number: 0 }
    }

    /// Takes the next bytes; what they open is put behind `plain`.
    ///
    /// # Errors
    /// When a chunk does not open.
    pub fn take(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), OpenError> {
        if self.stream.is_none() {
            let (head, rest) = bytes.split_at(bytes.len().min(PREFIX - self.prefix.len()));
            self.prefix.extend_from_slice(head);
            bytes = rest;
            let Ok(prefix) = <[u8; PREFIX]>::try_from(self.prefix.as_slice()) else { return Ok(()) };
            self.stream = Some(FileKey { key: self.key.clone(), prefix }.stream());
        }
        while !bytes.is_empty() {
            // A full chunk is opened when something follows it: until then it may be the last one.
            if self.chunk.len() == CHUNK + TAG {
                self.open(false, plain)?;
            }
            let (piece, rest) = bytes.split_at(bytes.len().min(CHUNK + TAG - self.chunk.len()));
            self.chunk.extend_from_slice(piece);
            bytes = rest;
        }
        Ok(())
    }

    /// There is no more: opens the last chunk.
    ///
    /// # Errors
    /// When it is not the last one of what was sealed.
    pub fn end(mut self, plain: &mut Vec<u8>) -> Result<(), OpenError> {
        if self.chunk.len() < TAG { Err(OpenError::Cut) } else { self.open(true, plain) }
    }

    fn open(&mut self, is_last: bool, plain: &mut Vec<u8>) -> Result<(), OpenError> {
        let number = u32::try_from(self.number).map_err(|_| OpenError::Long)?;
        let stream = self.stream.as_ref().ok_or(OpenError::Cut)?;
        let opened = stream.decrypt_in_place(number, is_last, b"", &mut self.chunk);
        opened.map_err(|_| if number == 0 { OpenError::Key } else { OpenError::Changed })?;
        plain.append(&mut self.chunk);
        self.number += 1;
        Ok(())
    }
}

impl fmt::Debug for Opener {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.debug_struct("Opener").field("number", &self.number).finish_non_exhaustive()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const KEY: [u8; 32] = [7; 32];

    fn sealed(plain: &[u8]) -> Vec<u8> {
        let key = FileKey::from_parts(KEY, *b"prefix!");
        let chunks: Vec<&[u8]> = if plain.is_empty() { vec![b""] } else { plain.chunks(CHUNK).collect() };
        let last = chunks.len() - 1;
        let mut out = key.prefix().to_vec();
        for (number, chunk) in chunks.into_iter().enumerate() {
            out.extend(key.seal(number as u64, number == last, chunk).unwrap());
        }
        assert_eq!(Some(out.len() as u64), FileKey::sealed_size(plain.len() as u64));
        out
    }

    fn opened(pieces: &[&[u8]]) -> Result<Vec<u8>, OpenError> {
        let (mut opener, mut plain) = (Opener::new(KEY), Vec::new());
        for piece in pieces {
            opener.take(piece, &mut plain)?;
        }
        opener.end(&mut plain)?;
        Ok(plain)
    }

    fn plain(length: usize) -> Vec<u8> {
        (0..length).map(|index| (index % 251) as u8).collect()
    }

    #[test]
    fn a_file_that_was_cut_swapped_or_goes_on_does_not_open_and_the_whole_one_does() {
        let (one, whole) = (CHUNK + TAG, sealed(&plain(3 * CHUNK)));
        assert_eq!(opened(&[&whole]).unwrap(), plain(3 * CHUNK));
        // Also between two chunks.
        for length in [0, 6, 7, 7 + TAG - 1, 7 + one, 7 + 2 * one, whole.len() - 1] {
            assert!(opened(&[&whole[..length]]).is_err(), "{length}");
        }
        let swapped = [&whole[..7], &whole[7 + one..7 + 2 * one], &whole[7..7 + one], &whole[7 + 2 * one..]].concat();
        assert_eq!(opened(&[&swapped]), Err(OpenError::Key));
        assert_eq!(opened(&[&whole, &[0]]), Err(OpenError::Changed));
        assert_eq!(opened(&[&whole, &whole[7..]]), Err(OpenError::Changed));
        let (mut other, mut out) = (Opener::new([8; 32]), Vec::new());
        other.take(&whole[..8], &mut out).unwrap();
        assert_eq!((other.take(&whole[8..], &mut out), out.len()), (Err(OpenError::Key), 0));
    }

    proptest! {
        #[test]
        fn the_length_of_a_plaintext_follows_from_its_sealed_length(plain in 0u64..10_000_000, sealed in 0u64..10_000_000) {
            prop_assert_eq!(FileKey::plain_size(FileKey::sealed_size(plain).unwrap()), Some(plain));
            if let Some(plain) = FileKey::plain_size(sealed) {
                prop_assert_eq!(FileKey::sealed_size(plain), Some(sealed));
            }
        }
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(24))]
        #[test]
        fn whatever_pieces_it_comes_in_it_opens_and_with_one_bit_changed_it_does_not(
            length in 0usize..2 * CHUNK + 3, cuts in prop::collection::vec(any::<prop::sample::Index>(), 0..6),
            at in any::<prop::sample::Index>(), bit in 0u8..8,
        ) {
            let mut whole = sealed(&plain(length));
            let mut cuts: Vec<usize> = cuts.iter().map(|cut| cut.index(whole.len() + 1)).collect();
            cuts.extend([0, whole.len()]);
            cuts.sort_unstable();
            let pieces: Vec<&[u8]> = cuts.windows(2).map(|pair| &whole[pair[0]..pair[1]]).collect();
            prop_assert_eq!(opened(&pieces).unwrap(), plain(length));
            let place = at.index(whole.len());
            whole[place] ^= 1 << bit;
            prop_assert!(opened(&[&whole]).is_err());
        }
    }
}
