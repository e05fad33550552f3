"""What the tests share: the runtime under a fake node, and servers on loopback."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import http.server
import ssl
import subprocess
import threading
from collections.abc import Iterator

import hypothesis
import pytest

from fake_node import Node

# Without deadlines, since the machine that tests may be busy; and without its directory of examples.
hypothesis.settings.register_profile(
    "bento", deadline=None, database=None, suppress_health_check=[hypothesis.HealthCheck.too_slow]
)
hypothesis.settings.load_profile("bento")


@pytest.fixture
def start(tmp_path: Path) -> Iterator[object]:
    """Starts runtimes; `start(source, method, …)` loads one file of code with these methods."""
    nodes = []

    def begin(source: str | None = None, *methods: str, **options: object) -> Node:
        node = Node(tmp_path / f"node{len(nodes)}", **options)
        nodes.append(node)
        if source is not None:
            assert node.load({"function.py": source.encode()}, methods) == {"loaded": {"methods": list(methods)}}
        return node

    yield begin
    for node in nodes:
        assert node.close() in (0, 1, None)


class Pages(http.server.BaseHTTPRequestHandler):
    """`/hello` greets, `/long` is a megabyte, POST sends its body back."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = b"x" * 1_000_000 if self.path == "/long" else f"hello from {self.headers['Host']}".encode()
        self.reply(body)

    def do_POST(self) -> None:
        self.reply(self.rfile.read(int(self.headers["Content-Length"])))

    def reply(self, body: bytes) -> None:
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *arguments: object) -> None:
        pass


def serve(context: ssl.SSLContext | None) -> Iterator[tuple[str, int]]:
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Pages)
    if context is not None:
        server.socket = context.wrap_socket(server.socket, server_side=True)
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.05}, daemon=True)
    thread.start()
    yield server.server_address
    server.shutdown()
    server.server_close()
    thread.join()


@pytest.fixture(scope="session")
def web() -> Iterator[tuple[str, int]]:
    """Address of an HTTP server."""
    yield from serve(None)


@pytest.fixture(scope="session")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A certificate for example.test, signed by itself, and its key in the same file."""
    path = tmp_path_factory.mktemp("tls") / "certificate.pem"
    # fmt: off
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes", "-days", "2",
         "-subj", "/CN=example.test", "-addext", "subjectAltName=DNS:example.test", "-keyout", path.with_suffix(".key"), "-out", path],
        check=True, capture_output=True, timeout=60,
    )
    # fmt: on
    return path


@pytest.fixture(scope="session")
def secure_web(certificate: Path) -> Iterator[tuple[str, int]]:
    """Address of an HTTPS server that is example.test."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate, certificate.with_suffix(".key"))
    yield from serve(context)
