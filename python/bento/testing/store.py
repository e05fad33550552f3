"""`FakeStore`: a function's store, in memory."""

import _socket
import base64
import itertools
import threading
from collections.abc import Callable

from bento.store import NAME_BYTES_MAX, VALUE_BYTES_MAX
from bento.testing.answers import Failure, served

OBJECT_BYTES = 1024
"""What each name counts besides its bytes."""

PAGE_ENTRIES = 100
"""Names in one answer to `store.list`; a node tells as many as fit into a frame."""

SENT_BYTES = 65_536
"""What goes to the output at once."""


class _Writer:
    """Bytes on their way into the store."""

    def __init__(self, name: str, append: bool, limit: int) -> None:
        self.name = name
        self.append = append
        self.limit = limit
        self.data = bytearray()
        self.is_full = False
        self.ended = threading.Event()

    def receive(self, stream: _socket.socket) -> None:
        try:
            while part := stream.recv(65_536):
                if len(self.data) + len(part) > self.limit:
                    self.is_full = True
                    break
                self.data += part
        except ConnectionError:
            pass
        finally:
            self.ended.set()


class FakeStore:
    """What a function keeps, over all its invocations.

    `limit`: the grant's `storage`, in bytes. `objects` has what is stored. `damage(name)` makes a name unreadable, as a changed byte
    on the node's disk does.
    """

    def __init__(self, limit: int = 64 << 20) -> None:
        self.limit = limit
        self.objects: dict[str, bytearray] = {}
        self._damaged: set[str] = set()
        self._writers: dict[int, _Writer] = {}
        self._numbers = itertools.count(1)
        self._turn = threading.RLock()

    @property
    def used(self) -> int:
        """What counts against the limit."""
        with self._turn:
            return sum(len(data) + OBJECT_BYTES for data in self.objects.values())

    def damage(self, name: str) -> None:
        """From now on reading it fails in the middle."""
        if name not in self.objects:
            raise KeyError(name)
        self._damaged.add(name)

    def answer(self, name: str, arguments: dict) -> tuple[object, _socket.socket | None]:
        """Does one of the calls `store.…`, but for `store.send`."""
        verb = name.removeprefix("store.")
        if verb not in ("put", "append", "commit", "get", "delete", "list", "usage"):
            raise Failure("bad-call", f"there is no call {name}")
        if verb in ("put", "append", "get", "delete") and not 1 <= len(str(arguments["name"]).encode()) <= NAME_BYTES_MAX:
            raise Failure("bad-call", f"a name in the store has 1 to {NAME_BYTES_MAX} bytes")
        if verb == "commit":
            return self._commit(**arguments), None
        with self._turn:
            return getattr(self, f"_{verb}")(**arguments)

    def send(self, write: Callable[[memoryview], object], name: str, offset: int = 0, length: int | None = None) -> object:
        """Does the call `store.send`: `write` takes what goes to the output, and raises when nobody takes any more."""
        with self._turn:
            size, asked = self._part(name, offset, length)
            whole = memoryview(asked)[: len(asked) // 2] if name in self._damaged else memoryview(asked)
        sent = 0
        try:
            for start in range(0, len(whole), SENT_BYTES):
                write(whole[start : start + SENT_BYTES])
                sent += len(whole[start : start + SENT_BYTES])
        except ConnectionError:
            return {"bytes": size, "sent": sent}
        if asked:
            self._check_whole(name)
        return {"bytes": size, "sent": sent}

    def _put(self, name: str, value: str | None = None) -> tuple[object, _socket.socket | None]:
        if value is None:
            return self._write(name, False)
        data = bytearray(base64.b64decode(value, validate=True))
        if len(data) > VALUE_BYTES_MAX:
            raise Failure("bad-call", f"a value in a frame has at most {VALUE_BYTES_MAX} bytes")
        self._check_free(name)
        self._keep(name, data)
        return {"bytes": len(data)}, None

    def _append(self, name: str) -> tuple[object, _socket.socket | None]:
        return self._write(name, True)

    def _write(self, name: str, append: bool) -> tuple[object, _socket.socket]:
        self._check_free(name)
        if append:
            self._check_whole(name)
        number = next(self._numbers)
        kept = len(self.objects.get(name, b"")) + OBJECT_BYTES if append or name in self.objects else 0
        room = self.limit - self.used + (0 if append and name in self.objects else kept - OBJECT_BYTES)
        writer = self._writers[number] = _Writer(name, append, max(0, room))
        return {"writer": number}, served(writer.receive)

    def _commit(self, writer: int, bytes: int) -> object:
        found = self._writers.get(writer)
        if found is None:
            raise Failure("bad-call", "there is no such writer")
        found.ended.wait()
        with self._turn:
            if self._writers.pop(writer, None) is None:
                raise Failure("bad-call", "there is no such writer")
            if found.is_full:
                raise Failure("full", f"the function's storage of {self.limit} bytes is used up")
            if len(found.data) != bytes:
                raise Failure("bad-call", f"{len(found.data)} bytes came, and not {bytes}")
            self._keep(found.name, found.data, found.append)
            return {"bytes": len(self.objects[found.name])}

    def _check_free(self, name: str) -> None:
        if any(writer.name == name for writer in self._writers.values()):
            raise Failure("busy", "this name is being written already")

    def _check_whole(self, name: str) -> None:
        if name in self._damaged:
            raise Failure("damaged", "what is on disk is not what was stored")

    def _keep(self, name: str, data: bytearray, append: bool = False) -> None:
        before = self.objects.get(name)
        freed = 0 if before is None else len(before) + OBJECT_BYTES
        kept = len(before) if append and before is not None else 0
        if self.used - freed + kept + len(data) + OBJECT_BYTES > self.limit:
            raise Failure("full", f"the function's storage of {self.limit} bytes is used up")
        if kept:
            before += data
        else:
            self.objects[name] = data
        self._damaged.discard(name)

    def _get(self, name: str, offset: int = 0, length: int | None = None) -> tuple[object, _socket.socket | None]:
        size, asked = self._part(name, offset, length)
        if len(asked) <= VALUE_BYTES_MAX:
            if asked:
                self._check_whole(name)
            return {"bytes": size, "value": base64.b64encode(asked).decode()}, None
        sent = asked[: len(asked) // 2] if name in self._damaged else asked
        return {"bytes": size}, served(lambda stream: stream.sendall(sent))

    def _part(self, name: str, offset: int, length: int | None) -> tuple[int, bytes]:
        if name not in self.objects:
            raise Failure("missing", "the store has nothing of this name")
        data = self.objects[name]
        end = len(data) if length is None else min(len(data), offset + length)
        with memoryview(data) as view:
            return len(data), bytes(view[offset:end])

    def _delete(self, name: str) -> tuple[object, None]:
        self._damaged.discard(name)
        return {"existed": self.objects.pop(name, None) is not None}, None

    def _list(self, prefix: str = "", after: str | None = None) -> tuple[object, None]:
        def is_asked(name: str) -> bool:
            return name.startswith(prefix) and (after is None or name.encode() > after.encode())

        names = sorted(filter(is_asked, self.objects), key=str.encode)
        entries = [[name, len(self.objects[name])] for name in names[:PAGE_ENTRIES]]
        return {"entries": entries, "more": len(names) > PAGE_ENTRIES}, None

    def _usage(self) -> tuple[object, None]:
        return {"used": self.used, "limit": self.limit}, None
