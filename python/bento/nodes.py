"""`api.nodes`: functions that install and invoke functions on other nodes, through this one.

What is passed on must be covered by the function's own grant; the nodes check that. That a node cannot be reached, or that a function
there fails, is an `OSError` that can be handled.
"""

import errno

from bento.api import Refused, RemoteFailed, Unreachable, trouble
from bento.streams import Exchange, opened, pieces

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Mapping
    from os import PathLike

    from bento.api import Ask
    from bento.streams import Data

BUNDLE_BYTES_MAX = 1024 * 1024
BUNDLE_FILES_MAX = 256
BUNDLE_NAME_MAX = 100
"""As `bento-proto` has them."""

_LEFT_OUT = ("__pycache__", "tests")
_NAME_CHARACTERS = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")
_BLOCK_BYTES = 512


class Node(tuple):
    """A node that this one's operator lists: `node.name`, `node.address`."""

    __slots__ = ()
    name = property(lambda self: self[0], doc="Its name, for people.")
    address = property(lambda self: self[1], doc="Its address, for `install`.")


class Nodes:
    """Other nodes, as far as the function's grant goes."""

    def __init__(self, ask: "Ask") -> None:
        self._ask = ask
        self._accepted: str | None = None

    def accept(self, conclave: str | None) -> None:
        """From here on, what goes to a node's conclave (an address with `/conclave` behind it) goes with this text, where none is given with the address itself."""
        self._accepted = conclave

    def list(self) -> "list[Node]":
        """The nodes that this one's operator lists."""
        answer, _ = self._ask("nodes.list", {}).result()
        return [Node((entry["name"], entry["address"])) for entry in answer]

    def install(
        self,
        node: str,
        files: "Mapping[str, bytes] | str | PathLike",
        invocation: str | None = None,
        shutdown: str | None = None,
        conclave: str | None = None,
    ) -> "Remote":
        """Installs a function on a node: files by name, or a directory with them. Tokens that are not given are made.

        For a node's conclave (an address with `/conclave` behind it) `conclave` says which are accepted, in the text that the client's program makes of it.
        This node judges its evidence, and does so only where it is a conclave itself.

        If it is raised that the node could not be reached, the function may be there all the same; with tokens of its own the caller
        can end it.
        """
        bundle = pack(files)
        conclave = self._demand(node, conclave)
        arguments = {"node": node, "bytes": len(bundle)}
        arguments |= {key: token for key, token in (("invocation", invocation), ("shutdown", shutdown)) if token is not None}
        arguments |= _demanding(conclave)
        answer, stream = self._ask("nodes.install", arguments).result()
        # Read to its end, which comes when the node has taken all of it.
        with Exchange(opened(stream), bundle) as sent:
            try:
                while sent.read():
                    pass
            except ConnectionError:
                pass  # What happened is in the answer to the next question.
        made, _ = self._ask("nodes.installed", {"upload": answer["upload"]}).result()
        return Remote(self._ask, node, made["invocation"], made["shutdown"], made.get("status") or {}, conclave)

    def function(self, node: str, invocation: str, shutdown: str | None = None, conclave: str | None = None) -> "Remote":
        """A function that is installed already, by whoever."""
        return Remote(self._ask, node, invocation, shutdown, {}, self._demand(node, conclave))

    def _demand(self, node: str, conclave: str | None) -> str | None:
        return self._accepted if conclave is None and node.endswith("/conclave") else conclave


class Remote:
    """A function on another node."""

    def __init__(
        self, ask: "Ask", node: str, invocation: str, shutdown: str | None, status: dict, conclave: str | None = None
    ) -> None:
        self._ask = ask
        self._conclave = conclave
        self.node = node
        """Its node's address."""
        self.invocation_token = invocation
        """The right to invoke it."""
        self.shutdown_token = shutdown
        """The right to end it, if it is known here."""
        self.status = status
        """What its node said of it when it was installed."""

    def invoke(self, method: str, /, *, input: "Data" = b"", detach: str | None = None, **arguments: object) -> "Result":
        """Runs a method; the input is bytes, a binary file, or an iterable of bytes.

        With `detach`, 32 hexadecimal digits of the caller's choice, it runs on without this function, and its output is kept there.
        """
        data = pieces(input)
        asked = {"node": self.node, "invocation": self.invocation_token, "method": method, "arguments": arguments, "detach": detach}
        asked |= _demanding(self._conclave)
        answer, stream = self._ask("nodes.invoke", asked).result()
        return Result(self._ask, self.node, answer["invocation"], opened(stream), data)

    def shutdown(self) -> None:
        """Ends the function; its node forgets it and all it has stored."""
        if self.shutdown_token is None:
            raise ValueError("the shutdown token of this function is not known here")
        self._ask("nodes.shutdown", {"node": self.node, "shutdown": self.shutdown_token} | _demanding(self._conclave)).result()


