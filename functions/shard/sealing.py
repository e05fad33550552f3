"""Each shard encrypted and authenticated by itself, under a key of its own that only the recipe's key gives.

AES-256-GCM, piece by piece. The nonce is the piece's number in the shard and whether it is the last one, so that pieces cannot be swapped,
left out or cut off; that it is used once follows from the key, which belongs to one shard of one file.
"""

TAG_BYTES = 16

KEY_BYTES = 32


class Corrupt(Exception):
    """This is not what was stored."""


class Sealer:
    """Seals and opens the pieces of one shard."""

    def __init__(self, key: bytes, number: int, pieces: int) -> None:
        from cryptography.hazmat.primitives.ciphers.aead import AESGCM
        from cryptography.hazmat.primitives.hashes import SHA256
        from cryptography.hazmat.primitives.kdf.hkdf import HKDF

        own = HKDF(algorithm=SHA256(), length=KEY_BYTES, salt=None, info=b"bento shard 1 %d" % number).derive(key)
        self._cipher = AESGCM(own)
        self._pieces = pieces

    def seal(self, index: int, piece: bytes) -> bytes:
        """The piece of this index as it is stored."""
        return self._cipher.encrypt(self._nonce(index), piece, None)

    def open(self, index: int, sealed: bytes) -> bytes:
        """The piece again."""
        from cryptography.exceptions import InvalidTag

        try:
            return self._cipher.decrypt(self._nonce(index), sealed, None)
        except (InvalidTag, ValueError):
            raise Corrupt("it is not what was stored") from None

    def _nonce(self, index: int) -> bytes:
        return bytes(7) + index.to_bytes(4, "big") + bytes([index == self._pieces - 1])
