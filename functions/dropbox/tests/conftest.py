"""What the tests share: a Dropbox over one store, and sealing as `FORMAT.md` says it."""

import hashlib
import json
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT / "python")]

from bento.testing import FakeApi, FakeStore  # noqa: E402

import dropbox  # noqa: E402

MANIFEST = HERE.parent / "manifest.toml"
CHUNK_BYTES = 65_536


class Box:
    """A Dropbox: each call is an invocation of its own, as a node has it."""

    def __init__(self, store: FakeStore | None = None) -> None:
        self.first = FakeApi.from_manifest(MANIFEST, store=store)

    @property
    def store(self) -> FakeStore:
        return self.first.kept

    def api(self, input: object = b"") -> FakeApi:
        return self.first.next(input)

    def ask(self, method: str, input: object = b"", **arguments: object) -> dict:
        """Runs a method that tells something."""
        api = self.api(input)
        return json.loads(api.run(getattr(dropbox, method), **arguments))

    def get(self, drop: str, **arguments: object) -> bytes:
        return self.api().run(dropbox.get, drop=drop, **arguments)

    def keep(self, drop: str, data: bytes, **arguments: object) -> dict:
        return self.ask("drop", data, drop=drop, size=len(data), sha256=sha256(data), **arguments)


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def plaintext(size: int) -> bytes:
    """The plaintext of the vectors: byte i is i modulo 251."""
    return (bytes(range(251)) * (size // 251 + 1))[:size]


def sealed(key: bytes, prefix: bytes, data: bytes) -> bytes:
    """The file of a drop."""
    from cryptography.hazmat.primitives.ciphers.aead import AESGCM

    cipher = AESGCM(key)
    starts = range(0, len(data), CHUNK_BYTES) or [0]
    found = [prefix]
    for number, start in enumerate(starts):
        last = start + CHUNK_BYTES >= len(data)
        found.append(cipher.encrypt(prefix + number.to_bytes(4, "big") + bytes([last]), data[start : start + CHUNK_BYTES], None))
    return b"".join(found)


@pytest.fixture
def box() -> Box:
    return Box()
