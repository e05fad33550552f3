"""Each shard encrypted and authenticated by itself, under a key of its own that only the recipe's key gives.

ChaCha20-Poly1305 (RFC 8439) of libsodium, piece by piece. The nonce is the piece's number in the shard and whether it is the last one, so that pieces cannot be swapped,
left out or cut off; that it is used once follows from the key, which belongs to one shard of one file.
"""

import hmac

TAG_BYTES = 16

KEY_BYTES = 32


class Corrupt(Exception):
    """This is not what was stored."""


class Sealer:
    """Seals and opens the pieces of one shard."""

    def __init__(self, key: bytes, number: int, pieces: int) -> None:
        # Imported when it is needed. Not `cryptography`: Debian's does not start where OpenSSL's old ciphers are not on the disk, as in a jail.
        from nacl import bindings, exceptions

        self._encrypt = bindings.crypto_aead_chacha20poly1305_ietf_encrypt
        self._decrypt = bindings.crypto_aead_chacha20poly1305_ietf_decrypt
        self._wrong = (exceptions.CryptoError, ValueError)
        self._key = _derived(key, b"bento shard 1 %d" % number)
        self._pieces = pieces

    def seal(self, index: int, piece: bytes) -> bytes:
        """The piece of this index as it is stored."""
        return self._encrypt(piece, None, self._nonce(index), self._key)

    def open(self, index: int, sealed: bytes) -> bytes:
        """The piece again."""
        try:
            return self._decrypt(sealed, None, self._nonce(index), self._key)
        except self._wrong:
            raise Corrupt("it is not what was stored") from None

    def _nonce(self, index: int) -> bytes:
        return bytes(7) + index.to_bytes(4, "big") + bytes([index == self._pieces - 1])


def _derived(key: bytes, info: bytes) -> bytes:
    """HKDF (RFC 5869) with SHA-256 and without salt, of which the first block is all that is needed."""
    extracted = hmac.digest(bytes(32), key, "sha256")
    return hmac.digest(extracted, info + b"\1", "sha256")
