"""`api.store`: names and bytes that last as long as the function, sealed at the node.

A value of at most 8 KiB travels inside the call's frame; a larger one through a stream. Nothing is changed before its commit, and
what a commit has acknowledged survives the node's end.
"""

import _socket
import binascii
import io

from bento.api import CHUNK_BYTES, BadCall, Damaged, Missing
from bento.streams import opened, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

    from bento.api import Ask
    from bento.streams import Data

NAME_BYTES_MAX = 512
"""Longest name, in bytes of UTF-8."""

VALUE_BYTES_MAX = 8_192
"""Longest value inside a frame: in base64, with the longest name, it stays below 16 KiB."""


class Entry(tuple):
    """A name in the store and its size: `entry.name`, `entry.size`, or both in a tuple."""

    __slots__ = ()
    name = property(lambda self: self[0], doc="Its name.")
    size = property(lambda self: self[1], doc="How many bytes it has.")


class Usage(tuple):
    """Bytes counted against the grant's `storage`, and the grant: `usage.used`, `usage.limit`."""

    __slots__ = ()
    used = property(lambda self: self[0], doc="What is used of it.")
    limit = property(lambda self: self[1], doc="What the function was granted.")


class Writer(io.RawIOBase):
    """Bytes on their way into the store. `commit` makes them its content; closed without, nothing is changed.

    As a context it commits on a clean exit, and changes nothing when it is left by an exception.
    """

    size = 0
    """How many bytes the object has after the commit."""

    def __init__(self, ask: "Ask", number: int, stream: "_socket.socket") -> None:
        self._ask = ask
        self._number = number
        self._stream = stream
        self._written = 0

    def writable(self) -> bool:
        """Always."""
        return True

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        """Writes all of the data; waits while the node is slower."""
        if self.closed:
            raise ValueError("the writer is closed")
        with memoryview(data) as view, view.cast("B") as octets:
            try:
                self._stream.sendall(octets)
            except ConnectionError:
                # The node takes no more, and says why when it is asked to commit.
                self.commit()
                raise
            self._written += octets.nbytes
            return octets.nbytes

    def commit(self) -> int:
        """Makes what was written durable, all of it at once; returns the size of the object."""
        if self.closed:
            raise ValueError("the writer is closed")
        try:
            self._stream.shutdown(_socket.SHUT_WR)
        except OSError:
            pass  # The node has closed it, and will say why.
        try:
            answer, _ = self._ask("store.commit", {"writer": self._number, "bytes": self._written}).result()
        finally:
            super().close()
            self._stream.close()
        self.size = answer["bytes"]
        return self.size

    def close(self) -> None:
        """Gives up what was not committed."""
        if not self.closed:
            super().close()
            self._stream.close()
            # Another number than was sent: so the node gives it up now, and the name is free for the next writer.
            try:
                self._ask("store.commit", {"writer": self._number, "bytes": self._written + 1}).result()
            except OSError:
                pass  # As it must.

    def __exit__(self, kind: type | None, *rest: object) -> None:
        if kind is None and not self.closed:
            self.commit()
        else:
            self.close()


class _Stored(io.RawIOBase):
    """A stream from the store that has to bring so many bytes."""

    def __init__(self, name: str, stream: "_socket.socket", count: int) -> None:
        self._name = name
        self._stream = stream
        self._left = count

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: memoryview) -> int:
        wanted = min(len(buffer), self._left)
        if not wanted:
            return 0
        try:
            count = self._stream.recv_into(buffer, wanted)
        except ConnectionError:
            count = 0
        if not count:
            raise Damaged(5, f"{self._name!r}: the node could not read all of it; what is on its disk is not what was stored")
        self._left -= count
        return count

    def close(self) -> None:
        if not self.closed:
            super().close()
            self._stream.close()


class Reader(io.BufferedReader):
    """Stored bytes: a buffered binary file to read from. Iterating gives chunks, not lines.

    It ends after exactly what was asked for, or raises `Damaged`: a part is never taken for the whole.
    """

    def __init__(self, raw: io.RawIOBase, size: int) -> None:
        super().__init__(raw, CHUNK_BYTES)
        self.size = size
        """How many bytes the whole object has."""

    def __iter__(self) -> "Reader":
        return self

    def __next__(self) -> bytes:
        chunk = self.read1(CHUNK_BYTES)
        if not chunk:
            raise StopIteration
        return chunk


