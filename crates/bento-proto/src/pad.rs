//! Results padded to a promised size, so that the size says nothing of the content.
//!
//! ```text
//! 0..8      ASCII "bentopad"
//! 8..16     length of the payload, big endian
//! 16..48    SHA-256 of the payload
//! 48..      the payload, then zero bytes up to the end
//! ```

use sha2::{Digest as _, Sha256};

/// Bytes before the payload.
pub const HEAD: usize = 48;

const MAGIC: &[u8; 8] = b"bentopad";

/// Why bytes are no padded result.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PadError {
    /// The head is missing or another's.
    #[error("the result does not begin as a padded one does")]
    Head,
    /// The size is not one that was asked for.
    #[error("the result has {0} bytes, which is not a size that was asked for")]
    Size(usize),
    /// The head tells of more than there is.
    #[error("the result tells of {told} bytes and holds {held}")]
    Length {
        /// By its head.
        told: u64,
        /// Behind its head.
        held: usize,
    },
    /// The digest differs: bytes were changed on the way.
    #[error("the result's digest is not that of its content")]
    Digest,
    /// Something other than zeros is behind the payload.
    #[error("the result's padding holds something")]
    Padding,
}

/// The payload of a padded result. `fits` says whether a total size is one that was asked for.
///
/// # Errors
/// When the result is not whole and exact.
pub fn unpad(padded: &[u8], fits: impl FnOnce(usize) -> bool) -> Result<&[u8], PadError> {
    let head = padded.get(..HEAD).ok_or(PadError::Head)?;
    if &head[..8] != MAGIC {
        return Err(PadError::Head);
    }
    if !fits(padded.len()) {
        return Err(PadError::Size(padded.len()));
    }
    let told = head[8..16].iter().fold(0, |number, byte| number << 8 | u64::from(*byte));
    let body = &padded[HEAD..];
    let length = usize::try_from(told).ok().filter(|length| *length <= body.len());
    let (payload, padding) = body.split_at(length.ok_or(PadError::Length { told, held: body.len() })?);
    if Sha256::digest(payload)[..] != head[16..48] {
        return Err(PadError::Digest);
    }
    if padding.iter().any(|byte| *byte != 0) {
        return Err(PadError::Padding);
    }
    Ok(payload)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn pad(payload: &[u8], total: usize) -> Vec<u8> {
        let mut out = [MAGIC.as_slice(), &(payload.len() as u64).to_be_bytes(), &Sha256::digest(payload), payload].concat();
        out.resize(total, 0);
        out
    }

    proptest! {
        #[test]
        fn what_was_padded_comes_back_and_no_changed_byte_passes(payload in prop::collection::vec(any::<u8>(), 0..300), more in 0usize..300, at in any::<prop::sample::Index>(), bit in 0u8..8) {
            let total = HEAD + payload.len() + more;
            let mut padded = pad(&payload, total);
            prop_assert_eq!(unpad(&padded, |size| size == total).unwrap(), &payload[..]);
            prop_assert_eq!(unpad(&padded, |size| size == total + 1), Err(PadError::Size(total)));
            padded[at.index(total)] ^= 1 << bit;
            prop_assert!(unpad(&padded, |_| true).is_err());
        }

        #[test]
        fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            let _ = unpad(&bytes, |_| true);
            let _ = unpad(&[MAGIC.as_slice(), &bytes].concat(), |_| true);
        }
    }
}
