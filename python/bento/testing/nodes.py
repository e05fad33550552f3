"""`FakeNode`: another node, which runs the code of real functions in the test's own process."""

import _socket
import base64
import importlib.util
import io
import itertools
import secrets
import sys
import tarfile
import tempfile
import threading
import tomllib
from collections.abc import Callable, Mapping
from pathlib import Path

from bento.api import check_ran
from bento.testing.answers import Failure, received, served
from bento.testing.store import FakeStore
from bento.testing.tor import FakeTor

_numbers = itertools.count(1)
_loading = threading.Lock()


class Installed:
    """A function on a `FakeNode`."""

    def __init__(self, node: "FakeNode", bundle: bytes, invocation: str, shutdown: str) -> None:
        self.node = node
        self.invocation = invocation
        self.shutdown = shutdown
        self._directory = tempfile.TemporaryDirectory(prefix="bento-fake-")
        home = Path(self._directory.name)
        with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
            for member in archive:
                path = home / member.name
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(archive.extractfile(member).read())
        self.manifest = tomllib.loads((home / "manifest.toml").read_text())
        self.store = FakeStore(bytes_of(self.manifest.get("needs", {}).get("storage", "0 B")))
        self.links: dict = {}
        # Of its process, so to say: what runs of it, and what it has of its node's Tor.
        self.session: object = None
        self.streams: list[_socket.socket] = []
        self.module = _loaded(home, self.manifest.get("code", "function.py"))

    def kill(self) -> None:
        """Ends its process, as `kill -9` does: what runs of it is lost, and the next invocation starts it anew."""
        if self.session is not None:
            self.session.close()
            self.session = None
        for stream in self.streams:
            try:
                stream.shutdown(_socket.SHUT_RDWR)
            except OSError:
                pass  # It has ended by itself.
        self.streams.clear()
        self.module = _loaded(self.directory, self.manifest.get("code", "function.py"))

    @property
    def directory(self) -> Path:
        """Where its files are."""
        return Path(self._directory.name)


class FakeNode:
    """Another node, with this Tor.

    `down`: whether it can be reached at all. `functions` has what is installed there, by invocation token. `nodes`: the nodes that
    functions there reach. `before(method, arguments)` is called before each invocation; what it raises happens to the invocation: an
    `Unreachable` breaks its connection. `invoked` counts invocations by method. `tor`: the Tor of its functions, which nodes may share.
    """

    def __init__(
        self,
        name: str = "a node",
        *,
        nodes: "Mapping[str, FakeNode] | None" = None,
        functions_max: int = 50,
        tor: "FakeTor | None" = None,
    ) -> None:
        self.name = name
        self.nodes = dict(nodes or {})
        self.functions_max = functions_max
        self.tor = tor
        self.down = False
        self.functions: dict[str, Installed] = {}
        self.before: Callable[[str, dict], object] | None = None
        self.invoked: dict[str, int] = {}

    def install(self, bundle: bytes, invocation: str | None, shutdown: str | None) -> Installed:
        """Installs a function; once only with the same token."""
        if invocation in self.functions:
            return self.functions[invocation]
        if len(self.functions) >= self.functions_max:
            raise Failure("refused", f"this node takes {self.functions_max} functions at the same time", "busy")
        made = Installed(self, bundle, invocation or _token("invoke"), shutdown or _token("shutdown"))
        self.functions[made.invocation] = made
        return made

    def invoke(self, token: str, method: str, arguments: dict, stream: _socket.socket) -> dict:
        """Runs a method to its end: its outcome."""
        from bento.testing import FakeApi

        function = self.functions.get(token)
        if function is None:
            return {"outcome": "refused", "code": "unknown-token", "text": "no function answers to this token"}
        if method not in function.manifest["methods"]:
            return {"outcome": "refused", "code": "unknown-method", "text": f"it has no method {method}"}
        self.invoked[method] = self.invoked.get(method, 0) + 1
        try:
            if self.before is not None:
                self.before(method, arguments)
            api = FakeApi.from_manifest(function.directory, stream=stream, store=function.store, nodes=self.nodes, links=function.links, tor=self.tor)
            if function.session is None:
                function.session = api.session
            else:
                api.share(function.session)
            function.streams.append(stream)
            check_ran(getattr(function.module, method)(api, **arguments))
        except ConnectionError as error:
            return {"outcome": "lost", "text": str(error)}
        except BaseException as error:
            return {"outcome": "failed", "text": f"{type(error).__name__}: {error}"}
        if self.down:
            return {"outcome": "lost", "text": "the connection broke"}
        return {"outcome": "returned"}

    def end(self, shutdown: str) -> None:
        """Ends a function."""
        for token, function in list(self.functions.items()):
            if function.shutdown == shutdown:
                del self.functions[token]
                function.kill()
                return
        raise Failure("refused", "no function answers to this token", "unknown-token")


