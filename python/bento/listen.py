"""Listening sockets of a function: ports of its own 127.0.0.1.

Nothing of the system listens, since the jail has no network. To such a port come the function itself and, where it has an onion service
with this port as target, the service's clients, whom the node hands over one by one (`tor.listen`).
"""

import _socket
import _thread
import errno

from bento.api import Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

    from bento.api import Ask

BACKLOG_MAX = 128
"""How many connections wait at a port."""

_FIRST, _LAST = 32_768, 60_999

_OWN = ("", "localhost", "0.0.0.0", "::", "::1")

listeners: "dict[int, Listener]" = {}
"""Who listens, by port."""

_turn = _thread.allocate_lock()
_next = _FIRST


def is_own(host: str) -> bool:
    """Is it the function's own address?"""
    return host in _OWN or (host.startswith("127.") and host.replace(".", "").isdecimal())


def bound(address: tuple) -> tuple[str, int]:
    """What a socket is bound to: the host, and a port that is free."""
    global _next
    host = address[0].decode("ascii", "replace") if isinstance(address[0], (bytes, bytearray)) else address[0]
    port = int(address[1])
    if not is_own(host):
        raise Refused(errno.EACCES, "a function can listen at 127.0.0.1 only, where its own onion services' clients come")
    if not 0 <= port <= 65_535:
        raise OverflowError("bind(): port must be 0-65535.")
    with _turn:
        for _ in range(_LAST - _FIRST):
            if port:
                break
            _next = _FIRST if _next >= _LAST else _next + 1
            port = 0 if _next in listeners else _next
    if port in listeners:
        raise OSError(errno.EADDRINUSE, "Address already in use")
    return ("::1" if ":" in host else "127.0.0.1", port)


class Listener:
    """A port, and the connections that wait at it.

    `near` becomes the socket's descriptor: it can be read from while a connection waits, as a listening socket is for `select`.
    """

    def __init__(self, port: int, asker: "Callable[[], Ask]") -> None:
        with _turn:
            if port in listeners:
                raise OSError(errno.EADDRINUSE, "Address already in use")
            listeners[port] = self
        self.port = port
        self.near, self._far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._far.setblocking(False)
        self._waiting: list[_socket.socket] = []
        self._closed = False
        try:
            _thread.start_new_thread(self._fetch, (asker(),))
        except BaseException:
            self.close()
            raise

    def put(self, stream: "_socket.socket") -> bool:
        """A connection that comes; false if it is refused."""
        with _turn:
            if self._closed or len(self._waiting) >= BACKLOG_MAX:
                return False
            self._waiting.append(stream)
            self._far.send(b"\0")
            return True

    def take(self) -> "_socket.socket | None":
        """The connection that came first."""
        with _turn:
            return self._waiting.pop(0) if self._waiting else None

    def close(self) -> None:
        """Refuses what waits and what may still come."""
        with _turn:
            self._closed = True
            if listeners.get(self.port) is self:
                del listeners[self.port]
            waiting, self._waiting = self._waiting, []
            self._far.close()
        for stream in waiting:
            stream.close()

    def connect(self) -> "_socket.socket":
        """A connection of the function to itself: its other end."""
        ours, theirs = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        if not self.put(theirs):
            ours.close()
            theirs.close()
            raise ConnectionRefusedError(errno.ECONNREFUSED, "Connection refused")
        return ours

    def _fetch(self, ask: "Ask") -> None:
        while not self._closed:
            try:
                _, stream = ask("tor.listen", {"port": self.port}).result()
            except OSError:
                return  # It has no onion services, or its time is over: only the function itself comes here.
            if stream is not None and not self.put(stream):
                stream.close()
