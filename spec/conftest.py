"""A node to ask, and an HTTP/1.1 client small enough to misbehave and to see trailers."""

import base64
import errno
import hashlib
import hmac
import io
import json
import os
import re
import secrets
import socket
import subprocess
import tarfile
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest

pytest.register_assert_rewrite("cases")

ROOT = Path(__file__).resolve().parent.parent

PATIENCE = 60.0
"""No test waits longer for anything, in seconds."""

POLICY = """
[offers]
egress = ["direct"]
cpu = "20 s"
traffic = "64 MiB"
scratch = "16 MiB"
lifetime = "10 min"
"""


def bentod() -> Path:
    """The program: `BENTOD`, or what cargo has built."""
    target = Path(os.environ.get("CARGO_TARGET_DIR", ROOT / "target"))
    path = Path(os.environ.get("BENTOD", target / "debug" / "bentod"))
    if not path.exists():
        pytest.fail(f"there is no {path}: run `cargo build -p bento-node -p bento-jail` first, or set BENTOD")
    return path


class Node:
    """A running node without Tor."""

    def __init__(self, directory: Path, policy: str = POLICY, more: str = "", disk: str | None = None) -> None:
        self._disk = disk
        directory.mkdir(parents=True, exist_ok=True)
        config = directory / "bentod.toml"
        config.write_text(f'name = "Test"\nstate = "state"\nlisten = "127.0.0.1:0"\n{more}\n[tor]\noff = true\n')
        (directory / "policy.toml").write_text(policy)
        self._config = config
        self._told = threading.Condition()
        self._begin()

    def start_again(self) -> None:
        """Kills it, and starts another with what it left."""
        self.process.kill()
        self.process.wait()
        self._begin()

    def _begin(self) -> None:
        command = [bentod(), "run", "--config", self._config]
        if self._disk is not None:
            # Of its own, and seen by nobody else.
            state = self._config.parent / "state"
            state.mkdir(exist_ok=True)
            mount = f'mount -t tmpfs -o size={self._disk},mode=0700 none "$0" && exec "$@"'
            own = ["--mount"] if os.geteuid() == 0 else ["--user", "--map-current-user", "--keep-caps", "--mount"]
            command = ["unshare", *own, "sh", "-c", mount, state, *command]
        self.process = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True)
        self.log = ""
        threading.Thread(target=self._follow, args=(self.process,), daemon=True).start()
        found = re.search(r"listening address=(\S+):(\d+)", self.until("listening"))
        assert found, self.log
        self.address = (found[1], int(found[2]))

    def _follow(self, process: subprocess.Popen) -> None:
        for line in process.stderr:
            self._tell(process, re.sub(r"\x1b\[\d*m", "", line))
        self._tell(process, "(end of the log)")

    def _tell(self, process: subprocess.Popen, text: str) -> None:
        with self._told:
            if process is self.process:
                self.log += text
                self._told.notify_all()

    def until(self, text: str) -> str:
        """Waits until the log has this text."""
        with self._told:
            assert self._told.wait_for(lambda: text in self.log or "(end of the log)" in self.log, PATIENCE), self.log
            assert text in self.log, self.log
            return self.log

    def fill_disk(self) -> None:
        """Takes all that is left of its own disk."""
        path = Path(f"/proc/{self.process.pid}/root{self._config.parent / 'state' / 'other'}")
        with path.open("wb", buffering=0) as other:
            try:
                while other.write(bytes(16_384)):
                    pass
            except OSError as error:
                assert error.errno == errno.ENOSPC, error

    def stop(self) -> None:
        """Ends it, whatever it does."""
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@dataclass
class Answer:
    """An answer, read to its end."""

    status: int
    headers: dict[str, str]
    body: bytes = b""
    trailers: dict[str, str] = field(default_factory=dict)
    whole: bool = True

    def json(self) -> object:
        """The body, or for its lack nothing."""
        return json.loads(self.body)

    def code(self) -> str:
        """The problem's code."""
        return self.json()["type"].removeprefix("urn:bento:problem:")

    def outcome(self) -> dict:
        """The outcome in the trailer."""
        return json.loads(self.trailers["bento-outcome"])


class Session:
    """One stream to a node, on which one request is made."""

    def __init__(self, node: Node) -> None:
        self.stream = socket.create_connection(node.address, PATIENCE)
        self.heard = b""

    def send(self, data: bytes) -> None:
        """Sends bytes. A node that does not want them may have closed already; its answer is what counts."""
        try:
            self.stream.sendall(data)
        except (BrokenPipeError, ConnectionResetError):
            pass

    def hear(self, enough: Callable[[bytes], bool]) -> bytes:
        """Reads until it is enough, or the end."""
        while not enough(self.heard):
            try:
                piece = self.stream.recv(65_536)
            except ConnectionResetError:
                break
            if not piece:
                break
            self.heard += piece
        return self.heard

    def answer(self) -> Answer:
        """Reads to the end."""
        head, _, rest = self.hear(lambda heard: False).partition(b"\r\n\r\n")
        self.stream.close()
        status, *lines = head.decode().split("\r\n")
        headers = fields(lines)
        answer = Answer(int(status.split()[1]), headers)
        if "chunked" in headers.get("transfer-encoding", ""):
            answer.body, answer.trailers, answer.whole = unchunked(rest)
        else:
            answer.body, answer.whole = rest, len(rest) == int(headers.get("content-length", 0))
        return answer


