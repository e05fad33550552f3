"""What a function is given as its first argument, and the errors it may meet.

The same class serves in the jail and in `bento.testing`: from outside it needs a stream and a way to ask the node. Frames and
descriptors are `bento.runtime`'s; how networking libraries get here is `bento.net`'s.

`_socket` and `_thread` are built into the interpreter and cost nothing at start. `socket` would cost 7 ms of every cold start and
`threading` 4 ms; so they are imported when a function first needs them.
"""

import _socket
import _thread
import errno
import io
import time

from bento.frames import clean

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable

    from bento.links import Links
    from bento.maybenot import Maybenot
    from bento.nodes import Nodes
    from bento.store import Store
    from bento.streams import Data, Exchange
    from bento.tor import Tor

    Ask = Callable[..., "Call"]
    """`ask(name, arguments, notify=None)` sends a call to the node and returns it at once."""

CHUNK_BYTES = 65_536
"""How much of a stream is read at once."""

LOG_CHARACTERS_MAX = 1_000
"""Longest line of the log; what is longer is cut."""


TYPE_CHARACTERS_MAX = 200
"""Longest type of an output."""


class Refused(PermissionError):
    """The grant does not cover what was asked."""

    code: "str | None" = None
    """Where another node refused: its word for why, such as `unknown-token`. `None` where this node did."""


class Unreachable(ConnectionError):
    """The other side could not be reached."""


class NameNotFound(_socket.gaierror):
    """There is no such name."""


class Timeout(TimeoutError):
    """It took too long."""


class Busy(OSError):
    """Too much of this at once; later it may succeed."""


class BadCall(OSError):
    """The node does not know such a call, or not with such arguments."""


class Missing(FileNotFoundError):
    """There is nothing of this name or number."""


class Full(OSError):
    """The grant's storage, or the node's disk, is used up."""


class Damaged(OSError):
    """What the node has kept is not what was stored; none of it can be relied on."""


class Failed(OSError):
    """The node had trouble of its own; nothing was done."""


class RemoteFailed(OSError):
    """A function on another node came to an end of its own: its method raised, or ran into a bound."""


# All are `OSError`s with a number, so that libraries treat them as they would a failed connection.
_KINDS = {
    "refused": (Refused, errno.EACCES),
    "unreachable": (Unreachable, errno.EHOSTUNREACH),
    "resolve": (NameNotFound, _socket.EAI_NONAME),
    "timeout": (Timeout, errno.ETIMEDOUT),
    "busy": (Busy, errno.EBUSY),
    "bad-call": (BadCall, errno.EINVAL),
    "missing": (Missing, errno.ENOENT),
    # Not `ENOSPC`: that is the scratch's.
    "full": (Full, errno.EDQUOT),
    "damaged": (Damaged, errno.EIO),
    "failed": (Failed, errno.EIO),
}


def trouble(kind: str, text: str, code: "str | None" = None) -> OSError:
    """The exception for an answer's error."""
    exception, number = _KINDS.get(kind, (BadCall, errno.EINVAL))
    error = exception(number, text)
    if isinstance(error, Refused):
        error.code = code
    return error


def check_ran(result: object) -> None:
    """Raises `TypeError` for the result of a method that has not run when called: that would end in silence."""
    kind = type(result).__name__
    if kind in ("coroutine", "generator", "async_generator"):
        raise TypeError(f"the method is a {kind} and did not run: a method is an ordinary function")