class Composed:
    """The calls `nodes.…` of one `FakeApi`."""

    def __init__(self, nodes: Mapping[str, FakeNode], installs: int | None, needs: dict | None = None) -> None:
        self._nodes = nodes
        self.installs = installs
        self._needs = needs
        self._uploads: dict[int, tuple[FakeNode, Installed | Failure | None, threading.Event]] = {}
        self._outcomes: dict[int, tuple[dict, threading.Event]] = {}
        self._made: list[tuple[FakeNode, str]] = []

    def answer(self, name: str, arguments: dict) -> tuple[object, _socket.socket | None]:
        """Does one of them."""
        if name == "nodes.list":
            return [{"name": node.name, "address": address} for address, node in self._nodes.items()], None
        if name == "nodes.install":
            return self._install(**arguments)
        if name == "nodes.installed":
            return self._installed(arguments["upload"]), None
        if name == "nodes.invoke":
            return self._invoke(**arguments)
        if name == "nodes.outcome":
            outcome, ended = self._outcomes.pop(arguments["invocation"])
            ended.wait()
            return outcome, None
        if name == "nodes.shutdown":
            self._reached(arguments["node"], arguments.get("conclave")).end(arguments["shutdown"])
            return None, None
        raise Failure("bad-call", f"there is no call {name}")

    def _reached(self, address: str, conclave: str | None = None) -> FakeNode:
        # As the node has it: who goes to a conclave says which are accepted, and nobody says so of a plain node.
        if address.endswith("/conclave") != (conclave is not None):
            raise Failure("refused", "an address with `/conclave` goes with a demand, and no other does")
        node = self._nodes.get(address)
        if node is None or node.down:
            raise Failure("unreachable", f"the node {address} could not be reached")
        return node

    def _install(
        self, node: str, bytes: int, invocation: str | None = None, shutdown: str | None = None, conclave: str | None = None
    ) -> tuple[object, _socket.socket]:
        found = self._reached(node, conclave)
        installed = sum(1 for where, token in self._made if token in where.functions)
        if self.installs is not None and installed >= self.installs:
            raise Failure("refused", f"the grant covers {self.installs} functions on other nodes at the same time")
        number = next(_numbers)
        ended = threading.Event()

        def receive(stream: _socket.socket) -> None:
            try:
                bundle = received(stream)
                if len(bundle) != bytes:
                    raise Failure("bad-call", f"{len(bundle)} bytes came, and not {bytes}")
                if self._needs is not None:
                    check_covered(self._needs, bundle)
                made: object = found.install(bundle, invocation, shutdown)
                self._made.append((found, made.invocation))
            except Failure as failure:
                made = failure
            except Exception as error:
                made = Failure("refused", f"its code could not be loaded: {error}", "unloadable")
            self._uploads[number] = (found, made, ended)
            ended.set()

        self._uploads[number] = (found, None, ended)
        return {"upload": number}, served(receive)

    def _installed(self, upload: int) -> object:
        node, _, ended = self._uploads[upload]
        ended.wait()
        _, made, _ = self._uploads.pop(upload)
        if isinstance(made, Failure):
            raise made
        if node.down:
            raise Failure("unreachable", "the connection to the node broke")
        return {"invocation": made.invocation, "shutdown": made.shutdown, "status": {"name": made.manifest["name"]}}

    def _invoke(self, node: str, invocation: str, method: str, arguments: dict, detach: str | None, conclave: str | None = None) -> tuple[object, _socket.socket]:
        found = self._reached(node, conclave)
        number = next(_numbers)
        outcome: dict = {}
        ended = threading.Event()
        self._outcomes[number] = (outcome, ended)

        def detached(stream: _socket.socket) -> None:
            data = received(stream)
            near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)

            def run_on() -> None:
                found.invoke(invocation, method, arguments, near)
                near.close()

            def feed() -> None:
                # Nobody asks here what it wrote; it is read off.
                try:
                    far.sendall(data)
                    far.shutdown(_socket.SHUT_WR)
                    while far.recv(65_536):
                        pass
                except OSError:
                    pass
                far.close()

            for work in (run_on, feed):
                threading.Thread(target=work, daemon=True).start()
            outcome["outcome"] = "detached"
            stream.shutdown(_socket.SHUT_WR)
            ended.set()

        def run(stream: _socket.socket) -> None:
            try:
                outcome.update(found.invoke(invocation, method, arguments, stream))
                stream.shutdown(_socket.SHUT_WR)
                while stream.recv(65_536):
                    pass  # Unread input is read off, as the runtime does.
            except OSError:
                pass
            finally:
                ended.set()

        return {"invocation": number}, served(run if detach is None else detached)