def fields(lines: list[str]) -> dict[str, str]:
    """Header fields by their names in lower case."""
    return {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in lines if line)}


def unchunked(data: bytes) -> tuple[bytes, dict[str, str], bool]:
    """Body and trailers of a chunked body (RFC 9112, 7.1), and whether it is whole."""
    body = b""
    while True:
        size, found, data = data.partition(b"\r\n")
        if not found:
            return body, {}, False
        length = int(size, 16)
        if length == 0:
            return body, fields(data.decode().split("\r\n")), data.endswith(b"\r\n")
        body, data = body + data[:length], data[length + 2 :]


def head(method: str, path: str, length: int | None, headers: dict[str, str]) -> bytes:
    """The head of a request."""
    lines = [f"{method} {path} HTTP/1.1", "Host: node", "Connection: close, te", "TE: trailers"]
    lines += [] if length is None else [f"Content-Length: {length}"]
    return "\r\n".join([*lines, *(f"{name}: {value}" for name, value in headers.items()), "", ""]).encode()


def ask(node: Node, method: str, path: str, headers: dict[str, str] | None = None, body: bytes = b"") -> Answer:
    """One request and its answer."""
    session = Session(node)
    session.send(head(method, path, len(body) if body or method == "POST" else None, headers or {}) + body)
    return session.answer()


def bundle(code: str, needs: str = "") -> bytes:
    """A bundle of one code file, whose methods are its functions."""
    methods = re.findall(r"^def (\w+)", code, re.MULTILINE)
    manifest = f'name = "test"\nmethods = {json.dumps(methods)}\n[needs]\n{needs}\n'
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w", format=tarfile.USTAR_FORMAT) as archive:
        for name, text in (("manifest.toml", manifest), ("function.py", code)):
            entry = tarfile.TarInfo(name)
            entry.size = len(text.encode())
            archive.addfile(entry, io.BytesIO(text.encode()))
    return packed.getvalue()


def token(kind: str) -> str:
    """A new token: 256 random bits in base32."""
    return f"bento-{kind}-" + base64.b32encode(secrets.token_bytes(32)).decode().rstrip("=").lower()


def digest(text: str) -> str:
    """What the node is told of a token."""
    return hashlib.sha256(text.encode()).hexdigest()


def seal(text: str) -> str:
    """The key under which a node keeps the function of an invocation token: HKDF (RFC 5869) with SHA-256, no salt, 32 bytes."""
    extracted = hmac.digest(bytes(32), text.encode(), "sha256")
    key = hmac.digest(extracted, b"bento seal 1\x01", "sha256")
    return "bento-seal-" + base64.b32encode(key).decode().rstrip("=").lower()


@dataclass
class Function:
    """A function with tokens of its own."""

    node: Node
    invocation: str = field(default_factory=lambda: token("invoke"))
    shutdown: str = field(default_factory=lambda: token("shutdown"))

    def install(self, archive: bytes, **headers: str) -> Answer:
        """Installs it."""
        own = {
            "Bento-Invocation-Digest": digest(self.invocation),
            "Bento-Shutdown-Digest": digest(self.shutdown),
            "Bento-Seal": seal(self.invocation),
        }
        return ask(self.node, "POST", "/v1/functions", own | headers, archive)

    def bearer(self, kind: str = "invocation") -> dict[str, str]:
        """The header with a token."""
        return {"Authorization": f"Bearer {getattr(self, kind)}"}

    def invoke(self, method: str, arguments: str = "{}", body: bytes = b"") -> Answer:
        """Invokes a method."""
        return ask(self.node, "POST", f"/v1/invoke/{method}", self.bearer() | {"Bento-Arguments": arguments}, body)


def installed(node: Node, code: str, needs: str = "") -> Function:
    """An installed function."""
    function = Function(node)
    answer = function.install(bundle(code, needs))
    assert answer.status == 201, answer
    return function


def run(node: Node, code: str, method: str, needs: str = "", arguments: str = "{}", body: bytes = b"") -> Answer:
    """Runs a function for one call."""
    archive = bundle(code, needs)
    headers = {"Bento-Bundle-Length": str(len(archive)), "Bento-Arguments": arguments}
    return ask(node, "POST", f"/v1/run/{method}", headers, archive + body)


def when_stopping(node: Node, first: bytes, rest: bytes) -> Answer:
    """The answer to a request that has begun when the node is told to stop, and comes as a whole only then."""
    session = Session(node)
    session.send(first)
    # The node must have read it: a stream on which nothing came yet is closed at once.
    time.sleep(0.3)
    node.process.terminate()
    node.until("stopping")
    # It is logged a moment before it is so.
    time.sleep(0.2)
    session.send(rest)
    return session.answer()


def eventually(what: Callable[[], bool]) -> None:
    """Waits for something that has no event."""
    end = time.monotonic() + PATIENCE
    while not what():
        assert time.monotonic() < end
        time.sleep(0.02)


@pytest.fixture(scope="session")
def start(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[..., Node]]:
    """Starts nodes, which end with the tests."""
    nodes: list[Node] = []

    def begin(policy: str = POLICY, more: str = "", disk: str | None = None) -> Node:
        nodes.append(Node(tmp_path_factory.mktemp("node"), policy, more, disk))
        return nodes[-1]

    yield begin
    for node in nodes:
        node.stop()


@pytest.fixture(scope="session")
def node(start: Callable[..., Node]) -> Node:
    """The node for whatever needs nothing special."""
    return start()