class Call:
    """One call to the node, and its answer once it is there."""

    __slots__ = ("_abandoned", "_answered", "_error", "_notify", "_stream", "_value")

    def __init__(self, notify: "Callable[[], object] | None" = None) -> None:
        self._answered = _thread.allocate_lock()
        self._answered.acquire()
        self._notify = notify
        self._abandoned = False
        self._error: dict | None = None
        self._stream: "_socket.socket | None" = None
        self._value: object = None

    def answer(self, value: object, error: dict | None, stream: "_socket.socket | None") -> None:
        """Takes the answer; called once."""
        self._value, self._error, self._stream = value, error, stream
        self._answered.release()
        if self._abandoned and stream is not None:
            stream.close()
        if self._notify is not None:
            self._notify()

    def answered(self) -> bool:
        """Whether `result` would return at once."""
        return not self._answered.locked()

    def result(self, timeout: float | None = None) -> "tuple[object, _socket.socket | None]":
        """Waits for the answer: its value and its stream; raises what the node said."""
        # Without a timeout the wait still ends: the node answers every call, and if it closes, the whole process ends.
        wait = -1 if timeout is None else max(0, min(timeout, _thread.TIMEOUT_MAX))
        if not self._answered.acquire(True, wait):
            self._abandoned = True
            # The answer may have come between the two lines above; then it is taken after all.
            if not self._answered.acquire(False):
                raise Timeout(errno.ETIMEDOUT, "the node did not answer in time")
        self._answered.release()
        if self._error is not None:
            raise trouble(str(self._error.get("kind")), str(self._error.get("text")), self._error.get("code"))
        return self._value, self._stream


class Output(io.RawIOBase):
    """The invocation's output: a binary file to write to, unbuffered."""

    def __init__(self, stream: "_socket.socket", ask: "Ask") -> None:
        self._stream = stream
        self._ask = ask
        self._length: int | None = None
        self._written = 0
        # A thread may come back to it: a finalizer that writes may run while it writes.
        self._turn = _thread.RLock()

    def writable(self) -> bool:
        """Always."""
        return True

    def fileno(self) -> int:
        """The stream's descriptor, for `select`."""
        return self._stream.fileno()

    def length(self, count: int) -> None:
        """Declares the exact length of the output, before its first byte. The client then sees a `Content-Length`."""
        if not isinstance(count, int) or isinstance(count, bool) or count < 0:
            raise ValueError("the length of the output must be a whole number of bytes")
        with self._turn:
            if self._written or self._length is not None:
                raise ValueError("the length of the output is declared once, before its first byte")
            self._ask("output.length", {"bytes": count}).result()
            self._length = count

    def type(self, kind: str, name: str | None = None) -> None:
        """Says of what type the output is (`text/html; charset=utf-8`), before its first byte, and under which name a browser saves it."""
        with self._turn:
            if self._written:
                raise ValueError("the type of the output is told before its first byte")
            self._ask("output.type", {"type": clean(kind, TYPE_CHARACTERS_MAX), "name": None if name is None else str(name)}).result()

    def write(self, data: "bytes | bytearray | memoryview") -> int:
        """Writes all of the data; waits while the client is slower."""
        if self.closed:
            raise ValueError("the output is closed")
        with memoryview(data) as view, view.cast("B") as octets, self._turn:
            count = octets.nbytes
            if self._length is not None and self._written + count > self._length:
                raise ValueError(f"this would exceed the declared length of {self._length} bytes")
            self._written += count
            self._stream.sendall(octets)
        return count

    def write_stored(self, name: str, offset: int = 0, length: int | None = None) -> int:
        """Writes what the store has under a name, or `length` bytes of it from `offset` on (fewer at its end); returns how many.

        They go from the node's disk to the client and do not come here: no memory, and of CPU time only what the node takes to open them.
        """
        from bento.store import ranged

        if self.closed:
            raise ValueError("the output is closed")
        with self._turn:
            left = None if self._length is None else self._length - self._written
            asked = min((number for number in (length, left) if number is not None), default=None)
            answer, _ = self._ask("store.send", ranged(name, offset, asked)).result()
            sent = answer["sent"]
            self._written += sent
        there = max(0, answer["bytes"] - offset)
        if sent < (there if asked is None else min(there, asked)):
            raise BrokenPipeError(errno.EPIPE, "nobody takes the output any more")
        if sent < (there if length is None else min(there, length)):
            raise ValueError(f"this would exceed the declared length of {self._length} bytes")
        return sent

    @property
    def written(self) -> int:
        """How many bytes were written so far."""
        return self._written

    def close(self) -> None:
        """Ends the output; the method may go on."""
        if not self.closed:
            super().close()
            try:
                self._stream.shutdown(_socket.SHUT_WR)
            except OSError:
                pass  # The client has left, or the invocation has ended: either way it is closed.


