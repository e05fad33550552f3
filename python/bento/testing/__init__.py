"""`FakeApi`: tests a function without a node.

It has the manners of the real one (the same `Output`, `Input`, `Store`, `Nodes` and `net`), and keeps no bounds of memory, time or
traffic. Beside it, `FakeStore` is what a function keeps, `FakeNode` another node, `FakeTor` the node's Tor, and `unsealed` opens what `seal` made here.
"""

import _socket
import contextlib
import dataclasses
import io
import ipaddress
import re
import secrets
import socket
import sys
import threading
import time
import tomllib
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path

from bento import net
from bento.api import Api, Call, check_ran
from bento.exit_policy import ExitPolicy
from bento.frames import decode, encode
from bento.testing.answers import Failure, received, served
from bento.testing.nodes import Composed, FakeNode, bytes_of
from bento.testing.store import FakeStore
from bento.testing.tor import FakeSession, FakeTor

__all__ = ["FakeApi", "FakeNode", "FakeStore", "FakeTor", "Link", "unsealed"]

Destination = tuple[str, int | str]
"""Host and port; where destinations are allowed, `"*"` stands for any."""

Handler = Callable[[socket.socket], object]
"""Plays a server: gets its end of the connection, which is closed when it returns."""

CONNECT_SECONDS_MAX = 30.0
"""Longest wait for a real connection."""

_SOMEWHERE = ipaddress.ip_address("8.8.8.8")
"""Stands for the address of a name that `hosts` plays: a public one."""

_plain_socket = socket.socket


FRAME_BYTES_MAX = 16_384
"""Longest frame of a call."""

FOLLOWS = {"store.commit": ("store.put", "store.append"), "nodes.installed": ("nodes.install",), "nodes.outcome": ("nodes.invoke",)}
"""Calls that are the second half of others, and allowed with them."""

_TYPE = re.compile(r"[\w!#$&^.+-]+/[\w!#$&^.+-]+(; ?[\w-]+=[\w.-]+)*", re.ASCII)


@dataclasses.dataclass(frozen=True)
class Link:
    """What a link runs, and until when."""

    method: str
    arguments: dict
    until: float


