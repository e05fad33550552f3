"""Makes the module `socket`, and with it every networking library, connect through the node.

A function cannot make an Internet socket: the jail allows only `AF_UNIX`. So a `socket.socket` of the Internet families is at first
an unconnected `AF_UNIX` socket; `connect` asks the node, and the stream the node hands over takes the descriptor's place. Names are
handed to the node unresolved, since it resolves them where the connection leaves. Only TCP connections outwards exist, and listening at the
function's own 127.0.0.1 (`bento.listen`): datagrams and raw sockets are refused.
"""

import _socket
import errno
import itertools
import posix
import sys

from bento.api import NameNotFound, Refused

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Callable
    from types import ModuleType

    from bento.api import Ask, Call
    from bento.listen import Listener

_INTERNET = (_socket.AF_INET, _socket.AF_INET6)
_TCP_ONLY = "a function can open TCP connections to other hosts and listen at its own 127.0.0.1, and has no other Internet sockets"
_OPTION_LEVELS = (_socket.SOL_SOCKET, _socket.IPPROTO_IP, _socket.IPPROTO_TCP, _socket.IPPROTO_IPV6)

# There is no /etc/services in the jail.
_SERVICES = {"ftp": 21, "ssh": 22, "smtp": 25, "domain": 53, "http": 80, "pop3": 110, "imap": 143, "https": 443, "imaps": 993}

PEERS_MAX = 4_096
"""How many connections' peers are remembered: more than there can be descriptors."""

# Family and peer of each connection by the inode of its stream. Not in the socket object, since `ssl` and others move a descriptor
# to an object of their own; and not by descriptor, since that is soon another connection's.
_peers: dict[int, tuple[int, tuple]] = {}

# Who comes to a listening socket has a port of its own, as everywhere.
_ports = itertools.cycle(range(61_000, 65_536))


def install(module: "ModuleType", asker: "Callable[[], Ask]") -> dict[str, object]:
    """Changes `socket`; returns what was there before. `asker` tells, at each connection, in whose name the node is asked."""
    changes: dict[str, object] = {
        "socket": _make_class(module, asker),
        "getaddrinfo": _make_getaddrinfo(module),
        "gethostbyname": name,
        "gethostbyname_ex": lambda host: (name(host), [], [name(host)]),
        "gethostbyaddr": _gethostbyaddr,
        "getnameinfo": lambda address, flags: (str(address[0]), str(address[1])),
    }
    before = {key: getattr(module, key) for key in changes}
    for key, value in changes.items():
        setattr(module, key, value)
    return before


def connected(module: "ModuleType", call: "Call", host: str, timeout: float | None) -> "socket.socket":
    """The socket that a `net.connect` leads to."""
    value, stream = call.result(timeout)
    if stream is None:
        raise _no_descriptor()
    address, port = _peer(value, host)
    family = _family(address) or _socket.AF_INET
    _remember(stream.fileno(), family, address, port)
    found = module.socket(family, _socket.SOCK_STREAM, 0, stream.detach())
    found.settimeout(timeout)
    return found


def name(host: str | bytes | None) -> str:
    """The host as the node takes it: an address, or a name in ASCII."""
    if host is None or host == "" or host == b"":
        return "127.0.0.1"
    text = host.decode("ascii", "replace") if isinstance(host, (bytes, bytearray)) else host
    if not isinstance(text, str):
        raise TypeError(f"a host is text, not {type(host).__name__}")
    if not text.isascii():
        try:
            text = text.encode("idna").decode("ascii")
        except UnicodeError:
            raise NameNotFound(_socket.EAI_NONAME, "not a host name") from None
    if len(text) > 253 or not text.isprintable() or " " in text:
        raise NameNotFound(_socket.EAI_NONAME, "not a host name")
    return text


def _family(host: str) -> int:
    """The family of an address; 0 for a name."""
    for family in _INTERNET:
        try:
            _socket.inet_pton(family, host)
            return family
        except OSError:
            pass
    return 0


def _address(family: int, host: str, port: int) -> tuple:
    return (host, port, 0, 0) if family == _socket.AF_INET6 else (host, port)


def _peer(value: object, host: str) -> tuple[str, int]:
    """Address and port at the other end, from an answer."""
    if not isinstance(value, dict):
        return host, 0
    return str(value.get("address", host)), int(value.get("port", 0))


def _remember(descriptor: int, family: int, address: str, port: int) -> None:
    if len(_peers) >= PEERS_MAX:
        _peers.pop(next(iter(_peers)), None)
    _peers[posix.fstat(descriptor).st_ino] = (family, _address(family, address, port))


