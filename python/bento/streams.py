"""Streams to and from the node that the store, other nodes and sealing share.

Imported when one of them is first used. `select` is built into the interpreter.
"""

import _socket
import errno
import io
import select

from bento.api import CHUNK_BYTES

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator
    from typing import BinaryIO

    Data = bytes | bytearray | memoryview | BinaryIO | Iterable[bytes]
    """What can be sent: bytes, a binary file, or pieces."""


def opened(stream: "_socket.socket | None") -> "_socket.socket":
    """The stream of an answer that has to have one."""
    if stream is None:
        raise OSError(errno.EMFILE, "no descriptor is left for the stream")
    return stream


def pieces(data: "Data") -> "Iterator[memoryview]":
    """The data piece by piece, none of them empty."""
    if isinstance(data, (bytes, bytearray, memoryview)):
        return _cut((data,))
    if hasattr(data, "read"):
        # `read1` gives what is there; `read` would wait until the whole chunk has come.
        read = getattr(data, "read1", None) or data.read
        return _cut(iter(lambda: read(CHUNK_BYTES), b""))
    if isinstance(data, str) or not hasattr(data, "__iter__"):
        raise TypeError("data is bytes, a binary file or an iterable of bytes; a text is encoded first")
    return _cut(data)


def _cut(parts: "Iterable[bytes]") -> "Iterator[memoryview]":
    for part in parts:
        octets = memoryview(part).cast("B")
        for start in range(0, octets.nbytes, CHUNK_BYTES):
            yield octets[start : start + CHUNK_BYTES]


class _Exchanged(io.RawIOBase):
    """Sends the data while it is read from: neither side can then wait for the other for ever, and it takes no thread."""

    def __init__(self, stream: "_socket.socket", data: "Data", ended: "Callable[[], None] | None") -> None:
        self._stream = stream
        self._pieces = pieces(data)
        self._piece = memoryview(b"")
        self._sending = True
        self._ended = ended
        self._poll = select.poll()
        self._poll.register(stream.fileno(), select.POLLIN | select.POLLOUT)

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        self._send()
        try:
            count = self._stream.recv_into(buffer)
        except ConnectionError:
            if self._ended is not None:
                self._ended()
            raise
        if not count:
            # What was not sent by now is not wanted, and the node need not wait for it.
            self._finish()
            if self._ended is not None:
                # Kept if it raises: who reads on is told again.
                self._ended()
                self._ended = None
        return count

    def _send(self) -> None:
        """Sends until there is something to read, or all is sent."""
        while self._sending:
            if not self._piece:
                # What it raises ends the exchange without the end of the data: the other side must not take the part for the whole.
                try:
                    piece = next(self._pieces, None)
                except BaseException:
                    self._sending = False
                    self._stream.close()
                    raise
                if piece is None:
                    self._finish()
                    return
                self._piece = piece
            events = self._poll.poll()[0][1]
            if events & select.POLLOUT and not events & (select.POLLERR | select.POLLHUP):
                try:
                    count = self._stream.send(self._piece, _socket.MSG_DONTWAIT)
                except BlockingIOError:
                    pass
                except ConnectionError:
                    self._sending = False
                    return
                else:
                    self._piece = self._piece[count:]
            elif events & (select.POLLERR | select.POLLHUP):
                # The other side wants no more; what it has said is still there.
                self._sending = False
                return
            if events & select.POLLIN:
                return

    def _finish(self) -> None:
        self._sending = False
        try:
            self._stream.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # It has closed already.

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


class Exchange(io.BufferedReader):
    """What comes back while data is sent: a binary file. Iterating gives chunks as they arrive, not lines.

    The data is sent as this is read; close it, or use `with`, when it is not read to its end.
    """

    def __init__(self, stream: "_socket.socket", data: "Data", ended: "Callable[[], None] | None" = None) -> None:
        super().__init__(_Exchanged(stream, data, ended), CHUNK_BYTES)

    def __iter__(self) -> "Exchange":
        return self

    def __next__(self) -> bytes:
        chunk = self.read1(CHUNK_BYTES)
        if not chunk:
            raise StopIteration
        return chunk
