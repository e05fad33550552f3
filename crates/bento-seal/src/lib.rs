//! XChaCha20-Poly1305, where the bytes lie.
//!
//! A crate of its own because the cipher is generic code, which is compiled where it is used: here builds for development can optimise it, and
//! leave the rest of the node quick to build. Without that a test stores 6 MB a second. Makes no nonces and no keys.
#![forbid(unsafe_code)]

use chacha20poly1305::{AeadInOut, KeyInit, Tag, XChaCha20Poly1305, XNonce};

/// Bytes of a nonce. So many that random ones never repeat.
pub const NONCE_BYTES: usize = 24;

/// Bytes of a tag.
pub const TAG_BYTES: usize = 16;

/// A key, ready for use. Wiped when it is dropped.
pub struct Cipher(XChaCha20Poly1305);

impl Cipher {
    /// The cipher of a key.
    pub fn new(key: &[u8; 32]) -> Self {
        Self(XChaCha20Poly1305::new(key.into()))
    }

    /// Encrypts a text where it lies, for one place. None if it is longer than the cipher takes, which is 256 GiB.
    pub fn encrypt(&self, nonce: &[u8; NONCE_BYTES], place: &[u8], text: &mut [u8]) -> Option<[u8; TAG_BYTES]> {
        self.0.encrypt_inout_detached(&XNonce::from(*nonce), place, text.into()).map(Into::into).ok()
    }

    /// Decrypts a text where it lies, if it was encrypted for this place. Otherwise what is there then is worth nothing.
    pub fn decrypt(&self, nonce: &[u8; NONCE_BYTES], place: &[u8], text: &mut [u8], tag: &[u8; TAG_BYTES]) -> bool {
        self.0.decrypt_inout_detached(&XNonce::from(*nonce), place, text.into(), &Tag::from(*tag)).is_ok()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_encrypted_comes_back_for_its_place_and_key_and_for_no_other() {
        let (cipher, other) = (Cipher::new(&[1; 32]), Cipher::new(&[2; 32]));
        let mut text = *b"some text";
        let tag = cipher.encrypt(&[7; 24], b"here", &mut text).unwrap();
        assert_ne!(&text, b"some text");
        let sealed = text;
        assert!(!other.decrypt(&[7; 24], b"here", &mut text, &tag));
        for (nonce, place, flip) in [([8; 24], b"here", 0), ([7; 24], b"gone", 0), ([7; 24], b"here", 1)] {
            text = sealed;
            text[3] ^= flip;
            assert!(!cipher.decrypt(&nonce, place, &mut text, &tag));
        }
        text = sealed;
        assert!(cipher.decrypt(&[7; 24], b"here", &mut text, &tag));
        assert_eq!(&text, b"some text");
    }

    // From draft-irtf-cfrg-xchacha-03, appendix A.3.1.
    #[test]
    fn it_is_the_cipher_of_the_draft() {
        let key: [u8; 32] = std::array::from_fn(|at| 0x80 + at as u8);
        let nonce: [u8; 24] = std::array::from_fn(|at| 0x40 + at as u8);
        let place = [0x50, 0x51, 0x52, 0x53, 0xc0, 0xc1, 0xc2, 0xc3, 0xc4, 0xc5, 0xc6, 0xc7];
        let mut text =
            *b"Ladies and Gentlemen of the class of '99: If I could offer you only one tip for the future, sunscreen would be it.";
        let tag = Cipher::new(&key).encrypt(&nonce, &place, &mut text).unwrap();
        assert_eq!(text[..8], [0xbd, 0x6d, 0x17, 0x9d, 0x3e, 0x83, 0xd4, 0x3b]);
        assert_eq!(tag, [0xc0, 0x87, 0x59, 0x24, 0xc1, 0xc7, 0x98, 0x79, 0x47, 0xde, 0xaf, 0xd8, 0x78, 0x0a, 0xcf, 0x49]);
    }
}
