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
    raw = window == zlib.MAX_WBITS
    stream = zlib.decompressobj(window)
    # True before the first byte of a stream was understood, and how many streams were.
    fresh, ended = True, 0
    for chunk in chunks:
        while chunk:
            try:
                piece = stream.decompress(chunk, _STEP)
            except zlib.error as error:
                if fresh and raw:
                    # Some servers say deflate and send it without the zlib head; browsers take both.
                    raw, stream = False, zlib.decompressobj(-zlib.MAX_WBITS)
                    continue
                if fresh and ended:
                    return  # bytes after the stream that are no further one are ignored, as browsers do
                raise Undecodable(f"not what its encoding says: {error}") from None
            fresh = False
            if piece:
                yield piece
            chunk = stream.unconsumed_tail
            if stream.eof:
                ended += 1
                if window == zlib.MAX_WBITS:
                    return
                chunk, fresh, stream = stream.unused_data, True, zlib.decompressobj(window)
    while piece := stream.decompress(stream.unconsumed_tail, _STEP):
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
