"""What the tests share: the website on loopback, and pages of the test's own."""

import json
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT / "python")]

from bento import pad  # noqa: E402
from bento.testing import FakeApi  # noqa: E402

import browser  # noqa: E402

SITE = ROOT / "testnet" / "site" / "site.py"


@dataclass
class Result:
    """What `page` sent, taken apart."""

    padded: int
    header: dict
    html: str
    warc: bytes
    api: FakeApi

    @property
    def missing(self) -> dict[str, str]:
        return {entry["url"]: entry["reason"] for entry in self.header["missing"]}


def taken_apart(api: FakeApi, output: bytes) -> Result:
    payload = pad.unpad(output)
    line, _, rest = payload.partition(b"\n")
    header = json.loads(line)
    assert len(rest) == header["html"] + header["warc"]
    return Result(len(output), header, rest[: header["html"]].decode(), rest[header["html"]:], api)


class Web:
    """Hosts that exist for one test: address to content. A content is bytes, or a type and bytes, or a status, a type and bytes."""

    def __init__(self) -> None:
        self.files: dict[str, object] = {}
        self.asked: list[str] = []
        self.heads: dict[str, str] = {}

    def visit(self, url: str = "http://x.test/", **arguments) -> Result:
        hosts = {}
        for known in (*self.files, url):
            host = known.split("/")[2]
            hosts[host.partition(":")[0], int(host.partition(":")[2] or 80)] = self._serve
        api = FakeApi(hosts=hosts, allow=list(hosts))
        return taken_apart(api, api.run(browser.page, url=url, **arguments))

    def _serve(self, sock) -> None:
        stream = sock.makefile("rb")
        while line := stream.readline():
            head = line.decode("latin-1")
            while (more := stream.readline()).strip():
                head += more.decode("latin-1")
            host = next(l[6:].strip() for l in head.splitlines() if l.lower().startswith("host: "))
            url = f"http://{host}{line.split()[1].decode()}"
            self.asked.append(url)
            self.heads[url] = head
            found = self.files.get(url, (404, "text/html", b"none"))
            if isinstance(found, str):
                found = found.encode()
            if isinstance(found, bytes):
                found = (_type(url), found)
            status, kind, body = found if len(found) == 3 else (200, *found)
            body = body.encode() if isinstance(body, str) else body
            sock.sendall(f"HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)


def _type(url: str) -> str:
    types = {"css": "text/css", "png": "image/png", "svg": "image/svg+xml", "js": "text/javascript", "woff2": "font/woff2"}
    return types.get(url.split("?")[0].rsplit(".", 1)[-1], "text/html; charset=utf-8")


@pytest.fixture
def web() -> Web:
    return Web()


class Gazette:
    """The website of `testnet/site`, started once."""

    def __init__(self, directory: Path) -> None:
        self.cert, key = directory / "cert.pem", directory / "key.pem"
        subprocess.run(
            ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2", "-subj",
             "/CN=gazette.test", "-addext", "subjectAltName=DNS:gazette.test,DNS:static.gazette.test", "-keyout", key, "-out", self.cert],
            check=True, capture_output=True,
        )
        self.process = subprocess.Popen(
            [sys.executable, SITE, "--http", "127.0.0.1:0", "--https", "127.0.0.1:0", "--second-http", "127.0.0.1:0", "--second-https",
             "127.0.0.1:0", "--second-name", "static.gazette.test:80", "--cert", self.cert, "--key", key],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
        )
        word, *origins = self.process.stdout.readline().split()
        assert word == "ready"
        self.ports = [int(origin.rpartition(":")[2]) for origin in origins]
        here = [("127.0.0.1", port) for port in self.ports]
        self.hosts = {
            ("gazette.test", 80): here[0], ("gazette.test", 443): here[1], ("static.gazette.test", 80): here[2],
            ("other.test", 443): here[1], ("other.test", 80): here[0],
        }

    def visit(self, path: str, **arguments) -> Result:
        api = FakeApi(hosts=self.hosts, allow=[*self.hosts, ("closed.test", 80)])
        url = "http://gazette.test" + path if path.startswith("/") else path
        return taken_apart(api, api.run(browser.page, url=url, **arguments))

    def requests(self, reset: bool = False) -> dict:
        import urllib.request

        with urllib.request.urlopen(f"http://127.0.0.1:{self.ports[0]}/_requests" + ("?reset" if reset else "")) as answer:
            return json.load(answer)

    def close(self) -> None:
        self.process.stdin.close()
        self.process.wait(10)


@pytest.fixture(scope="session")
def gazette(tmp_path_factory) -> Gazette:
    site = Gazette(tmp_path_factory.mktemp("gazette"))
    yield site
    site.close()