class Result(Exchange):
    """A running invocation on another node: a binary file with its output. Iterating gives chunks as they arrive, not lines.

    Its input is sent as the output is read. At the output's end it raises what went wrong, so that a part is never taken for the
    whole: `RemoteFailed` (the method raised, or ran into a bound), `Refused` or `Unreachable`.
    """

    def __init__(self, ask: "Ask", node: str, number: int, stream: object, data: "Data") -> None:
        self._ask_node = ask
        self._node = node
        self._number = number
        self._outcome: dict | None = None
        super().__init__(stream, data, self._check)

    def outcome(self) -> dict:
        """Reads off the rest of the output, and tells how it ended: `{"outcome": "returned"}`, or another with its `text`."""
        try:
            while self.read1():
                pass
        except (RemoteFailed, Refused, Unreachable):
            if self._outcome is None:
                raise
        except ConnectionError:
            pass
        return self._ended()

    def _ended(self) -> dict:
        if self._outcome is None:
            self._outcome, _ = self._ask_node("nodes.outcome", {"invocation": self._number}).result()
        return self._outcome

    def _check(self) -> None:
        ended = self._ended()
        how = ended["outcome"]
        if how in ("returned", "detached"):
            return
        text = f"{self._node}: {how}: {ended.get('text') or 'without a reason'}"
        if how in ("failed", "killed"):
            raise RemoteFailed(errno.EREMOTEIO, text)
        if how == "refused":
            raise trouble("refused", text, ended.get("code"))
        raise Unreachable(errno.EHOSTUNREACH, text)


def _demanding(conclave: str | None) -> dict[str, str]:
    return {} if conclave is None else {"conclave": conclave}


def pack(files: "Mapping[str, bytes] | str | PathLike") -> bytes:
    """The bundle of these files as it travels: a plain ustar archive, the same bytes for the same files.

    Of a directory all regular files but those of names that begin with a dot, `tests` and `__pycache__`.
    """
    if not hasattr(files, "items"):
        files = _read(files)
    if len(files) > BUNDLE_FILES_MAX:
        raise ValueError(f"a bundle has at most {BUNDLE_FILES_MAX} files")
    if "manifest.toml" not in files:
        raise ValueError("a bundle needs a manifest.toml")
    archive = bytearray()
    for name, content in sorted(files.items()):
        _check_name(name, files)
        archive += _header(name, len(content)) + content
        archive += bytes(-len(archive) % _BLOCK_BYTES)
        if len(archive) + 2 * _BLOCK_BYTES > BUNDLE_BYTES_MAX:
            raise ValueError(f"a bundle has at most {BUNDLE_BYTES_MAX} bytes")
    return bytes(archive + bytes(2 * _BLOCK_BYTES))


def _check_name(name: str, files: "Mapping[str, bytes]") -> None:
    parts = name.split("/")
    if len(name) > BUNDLE_NAME_MAX or any(part in ("", ".", "..") or not _NAME_CHARACTERS.issuperset(part) for part in parts):
        raise ValueError(f"{name[:120]!r} is no name for a file of a bundle")
    if any("/".join(parts[:depth]) in files for depth in range(1, len(parts))):
        raise ValueError(f"{name!r} lies below another file")


def _header(name: str, size: int) -> bytes:
    # Fields by their place in POSIX.1-1988: name, mode, size, time, sum, magic; the others stay zero.
    header = bytearray(_BLOCK_BYTES)
    for place, text in ((0, name), (100, "0000644"), (124, f"{size:011o}"), (136, "00000000000"), (148, " " * 8), (257, "ustar\00000")):
        header[place : place + len(text)] = text.encode()
    header[148:156] = b"%07o\0" % sum(header)
    return bytes(header)


def _read(directory: "str | PathLike") -> dict[str, bytes]:
    import os

    found: dict[str, bytes] = {}
    folders = [(os.fspath(directory), "")]
    total = 0
    while folders:
        folder, prefix = folders.pop()
        with os.scandir(folder) as entries:
            for entry in entries:
                if entry.name.startswith(".") or entry.name in _LEFT_OUT:
                    continue
                if entry.is_dir(follow_symlinks=False):
                    folders.append((entry.path, f"{prefix}{entry.name}/"))
                    continue
                if not entry.is_file(follow_symlinks=False):
                    raise ValueError(f"{entry.path} is not a regular file; a bundle holds nothing else")
                # Looked at before it is read: a directory given by mistake may hold anything.
                total += entry.stat().st_size
                if total > BUNDLE_BYTES_MAX or len(found) == BUNDLE_FILES_MAX:
                    raise ValueError(f"{directory} is too large for a bundle")
                with open(entry.path, "rb") as file:
                    found[prefix + entry.name] = file.read()
    return found