def _remembered(descriptor: int) -> tuple[int, tuple] | None:
    return _peers.get(posix.fstat(descriptor).st_ino)


def _port(port: object) -> int:
    if port is None:
        return 0
    if isinstance(port, (bytes, bytearray)):
        port = port.decode("ascii", "replace")
    if isinstance(port, str):
        if port.isdecimal():
            return int(port)
        if port not in _SERVICES:
            raise _socket.gaierror(_socket.EAI_SERVICE, "the name of a service is not known here; use its number")
        return _SERVICES[port]
    return int(port)


def _own_listener(host: str, port: int) -> "Listener | None":
    """Who listens there in the function itself."""
    # Imported by who listens; without it nobody does.
    listen = sys.modules.get("bento.listen")
    return listen.listeners.get(port) if listen is not None and listen.is_own(host) else None


def _gethostbyaddr(host: str) -> tuple:
    raise _socket.herror(1, "a function cannot look up the name of an address")


def _no_descriptor() -> OSError:
    return OSError(errno.EMFILE, "no descriptor is left for the connection")


def _make_getaddrinfo(module: "ModuleType") -> object:
    def getaddrinfo(host, port, family=0, type=0, proto=0, flags=0):
        """One entry, with the name as it is: the node resolves it when it connects."""
        if type not in (0, _socket.SOCK_STREAM) or proto not in (0, _socket.IPPROTO_TCP):
            raise _socket.gaierror(_socket.EAI_SOCKTYPE, _TCP_ONLY)
        text, number = name(host), _port(port)
        found = _family(text)
        if not found and flags & _socket.AI_NUMERICHOST:
            raise NameNotFound(_socket.EAI_NONAME, "not an address")
        if found and family and found != family:
            raise NameNotFound(_socket.EAI_NONAME, "not an address of this family")
        chosen = module.AddressFamily(found or family or _socket.AF_INET)
        canonical = text if flags & _socket.AI_CANONNAME else ""
        return [(chosen, module.SOCK_STREAM, _socket.IPPROTO_TCP, canonical, _address(chosen, text, number))]

    return getaddrinfo