def _token(kind: str) -> str:
    return f"bento-{kind}-{base64.b32encode(secrets.token_bytes(32)).decode().rstrip('=').lower()}"


def bytes_of(text: str) -> int:
    """A manifest's size in bytes."""
    number, unit = text.split()
    return int(number) << 10 * ["B", "KiB", "MiB", "GiB", "TiB"].index(unit)


_LEFT_OUT = {
    "memory": "64 MiB", "scratch": "8 MiB", "storage": "0 B", "cpu": "10 s", "share": "100 %", "traffic": "16 MiB", "rate": "4 MiB/s",
    "lifetime": "10 min", "processes": 8, "descriptors": 64, "invocations": 1, "installs": 0,
}  # fmt: skip
"""What a manifest that does not say asks for (`spec/policy.md`)."""

_UNITS = {"B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "ms": 1, "s": 1_000, "min": 60_000, "h": 3_600_000, "d": 86_400_000, "%": 1}


def check_covered(needs: dict, bundle: bytes) -> None:
    """Refuses a bundle whose manifest asks for more than these needs: a function passes on only what it has."""
    with tarfile.open(fileobj=io.BytesIO(bundle)) as archive:
        asked = tomllib.loads(archive.extractfile("manifest.toml").read().decode()).get("needs", {})
    for key, left_out in _LEFT_OUT.items():
        wanted, granted = asked.get(key, left_out), needs.get(key, left_out)
        if _amount(wanted) > _amount(granted):
            raise Failure("refused", f"it needs {wanted} of {key}, and the function that installs it was granted {granted}")
    for call in asked.get("calls", []):
        if not any(call == pattern or pattern.endswith("*") and call.startswith(pattern[:-1]) for pattern in needs.get("calls", [])):
            raise Failure("refused", f"it needs the call {call}, which the function that installs it was not granted")


def _amount(value: int | str) -> int:
    if isinstance(value, int):
        return value
    number, unit = value.removesuffix("/s").split()
    return int(number) * _UNITS[unit]


def _loaded(home: Path, code: str) -> object:
    """The module of a function; its own modules are imported with it, and taken out again: another function may have such names."""
    with _loading:
        before = set(sys.modules)
        sys.path.insert(0, str(home))
        try:
            spec = importlib.util.spec_from_file_location(code.removesuffix(".py"), home / code)
            module = importlib.util.module_from_spec(spec)
            sys.modules[spec.name] = module
            spec.loader.exec_module(module)
        finally:
            sys.path.remove(str(home))
            for name in set(sys.modules) - before:
                if str(getattr(sys.modules[name], "__file__", None)).startswith(str(home)):
                    del sys.modules[name]
        return module
