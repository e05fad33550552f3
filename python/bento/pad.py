"""Padded results: the payload's length cannot be told from the output's.

    0..8    ASCII "bentopad"
    8..16   the payload's length L, big endian
    16..48  SHA-256 of the payload
    48..    the payload, then zero bytes up to the total

The total is a multiple of a bucket, or one of a set of sizes: the smallest that holds 48 + L bytes.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable
    from typing import BinaryIO

    Payload = bytes | bytearray | memoryview | BinaryIO
    Buckets = int | Iterable[int]

MAGIC = b"bentopad"
HEADER_BYTES = 48

BUCKET_BYTES_MIN = 64
"""Smallest bucket: one that a header fits into."""

_CHUNK_BYTES = 65_536


class TooLarge(ValueError):
    """The payload fits into none of the allowed sizes."""


def size(payload: "int | Payload", buckets: "Buckets") -> int:
    """The total size of a payload (or of one of that many bytes) when padded.

    >>> size(0, 100), size(52, 100), size(53, 100)
    (100, 100, 200)
    >>> size(b"some payload", [64, 1000]), size(17, [1000, 64])
    (64, 1000)
    """
    needed = HEADER_BYTES + (payload if isinstance(payload, int) else _length(payload))
    if needed < HEADER_BYTES:
        raise ValueError("a payload cannot have a negative length")
    if isinstance(buckets, int):
        _check(buckets)
        return -(-needed // buckets) * buckets
    sizes = sorted(buckets)
    for total in sizes:
        _check(total)
    for total in sizes:
        if total >= needed:
            return total
    raise TooLarge("the payload fits into none of the allowed sizes")


def pad(payload: "bytes | bytearray | memoryview", buckets: "Buckets") -> bytes:
    """The payload with its header and padding.

    >>> len(pad(b"payload", 100))
    100
    """
    total = size(payload, buckets)
    return (_header(payload) + bytes(payload)).ljust(total, b"\0")


def header(length: int, sha256: bytes) -> bytes:
    """What stands before a payload of this length and digest; for payloads that are at hand only in pieces.

    >>> len(header(5, bytes(32)))
    48
    """
    return MAGIC + length.to_bytes(8, "big") + sha256


def unpad(padded: bytes) -> bytes:
    """The payload of a padded result; `ValueError` if this is none or was changed.

    >>> unpad(pad(b"payload", 100))
    b'payload'
    """
    import hashlib

    end = HEADER_BYTES + int.from_bytes(padded[8:16], "big")
    if len(padded) < BUCKET_BYTES_MIN or padded[:8] != MAGIC or end > len(padded):
        raise ValueError("this is not a padded result")
    payload = padded[HEADER_BYTES:end]
    if hashlib.sha256(payload).digest() != padded[16:HEADER_BYTES] or any(padded[end:]):
        raise ValueError("this padded result was changed")
    return payload


def write_padded(output: object, payload: "Payload", buckets: "Buckets") -> int:
    """Writes a payload padded to an invocation's output, whose length it declares first; returns that length.

    The payload is bytes or a binary file that can be sought; a file is read in pieces from its start.
    """
    total = size(payload, buckets)
    output.length(total)
    output.write(_header(payload))
    for chunk in _chunks(payload):
        output.write(chunk)
    left = total - HEADER_BYTES - _length(payload)
    zeros = bytes(min(left, _CHUNK_BYTES))
    while left > 0:
        left -= output.write(zeros[:left])
    return total


def _check(total: int) -> None:
    if total < BUCKET_BYTES_MIN:
        raise ValueError(f"a padded result has at least {BUCKET_BYTES_MIN} bytes")


def _header(payload: "Payload") -> bytes:
    # Imported here: with OpenSSL behind it, it is slow, and not every function that imports this module pads at once.
    import hashlib

    digest = hashlib.sha256()
    for chunk in _chunks(payload):
        digest.update(chunk)
    return header(_length(payload), digest.digest())


def _length(payload: "Payload") -> int:
    if isinstance(payload, (bytes, bytearray, memoryview)):
        return memoryview(payload).nbytes
    return payload.seek(0, 2)


def _chunks(payload: "Payload") -> "Iterable[bytes | memoryview]":
    if isinstance(payload, (bytes, bytearray, memoryview)):
        view = memoryview(payload).cast("B")
        for start in range(0, view.nbytes, _CHUNK_BYTES):
            yield view[start : start + _CHUNK_BYTES]
    else:
        payload.seek(0)
        while chunk := payload.read(_CHUNK_BYTES):
            yield chunk