def _make_class(module: "ModuleType", asker: "Callable[[], Ask]") -> type:
    class Socket(module.socket):
        """A socket whose Internet connections the node makes."""

        _bound: "tuple[str, int] | None" = None
        _listener: "Listener | None" = None

        def __init__(self, family: int = -1, type: int = -1, proto: int = -1, fileno: int | None = None) -> None:
            self._options: dict[tuple[int, int], object] = {}
            self._pending: "Call | None" = None
            if fileno is not None:
                if family == -1:
                    known = _remembered(fileno)
                    family = -1 if known is None else known[0]
                super().__init__(family, type, proto, fileno)
                return
            family = _socket.AF_INET if family == -1 else family
            type = _socket.SOCK_STREAM if type == -1 else type
            proto = max(proto, 0)
            if family not in _INTERNET:
                if family != _socket.AF_UNIX:
                    raise Refused(errno.EPERM, _TCP_ONLY)
                super().__init__(family, type, proto)
                return
            plain = type & ~(_socket.SOCK_NONBLOCK | _socket.SOCK_CLOEXEC)
            if plain != _socket.SOCK_STREAM or proto not in (0, _socket.IPPROTO_TCP):
                raise Refused(errno.EPERM, _TCP_ONLY)
            placeholder = _socket.socket(_socket.AF_UNIX, _socket.SOCK_STREAM)
            super().__init__(family, plain, proto, placeholder.detach())
            self.settimeout(0.0 if type & _socket.SOCK_NONBLOCK else module.getdefaulttimeout())

        def connect(self, address: tuple) -> None:
            if self.family not in _INTERNET:
                super().connect(address)
                return
            if self._pending is not None:
                self._settle()
                return
            if _remembered(self.fileno()) is not None:
                raise OSError(errno.EISCONN, "the socket is connected already")
            host, port = name(address[0]), address[1]
            if (own := _own_listener(host, port)) is not None:
                self._become(own.connect())
                _remember(self.fileno(), self.family, host, port)
                return
            arguments = {"host": host, "port": port}
            timeout = self.gettimeout()
            if timeout == 0:
                self._begin(arguments)
            self._take(asker()("net.connect", arguments), host, timeout)

        def connect_ex(self, address: tuple) -> int:
            try:
                self.connect(address)
            except _socket.gaierror:
                raise
            except OSError as error:
                return error.errno or errno.ECONNREFUSED
            return 0

        def _take(self, call: "Call", host: str, timeout: float | None) -> None:
            value, stream = call.result(timeout)
            if stream is None:
                raise _no_descriptor()
            self._become(stream)
            _remember(self.fileno(), self.family, *_peer(value, host))

        def _become(self, stream: "_socket.socket") -> None:
            posix.dup2(stream.fileno(), self.fileno(), False)
            stream.close()
            # Whether it blocks belongs to the stream, not to its number.
            self.settimeout(self.gettimeout())

        def _begin(self, arguments: dict) -> None:
            # For event loops: until the answer comes, a socket that cannot be written to stands in; then its far end closes, and
            # it becomes writable. A loop next asks for SO_ERROR, and there the stream takes its place.
            near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            near.settimeout(0)
            near.setsockopt(_socket.SOL_SOCKET, _socket.SO_SNDBUF, 1)  # The kernel makes it its smallest.
            try:
                while True:
                    near.send(bytes(4096))
            except BlockingIOError:
                pass
            self._become(near)
            self._pending = asker()("net.connect", arguments, far.close)
            self._host = arguments["host"]
            raise BlockingIOError(errno.EINPROGRESS, "the connection is being made")

        def _settle(self) -> None:
            call = self._pending
            if not call.answered():
                raise BlockingIOError(errno.EALREADY, "the connection is being made")
            self._pending = None
            self._take(call, self._host, 0)

        def getsockopt(self, level: int, option: int, *length: int) -> object:
            if self._pending is not None and (level, option) == (_socket.SOL_SOCKET, _socket.SO_ERROR):
                try:
                    self._settle()
                except BlockingIOError:
                    pass
                except _socket.gaierror:
                    return errno.EHOSTUNREACH
                except OSError as error:
                    return error.errno or errno.ECONNREFUSED
                return 0
            if (level, option) in self._options:
                return self._options[level, option]
            return super().getsockopt(level, option, *length)

        def setsockopt(self, level: int, option: int, *value: object) -> None:
            try:
                super().setsockopt(level, option, *value)
            except OSError:
                # Options of TCP and IP have no meaning on this stream; libraries set them and expect no error.
                if self.family not in _INTERNET or level not in _OPTION_LEVELS:
                    raise
                self._options[level, option] = value[0] if isinstance(value[0], int) else 0

        def getpeername(self) -> object:
            known = _remembered(self.fileno()) if self.family in _INTERNET else None
            if known is not None:
                return known[1]
            return self._plain(super().getpeername())

        def getsockname(self) -> object:
            return self._plain(super().getsockname())

        def _plain(self, found: object) -> object:
            if self.family in _INTERNET and self._bound is not None:
                return _address(self.family, *self._bound)
            if self.family in _INTERNET and not isinstance(found, tuple):
                return _address(self.family, "::" if self.family == _socket.AF_INET6 else "0.0.0.0", 0)
            return found

        def bind(self, address: object) -> None:
            if self.family not in _INTERNET:
                super().bind(address)
                return
            from bento import listen

            self._bound = listen.bound(address)

        def listen(self, backlog: int = 128) -> None:
            if self.family not in _INTERNET:
                super().listen(backlog)
            elif self._listener is None:
                from bento import listen

                self._bound = self._bound or listen.bound(("", 0))
                self._listener = listen.Listener(self._bound[1], asker)
                self._become(self._listener.near)

        def accept(self) -> tuple:
            if self.family not in _INTERNET:
                return super().accept()
            if self._listener is None:
                raise OSError(errno.EINVAL, "the socket does not listen")
            stream = None
            while stream is None:
                if not self.recv(1):
                    raise OSError(errno.EINVAL, "the socket does not listen any more")
                stream = self._listener.take()
            peer = _address(self.family, self._bound[0], next(_ports))
            _remember(stream.fileno(), self.family, *peer[:2])
            found = module.socket(self.family, _socket.SOCK_STREAM, 0, stream.detach())
            if module.getdefaulttimeout() is None and self.gettimeout():
                found.setblocking(True)
            return found, peer

        def _real_close(self, *arguments: object) -> None:
            self._pending = None
            if self._listener is not None:
                self._listener.close()
            super()._real_close(*arguments)

    Socket.__name__ = Socket.__qualname__ = "socket"
    Socket.__module__ = "socket"
    return Socket