class Store:
    """What a function keeps: names of 1 to 512 bytes in UTF-8, each with a content of any size within the grant's `storage`.

    Each change happens as a whole or not at all, and is durable when the call returns.
    """

    def __init__(self, ask: "Ask") -> None:
        self._ask = ask

    def put(self, name: str, data: "Data") -> int:
        """Makes the data (bytes, a binary file, or an iterable of bytes) the content of a name; returns its size."""
        head = bytearray()
        rest = pieces(data)
        for piece in rest:
            head += piece
            if len(head) > VALUE_BYTES_MAX:
                with self.writer(name) as out:
                    out.write(head)
                    for piece in rest:
                        out.write(piece)
                return out.size
        value = binascii.b2a_base64(head, newline=False).decode()
        answer, _ = self._ask("store.put", {"name": _checked(name), "value": value}).result()
        return answer["bytes"]

    def append(self, name: str, data: "Data") -> int:
        """Adds the data at the end of what the name has, or begins it; returns the size of all. All of it is there then, or nothing."""
        with self.writer(name, append=True) as out:
            for piece in pieces(data):
                out.write(piece)
        return out.size

    def writer(self, name: str, append: bool = False) -> Writer:
        """A file to write a new content to, or more of it. Use it as a context: it commits on a clean exit."""
        answer, stream = self._ask("store.append" if append else "store.put", {"name": _checked(name)}).result()
        return Writer(self._ask, answer["writer"], opened(stream))

    def get(self, name: str, offset: int = 0, length: int | None = None) -> bytes:
        """The content of a name, or `length` bytes of it from `offset` on (fewer at its end)."""
        with self.open(name, offset, length) as file:
            return file.read()

    def open(self, name: str, offset: int = 0, length: int | None = None) -> Reader:
        """The same as a file to read from, for what is large."""
        answer, stream = self._ask("store.get", ranged(name, offset, length)).result()
        size = answer["bytes"]
        count = max(0, size - offset)
        if length is not None:
            count = min(count, length)
        if "value" in answer:
            value = binascii.a2b_base64(answer["value"])
            if len(value) != count:
                raise Damaged(5, f"{name!r}: the node gave {len(value)} bytes of {count}")
            return Reader(io.BytesIO(value), size)
        return Reader(_Stored(name, opened(stream), count), size)

    def size(self, name: str) -> int:
        """How many bytes a name has."""
        with self.open(name, 0, 0) as file:
            return file.size

    def delete(self, name: str) -> bool:
        """Removes a name; tells whether it was there."""
        answer, _ = self._ask("store.delete", {"name": _checked(name)}).result()
        return answer["existed"]

    def list(self, prefix: str = "") -> "Iterator[Entry]":
        """All names with this beginning, sorted by their bytes, with their sizes. Asks for more as it is read."""
        after = None
        while True:
            answer, _ = self._ask("store.list", {"prefix": prefix, "after": after}).result()
            entries = answer["entries"]
            for name, size in entries:
                yield Entry((name, size))
            if not answer["more"] or not entries:
                return
            after = entries[-1][0]

    def usage(self) -> Usage:
        """How much of the grant's `storage` is used: the bytes, and 1 KiB for each name."""
        answer, _ = self._ask("store.usage", {}).result()
        return Usage((answer["used"], answer["limit"]))

    def __contains__(self, name: str) -> bool:
        try:
            self.size(name)
        except Missing:
            return False
        return True


def ranged(name: str, offset: int, length: int | None) -> dict:
    """The arguments of a call that is about a part of what a name has."""
    for number in (offset, length):
        if number is not None and (not isinstance(number, int) or number < 0):
            raise ValueError("offset and length are whole numbers of bytes")
    return {"name": _checked(name), "offset": offset, "length": length}


def _checked(name: str) -> str:
    if not isinstance(name, str):
        raise TypeError("a name in the store is text")
    # A lone surrogate, which no frame can carry, is a `UnicodeEncodeError` here, and so a `ValueError`.
    if not 1 <= len(name.encode()) <= NAME_BYTES_MAX:
        raise BadCall(22, f"a name in the store has 1 to {NAME_BYTES_MAX} bytes")
    return name