class FakeApi(Api):
    """An `Api` in memory.

    `input`: what the method reads, in one piece or as chunks that arrive one by one.
    `hosts`: who answers: for `(host, port)` a function that plays the server, or the address of a real one. Other destinations are
    connected to as they are.
    `allow`: the destinations that the grant covers; all, if it is not given.
    `store`: what the function keeps, from an earlier invocation or with a limit of its own; `storage`: the limit of a new one, in bytes.
    `nodes`: the other nodes, by address. `installs`: how many functions it may have on them at the same time.
    `tor`: the node's Tor, which several may share. `circuits` and `onion_services`: how many of each it may have at the same time.
    `logs` has the lines that the method logged; `connections` the destinations that it asked for; `links` what its links run, by
    path; `kind` and `name` what it said of its output.
    """

    def __init__(
        self,
        input: bytes | Iterable[bytes] = b"",
        *,
        hosts: Mapping[Destination, Handler | tuple[str, int]] | None = None,
        allow: Iterable[Destination] | None = None,
        seconds: float = 3600.0,
        storage: int | None = None,
        store: FakeStore | None = None,
        nodes: Mapping[str, FakeNode] | None = None,
        installs: int | None = None,
        links: dict[str, Link] | None = None,
        tor: FakeTor | None = None,
        circuits: int | None = None,
        onion_services: int | None = None,
        stream: _socket.socket | None = None,
    ) -> None:
        self._memory = _Memory([input] if isinstance(input, bytes) else input)
        self._hosts = dict(hosts or {})
        self._allow = None if allow is None else set(allow)
        self._manifest: _Manifest | None = None
        self._composed = Composed(nodes or {}, installs)
        if store is None:
            store = FakeStore() if storage is None else FakeStore(storage)
        self.kept = store
        self.links: dict[str, Link] = {} if links is None else links
        # As functions of one process have it: the next invocation finds what this one made.
        self.session = FakeSession(FakeTor() if tor is None else tor, self._connect_by_tor, circuits, onion_services)
        self._printed = io.StringIO()
        self.kind: str | None = None
        self.name: str | None = None
        self.logs: list[str] = []
        self.connections: list[Destination] = []
        self.declared: int | None = None
        super().__init__(self._memory if stream is None else stream, self._answer, seconds)

    @classmethod
    def from_manifest(cls, path: str | Path, input: bytes | Iterable[bytes] = b"", **options: object) -> "FakeApi":
        """A `FakeApi` that also refuses what a `manifest.toml` (or the one in a directory) does not ask for in `calls`, `connect`,
        `storage`, `installs`, `circuits` and `onion_services`.

        The node's own policy may refuse more. The names in `hosts` have public addresses here; others, and addresses, are what they are.
        """
        path = Path(path)
        manifest = _Manifest(path / "manifest.toml" if path.is_dir() else path)
        if options.get("store") is None and options.get("storage") is None:
            options["storage"] = manifest.storage
        api = cls(input, **manifest.bounds | options)
        api._manifest = manifest
        api._composed = Composed(options.get("nodes") or {}, api._composed.installs, manifest.needs)
        return api

    def next(self, input: bytes | Iterable[bytes] = b"") -> "FakeApi":
        """The next invocation of the same function: with the same store, links, nodes and hosts."""
        api = FakeApi(input, hosts=self._hosts, allow=self._allow, store=self.kept, links=self.links)
        api._composed, api._manifest = self._composed, self._manifest
        api.share(self.session)
        return api

    def share(self, session: FakeSession) -> None:
        """Has the same part of Tor as other invocations of the same process."""
        self.session.tor.sessions.remove(self.session)
        self.session = session
        session.connect = self._connect_by_tor

    @property
    def written(self) -> bytes:
        """The output so far."""
        return bytes(self._memory.written)

    def run(self, method: Callable[..., object], **arguments: object) -> bytes:
        """Runs a method as a node would and returns its output; what it prints is logged, and its connections go through this."""
        try:
            with self.network():
                check_ran(method(self, **arguments))
        finally:
            self.log(self._printed.getvalue())
            self._printed = io.StringIO()
        if self.declared is not None and self.declared != len(self.written):
            raise AssertionError(f"it declared {self.declared} bytes of output and wrote {len(self.written)}")
        return self.written

    def connect(self, host: str, port: int, timeout: float | None = None) -> socket.socket:
        """Connects as `hosts` and `allow` say."""
        with self.network():
            return super().connect(host, port, timeout)

    @contextlib.contextmanager
    def network(self) -> Iterator["FakeApi"]:
        """Within it, all that uses `socket` (`urllib`, `requests`, `asyncio`, …) connects through this, and what is printed is its log.

        In the whole process; where several are entered at once, each for the thread that entered it, and the last one for all others.
        """
        _entered.enter(self)
        try:
            yield self
        finally:
            _entered.leave(self)

    def _answer(self, name: str, arguments: dict, notify: Callable[[], object] | None = None) -> Call:
        value: object = None
        error: dict | None = None
        stream: _socket.socket | None = None
        try:
            frame = encode({"call": 1 << 53, "invocation": 1 << 53, "name": name, "arguments": arguments})
            if len(frame) > FRAME_BYTES_MAX:
                raise AssertionError(f"a call of {len(frame)} bytes: a node takes at most {FRAME_BYTES_MAX}")
            # As it arrives: without what JSON cannot carry.
            value, stream = self._done(name, decode(frame)["arguments"])
        except Failure as failure:
            error = {"kind": failure.kind, "text": str(failure)} | ({"code": failure.code} if failure.code else {})
        call = Call(notify)
        call.answer(value, error, stream)
        return call

    def _done(self, name: str, arguments: dict) -> tuple[object, _socket.socket | None]:
        if name == "log":
            self.logs.append(arguments["text"])
            return None, None
        if name == "output.length":
            self.declared = arguments["bytes"]
            return None, None
        if name == "output.type":
            if not _TYPE.fullmatch(arguments["type"]):
                raise Failure("bad-call", f"{arguments['type']!r} is no type of content")
            self.kind, self.name = arguments["type"], arguments["name"]
            return None, None
        if self._manifest is not None:
            self._manifest.check_call(name)
        if name == "net.connect":
            return self._connect(arguments["host"], arguments["port"])
        if name == "store.send":
            return self.kept.send(self._stream.sendall, **arguments), None
        if name.startswith("store."):
            return self.kept.answer(name, arguments)
        if name.startswith("nodes."):
            return self._composed.answer(name, arguments)
        if name.startswith("tor."):
            return self.session.answer(name, arguments)
        if name == "link.make":
            path = f"/l/{secrets.token_hex(32)}"
            self.links[path] = Link(arguments["method"], arguments["arguments"], time.time() + arguments["seconds"])
            return {"path": path}, None
        if name == "link.end":
            self.links.pop(arguments["path"], None)
            return None, None
        if name == "seal":
            if not arguments["to"].startswith("age1"):
                raise Failure("bad-call", "a recipient begins with age1")
            head = _sealed_head(arguments["to"])
            return None, served(lambda stream: stream.sendall(head + received(stream)))
        raise Failure("bad-call", f"there is no call {name}")

    def _connect(self, host: str, port: int) -> tuple[dict, _socket.socket]:
        self.connections.append((host, port))
        if not isinstance(port, int) or not 0 < port < 65_536:
            raise Failure("bad-call", "a port is a number from 1 to 65535")
        if self._allow is not None and not self._allow & {(host, port), (host, "*"), ("*", port), ("*", "*")}:
            raise Failure("refused", f"the grant does not cover {host}:{port}")
        if self._manifest is not None:
            self._manifest.check(host, port, (host, port) in self._hosts)
        target = self._hosts.get((host, port))
        if target is None:
            return _connect_really(host, port, self._manifest)
        if callable(target):
            near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
            threading.Thread(target=_serve, args=(target, far.detach()), daemon=True).start()
            # An address set aside for documentation.
            return {"address": "192.0.2.1", "port": port}, near
        return _connect_really(*target)

    def _connect_by_tor(self, host: str, port: int) -> tuple[dict, _socket.socket]:
        if not host.endswith(".onion"):
            return self._connect(host, port)
        self.connections.append((host, port))
        if self._manifest is not None:
            self._manifest.check_onion(port)
        if (host, port) in self._hosts:
            return {"address": host, "port": port}, self._connect(host, port)[1]
        try:
            return {"address": host, "port": port}, self.session.tor.visit(host, port)
        except ConnectionRefusedError as error:
            raise Failure("unreachable", str(error)) from None


