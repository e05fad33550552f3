//! How bytes are sealed: XChaCha20-Poly1305, under keys that all follow from one random key per function.
//!
//! Nonces are 192 random bits, so none repeats, whatever crashed and was done again. What is sealed is bound to its place.

use bento_seal::{Cipher, NONCE_BYTES as NONCE, TAG_BYTES};
use hkdf::Hkdf;
use hmac::{Hmac, Mac};
use sha2::Sha256;
use zeroize::Zeroizing;

use super::{CHUNK, Cause, Id, StoreError};

/// Bytes of a tag.
pub(super) const TAG: usize = TAG_BYTES;

/// Bytes of a chunk on the disk.
pub(super) const SEALED_CHUNK: usize = NONCE + CHUNK + TAG;

/// The tag of something sealed, which nothing else under the same key has.
pub(super) type TagBytes = [u8; TAG];

/// Random bytes of the operating system.
pub(super) fn random<const N: usize>() -> Result<[u8; N], StoreError> {
    let mut bytes = [0; N];
    getrandom::fill(&mut bytes)
        .map_err(|_| StoreError::System("asking for random bytes", Cause::File(std::io::ErrorKind::Other.into())))?;
    Ok(bytes)
}

/// What a sealed text belongs to. Each part but the last has a fixed length for each purpose, so no two places are alike.
fn place(purpose: &str, parts: &[&[u8]]) -> Vec<u8> {
    let mut place = Vec::with_capacity(96);
    place.push(purpose.len() as u8);
    place.extend_from_slice(purpose.as_bytes());
    parts.iter().for_each(|part| place.extend_from_slice(part));
    place
}

/// The keys of one function, or the node's own.
pub(super) struct Keys {
    cipher: Cipher,
    names: Zeroizing<[u8; 32]>,
    leaves: Zeroizing<[u8; 32]>,
}

impl Keys {
    /// The keys that follow from a data key, for this function alone.
    pub(super) fn new(data: &[u8; 32], id: Id) -> Self {
        let derive = |purpose: &str| {
            let mut key = Zeroizing::new([0; 32]);
            // Fails for more than 8,160 bytes only.
            let _ = Hkdf::<Sha256>::new(Some(&id.0), data).expand(purpose.as_bytes(), key.as_mut());
            key
        };
        Self {
            cipher: Cipher::new(&derive("bento store seal 1")),
            names: derive("bento store names 1"),
            leaves: derive("bento store leaves 1"),
        }
    }

    /// Seals a text for one place: nonce, ciphertext, tag.
    pub(super) fn seal(&self, purpose: &str, parts: &[&[u8]], text: &[u8]) -> Result<Vec<u8>, StoreError> {
        seal(&self.cipher, purpose, parts, text)
    }

    /// What was sealed for this place, if this was.
    pub(super) fn open(&self, purpose: &str, parts: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
        open(&self.cipher, purpose, parts, sealed)
    }

    /// Seals a chunk where it lies: `buffer` is room for a nonce and a whole chunk, and gets the tag at its end.
    pub(super) fn seal_chunk(&self, object: &[u8; 16], index: u64, buffer: &mut Vec<u8>) -> Result<TagBytes, StoreError> {
        let nonce = random::<NONCE>()?;
        buffer[..NONCE].copy_from_slice(&nonce);
        let place = place("chunk", &[object, &index.to_le_bytes()]);
        let tag = self.cipher.encrypt(&nonce, &place, &mut buffer[NONCE..]).ok_or_else(too_long)?;
        buffer.extend_from_slice(&tag);
        Ok(tag)
    }

    /// Opens a chunk where it lies, if it is the one with this tag. The text is then what [`chunk_text`] says.
    pub(super) fn open_chunk(&self, object: &[u8; 16], index: u64, tag: &TagBytes, sealed: &mut [u8]) -> bool {
        let Some((head, rest)) = sealed.split_first_chunk_mut::<NONCE>() else { return false };
        let Some((text, own)) = rest.split_last_chunk_mut::<TAG>() else { return false };
        let place = place("chunk", &[object, &index.to_le_bytes()]);
        own == tag && self.cipher.decrypt(head, &place, text, tag)
    }

    /// Where an object of this name is found.
    pub(super) fn name(&self, space: u8, name: &str) -> [u8; 16] {
        let full = mac(&self.names, &[&[space], name.as_bytes()]);
        let mut key = [0; 16];
        key.copy_from_slice(&full[..16]);
        key
    }

    /// What a record adds to the sum over all records.
    pub(super) fn leaf(&self, kind: u8, parts: &[&[u8]]) -> [u8; 32] {
        let mut mac = start(&self.leaves);
        mac.update(&[kind]);
        for part in parts {
            mac.update(&(part.len() as u64).to_le_bytes());
            mac.update(part);
        }
        mac.finalize().into_bytes().into()
    }
}

/// Where in a chunk's buffer its text lies.
pub(super) const TEXT: std::ops::Range<usize> = NONCE..NONCE + CHUNK;

/// The tag at the end of something sealed.
pub(super) fn tag_of(sealed: &[u8]) -> Option<TagBytes> {
    sealed.last_chunk::<TAG>().copied()
}

/// Seals under a key that is used for this one thing.
pub(super) fn wrap(key: &[u8; 32], purpose: &str, parts: &[&[u8]], text: &[u8]) -> Result<Vec<u8>, StoreError> {
    seal(&Cipher::new(key), purpose, parts, text)
}

/// What was sealed with [`wrap`].
pub(super) fn unwrap(key: &[u8; 32], purpose: &str, parts: &[&[u8]], sealed: &[u8]) -> Option<Zeroizing<Vec<u8>>> {
    open(&Cipher::new(key), purpose, parts, sealed).map(Zeroizing::new)
}

fn seal(cipher: &Cipher, purpose: &str, parts: &[&[u8]], text: &[u8]) -> Result<Vec<u8>, StoreError> {
    let nonce = random::<NONCE>()?;
    let mut sealed = Vec::with_capacity(NONCE + text.len() + TAG);
    sealed.extend_from_slice(&nonce);
    sealed.extend_from_slice(text);
    let tag = cipher.encrypt(&nonce, &place(purpose, parts), &mut sealed[NONCE..]).ok_or_else(too_long)?;
    sealed.extend_from_slice(&tag);
    Ok(sealed)
}

fn open(cipher: &Cipher, purpose: &str, parts: &[&[u8]], sealed: &[u8]) -> Option<Vec<u8>> {
    let (nonce, rest) = sealed.split_first_chunk::<NONCE>()?;
    let (text, tag) = rest.split_last_chunk::<TAG>()?;
    let mut text = text.to_vec();
    cipher.decrypt(nonce, &place(purpose, parts), &mut text, tag).then_some(text)
}

fn start(key: &[u8; 32]) -> Hmac<Sha256> {
    // HMAC takes keys of every length, so one of its block's length is taken, too.
    let mut block = Zeroizing::new([0; 64]);
    block[..32].copy_from_slice(key);
    <Hmac<Sha256> as hmac::KeyInit>::new((&*block).into())
}

fn mac(key: &[u8; 32], parts: &[&[u8]]) -> [u8; 32] {
    let mut mac = start(key);
    parts.iter().for_each(|part| mac.update(part));
    mac.finalize().into_bytes().into()
}

fn too_long() -> StoreError {
    StoreError::System("sealing", Cause::File(std::io::ErrorKind::InvalidInput.into()))
}
