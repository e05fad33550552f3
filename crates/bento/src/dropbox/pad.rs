//! Padding that is put around a file, and taken off, while it passes: the form of [`bento_proto::pad`].

use bento_proto::pad::HEAD;
use sha2::{Digest as _, Sha256};

use super::OpenError;

const MAGIC: &[u8; 8] = b"bentopad";

/// What is before a file of this length and digest.
pub(super) fn head(length: u64, digest: &[u8; 32]) -> [u8; HEAD] {
    let mut head = [0; HEAD];
    head[..8].copy_from_slice(MAGIC);
    head[8..16].copy_from_slice(&length.to_be_bytes());
    head[16..].copy_from_slice(digest);
    head
}

/// Takes padding off what comes piece by piece. Nothing of it is whole before [`end`](Self::end).
#[derive(Debug, Default)]
pub(super) struct Unpad {
    head: Vec<u8>,
    left: u64,
    digest: Sha256,
}

impl Unpad {
    /// Takes the next bytes; what of them is the file's is put behind `plain`.
    pub(super) fn take(&mut self, mut bytes: &[u8], plain: &mut Vec<u8>) -> Result<(), OpenError> {
        if self.head.len() < HEAD {
            let (head, rest) = bytes.split_at(bytes.len().min(HEAD - self.head.len()));
            self.head.extend_from_slice(head);
            bytes = rest;
            if self.head.len() < HEAD {
                return Ok(());
            }
            if !self.head.starts_with(MAGIC) {
                return Err(OpenError::Padding);
            }
            self.left = self.head[8..16].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
        }
        let count = usize::try_from(self.left).unwrap_or(usize::MAX).min(bytes.len());
        let (file, zeros) = bytes.split_at(count);
        self.digest.update(file);
        plain.extend_from_slice(file);
        self.left -= count as u64;
        if zeros.iter().all(|byte| *byte == 0) { Ok(()) } else { Err(OpenError::Padding) }
    }

    /// There is no more: is the file whole, and the one that was padded?
    pub(super) fn end(self) -> Result<(), OpenError> {
        let is_whole = self.head.len() == HEAD && self.left == 0 && self.digest.finalize()[..] == self.head[16..];
        if is_whole { Ok(()) } else { Err(OpenError::Padding) }
    }
}

#[cfg(test)]
mod tests {
    use bento_proto::pad::unpad;
    use proptest::prelude::*;

    use super::*;

    fn taken(pieces: &[&[u8]]) -> Result<Vec<u8>, OpenError> {
        let (mut taker, mut plain) = (Unpad::default(), Vec::new());
        for piece in pieces {
            taker.take(piece, &mut plain)?;
        }
        taker.end().map(|()| plain)
    }

    proptest! {
        #[test]
        fn it_takes_what_the_whole_form_takes_and_refuses_what_that_refuses(
            file in prop::collection::vec(any::<u8>(), 0..200), more in 0usize..100, cut in any::<prop::sample::Index>(),
            at in any::<prop::sample::Index>(), length in any::<prop::sample::Index>(),
        ) {
            let mut padded = [&head(file.len() as u64, &Sha256::digest(&file).into())[..], &file, &vec![0; more]].concat();
            prop_assert_eq!(unpad(&padded, |_| true).unwrap(), &file[..]);
            let (one, two) = padded.split_at(cut.index(padded.len()));
            prop_assert_eq!(taken(&[one, two]).unwrap(), file.clone());
            let short = &padded[..length.index(padded.len())];
            prop_assert_eq!(taken(&[short]).is_ok(), unpad(short, |_| true).is_ok());
            let place = at.index(padded.len());
            padded[place] ^= 1;
            prop_assert!(taken(&[&padded]).is_err());
        }
    }
}