class _Entered:
    """The `FakeApi`s whose code runs, and what of the process is changed as long as there is one."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self._all: list[FakeApi] = []
        self._own = threading.local()
        self._before: dict[str, object] = {}
        self._printers: tuple = ()

    def enter(self, api: FakeApi) -> None:
        with self._turn:
            if not self._all:
                self._before = net.install(socket, lambda: self.current()._answer)
                self._printers = sys.stdout, sys.stderr
                sys.stdout = sys.stderr = _Printer()
            self._all.append(api)
        self._own.stack = [*getattr(self._own, "stack", ()), api]

    def leave(self, api: FakeApi) -> None:
        self._own.stack.pop()
        with self._turn:
            self._all.remove(api)
            if not self._all:
                for name, value in self._before.items():
                    setattr(socket, name, value)
                sys.stdout, sys.stderr = self._printers

    def current(self) -> FakeApi:
        """The one that this thread's code belongs to."""
        own = getattr(self._own, "stack", None)
        return own[-1] if own else self._all[-1]


class _Printer(io.TextIOBase):
    """What a function prints goes to its log."""

    encoding = "utf-8"
    errors = "backslashreplace"

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        return _entered.current()._printed.write(text)


_entered = _Entered()


class _Manifest:
    """What a manifest asks for, as far as it concerns connections."""

    def __init__(self, path: Path) -> None:
        needs = tomllib.loads(path.read_text(encoding="utf-8")).get("needs", {})
        self.needs = needs
        self._calls: list[str] = needs.get("calls", [])
        self._connect = ExitPolicy(needs.get("connect", []))
        self.storage = bytes_of(needs.get("storage", "0 B"))
        self.bounds: dict[str, int] = {key: needs.get(key, 0) for key in ("installs", "circuits", "onion_services")}

    def check_call(self, name: str) -> None:
        """Refuses a call that the manifest does not ask for."""
        names = (name, *FOLLOWS.get(name, ()))
        if not any(one == pattern or pattern.endswith("*") and one.startswith(pattern[:-1]) for pattern in self._calls for one in names):
            raise Failure("refused", f"the function's manifest does not ask for the call `{name}`")

    def check(self, host: str, port: int, is_played: bool) -> None:
        """Refuses as a node does before it resolves a name."""
        if not self._connect.may_accept_port(port):
            raise self.refusal(port)
        try:
            address = ipaddress.ip_address(host)
        except ValueError:
            address = _SOMEWHERE if is_played else None
        if address is not None and not self._connect.accepts(address, port):
            raise self.refusal(port)

    def check_onion(self, port: int) -> None:
        """Refuses as a node does before it connects to an onion service."""
        if not self._connect.accepts_onion(port):
            raise self.refusal(port)

    def accepts(self, address: str, port: int) -> bool:
        """May a connection go to this address?"""
        return self._connect.accepts(ipaddress.ip_address(address.partition("%")[0]), port)

    def refusal(self, port: int) -> "Failure":
        """The answer of a node."""
        return Failure("refused", f"manifest and policy do not both accept a connection there, at port {port}")


