"""Content encodings undone piece by piece, so that a bomb stops at the bound and not in memory."""

import threading
import zlib
from collections.abc import Iterable, Iterator

# Output of one step. A gzip or deflate stream is asked for no more than this at a time.
_STEP = 256 * 1024

# One Brotli meta-block makes at most 16 MiB and takes about 13 bytes to ask for. This library version has no bound on
# the output of one call, so that it is fed so little that a call makes two or three at most.
_BROTLI_BYTES = 16
# And only one thread at a time, so that the worst case is paid once.
_brotli_lock = threading.Lock()


class Undecodable(Exception):
    """A body that is not encoded as its head says."""


def decoded(chunks: Iterable[bytes], encodings: str) -> Iterator[bytes]:
    """The chunks of a body with its `Content-Encoding` undone, in pieces of bounded size."""
    names = [name.strip().lower() for name in encodings.split(",")]
    names = [name for name in names if name not in ("", "identity", "none", "utf-8", "binary")]
    if len(names) > 2:
        raise Undecodable("it is encoded more than twice")
    for name in reversed(names):
        if name in ("gzip", "x-gzip"):
            chunks = _inflated(chunks, 16 + zlib.MAX_WBITS)
        elif name == "deflate":
            chunks = _inflated(chunks, zlib.MAX_WBITS)
        elif name == "br":
            chunks = _unbrotlied(chunks)
        else:
            raise Undecodable(f"its encoding is {name[:40]!r}")
    return iter(chunks)


def _inflated(chunks: Iterable[bytes], window: int) -> Iterator[bytes]:
    stream, ended, head = None, 0, b""
    for chunk in chunks:
        while chunk:
            if stream is None:
                # What it is can be told from two bytes, which may come one by one.
                head, chunk = head + chunk, b""
                if len(head) < 2:
                    continue
                if ended and head[:2] != b"\x1f\x8b":
                    return  # bytes after the stream that are no further one are ignored, as browsers do
                # Some servers say deflate and send it without the zlib head; browsers take both.
                bare = window == zlib.MAX_WBITS and (head[0] & 15 != 8 or (head[0] << 8 | head[1]) % 31)
                stream = zlib.decompressobj(-window if bare else window)
                head, chunk = b"", head
            try:
                piece = stream.decompress(chunk, _STEP)
            except zlib.error as error:
                raise Undecodable(f"not what its encoding says: {error}") from None
            if piece:
                yield piece
            chunk = stream.unconsumed_tail
            if stream.eof:
                if window == zlib.MAX_WBITS:
                    return
                chunk, ended, stream = stream.unused_data, ended + 1, None
    while stream is not None and (piece := stream.decompress(stream.unconsumed_tail, _STEP)):
        yield piece


def _unbrotlied(chunks: Iterable[bytes]) -> Iterator[bytes]:
    import brotli

    stream = brotli.Decompressor()
    for chunk in chunks:
        for at in range(0, len(chunk), _BROTLI_BYTES):
            if stream.is_finished():
                return
            try:
                with _brotli_lock:
                    piece = stream.process(chunk[at:at + _BROTLI_BYTES])
            except brotli.error as error:
                raise Undecodable(f"not what its encoding says: {error}") from None
            if piece:
                yield piece