class _Source(io.RawIOBase):
    """The reading half of a stream as a raw file."""

    def __init__(self, stream: "_socket.socket") -> None:
        self._stream = stream

    def readable(self) -> bool:
        return True

    def fileno(self) -> int:
        return self._stream.fileno()

    def readinto(self, buffer: bytearray | memoryview) -> int:
        return self._stream.recv_into(buffer)


class Input(io.BufferedReader):
    """The invocation's input: a buffered binary file to read from. Iterating gives chunks as they arrive, not lines."""

    def __init__(self, stream: "_socket.socket") -> None:
        super().__init__(_Source(stream), CHUNK_BYTES)

    def __iter__(self) -> "Input":
        return self

    def __next__(self) -> bytes:
        chunk = self.read1(CHUNK_BYTES)
        if not chunk:
            raise StopIteration
        return chunk


class Api:
    """What an invocation may do."""

    output: Output
    """The invocation's output."""

    def __init__(self, stream: "_socket.socket", ask: "Ask", seconds: float) -> None:
        self._stream = stream
        self._ask = ask
        self._end = time.monotonic() + seconds
        self._input: Input | None = None
        self._parts: dict[str, object] = {}
        self.output = Output(stream, ask)

    @property
    def input(self) -> Input:
        """The invocation's input."""
        if self._input is None:
            # Made when first asked for: most functions read no input, and its buffer takes 64 KiB.
            self._input = Input(self._stream)
        return self._input

    def connect(self, host: str, port: int, timeout: float | None = None) -> "socket.socket":
        """Connects to a host and port through the node: a real, connected socket. The timeout also becomes the socket's."""
        import socket

        from bento import net

        arguments = {"host": net.name(host), "port": port}
        return net.connected(socket, self._ask("net.connect", arguments), host, timeout)

    # What follows is imported when it is first asked for: most functions use none of it.

    @property
    def store(self) -> "Store":
        """What the function has stored at its node: names and the bytes that belong to them."""
        if "store" not in self._parts:
            from bento.store import Store

            self._parts["store"] = Store(self._ask)
        return self._parts["store"]

    @property
    def nodes(self) -> "Nodes":
        """Other nodes, and functions on them."""
        if "nodes" not in self._parts:
            from bento.nodes import Nodes

            self._parts["nodes"] = Nodes(self._ask)
        return self._parts["nodes"]

    @property
    def maybenot(self) -> "Maybenot":
        """State machines of traffic analysis defences."""
        if "maybenot" not in self._parts:
            from bento.maybenot import Maybenot

            self._parts["maybenot"] = Maybenot(self._ask)
        return self._parts["maybenot"]

    @property
    def link(self) -> "Links":
        """Addresses under which one method can be run without a token."""
        if "link" not in self._parts:
            from bento.links import Links

            self._parts["link"] = Links(self._ask)
        return self._parts["link"]

    @property
    def tor(self) -> "Tor":
        """The node's Tor: circuits, onion services and descriptors of the function's own."""
        if "tor" not in self._parts:
            from bento.tor import Tor

            self._parts["tor"] = Tor(self._ask)
        return self._parts["tor"]

    def seal(self, to: str, data: "Data") -> "Exchange":
        """The data encrypted to a recipient (`age1…`), as a binary file to read from: an age file that only the recipient can open."""
        from bento.streams import Exchange, opened

        _, stream = self._ask("seal", {"to": str(to)}).result()
        return Exchange(opened(stream), data)

    def log(self, text: object) -> None:
        """Adds lines to the log that the client can read. Never fails: a line that cannot be kept is dropped."""
        for line in str(text).splitlines():
            try:
                self._ask("log", {"text": clean(line, LOG_CHARACTERS_MAX)}).result()
            except OSError:
                return

    def time_left(self) -> float:
        """Seconds left of the container's life, never below zero."""
        return max(0.0, self._end - time.monotonic())