class _Memory:
    """Both halves of an invocation's stream."""

    def __init__(self, chunks: Iterable[bytes]) -> None:
        self._chunks = iter(chunks)
        # A view: of a large piece, what is left is not copied each time.
        self._chunk = memoryview(b"")
        self.written = bytearray()

    def recv_into(self, buffer: memoryview) -> int:
        while not self._chunk:
            chunk = next(self._chunks, None)
            if chunk is None:
                return 0
            self._chunk = memoryview(chunk)
        count = min(len(buffer), len(self._chunk))
        buffer[:count] = self._chunk[:count]
        self._chunk = self._chunk[count:]
        return count

    def sendall(self, data: memoryview) -> None:
        self.written += data

    def shutdown(self, how: int) -> None:
        pass

    def fileno(self) -> int:
        raise OSError("a FakeApi's input and output have no descriptor")


def unsealed(data: bytes, to: str) -> bytes:
    """What was sealed for this recipient by a `FakeApi`, which encrypts nothing."""
    head = _sealed_head(to)
    if not data.startswith(head):
        raise ValueError("this is not sealed for this recipient")
    return data[len(head) :]


def _sealed_head(to: str) -> bytes:
    return f"sealed by a FakeApi for {to}\n".encode()


def _serve(handler: Handler, descriptor: int) -> None:
    with _plain_socket(_socket.AF_UNIX, _socket.SOCK_STREAM, 0, descriptor) as stream:
        handler(stream)


def _connect_really(host: str, port: int, manifest: _Manifest | None = None) -> tuple[dict, _socket.socket]:
    try:
        found = _socket.getaddrinfo(host, port, 0, _socket.SOCK_STREAM)
    except OSError as error:
        raise Failure("resolve", f"there is no host {host}") from error
    trouble: OSError | None = None
    if manifest is not None:
        found = [entry for entry in found if manifest.accepts(entry[4][0], port)]
        if not found:
            raise manifest.refusal(port)
    for family, kind, protocol, _, address in found:
        stream = _socket.socket(family, kind, protocol)
        stream.settimeout(CONNECT_SECONDS_MAX)
        try:
            stream.connect(address)
        except OSError as error:
            stream.close()
            trouble = error
        else:
            stream.settimeout(None)
            return {"address": address[0], "port": address[1]}, stream
    kind = "timeout" if isinstance(trouble, TimeoutError) else "unreachable"
    raise Failure(kind, f"{host}:{port} could not be reached") from trouble
