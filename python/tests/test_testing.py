"""`FakeApi` behaves as the real one, and the examples of the documentation work under both."""

import asyncio
import http.client
import importlib.util
import socket
import sys
import threading
import time
import tomllib
import urllib.error
import urllib.request
from pathlib import Path

import pytest
import requests

from bento.api import BadCall, NameNotFound, Refused, Unreachable
from bento.testing import FakeApi, FakeNode, FakeTor

FUNCTIONS = Path(__file__).resolve().parents[2] / "functions"


def example(name: str) -> object:
    """The module of an example."""
    spec = importlib.util.spec_from_file_location(name, FUNCTIONS / name / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_examples_work_with_a_fake_api():
    assert FakeApi().run(example("hello").hello) == b"Hello, world!\n"
    assert FakeApi().run(example("hello").hello, name="Ada") == b"Hello, Ada!\n"
    assert FakeApi(b"some bytes").run(example("echo").echo) == b"some bytes"
    assert FakeApi([b"some", b" ", b"bytes"]).run(example("echo").echo) == b"some bytes"


def test_the_documentation_shows_the_examples_as_they_are():
    text = (FUNCTIONS.parent / "docs" / "writing-functions.md").read_text()
    blocks = [block.partition("```")[0] for block in text.split("```python\n")[1:]]
    for name, block in zip(("hello", "echo"), blocks):
        lines = (FUNCTIONS / name / f"{name}.py").read_text().splitlines()
        assert [line for line in block.splitlines() if line not in lines] == [], name
    assert (FUNCTIONS / "hello" / "manifest.toml").read_text() in text
    scope: dict = {}
    exec(next(block for block in blocks if "write_padded" in block), scope)
    assert len(FakeApi().run(scope["report"])) == 100_000
    exec(next(block for block in blocks if "api.store" in block), scope)
    api = FakeApi()
    assert api.run(scope["note"], text="a") == b"a\n" and api.next().run(scope["note"], text="b") == b"a\nb\n"
    scope |= {"Path": Path, "__file__": str(FUNCTIONS / "here.py")}
    exec(next(block for block in blocks if "api.nodes" in block), scope)
    other = FakeNode()
    assert FakeApi(nodes={"one.onion": other}).run(scope["relayed"], name="Ada") == b"Hello, Ada!\n" and not other.functions


def test_the_examples_for_tor_work_under_a_fake_api():
    text = (FUNCTIONS.parent / "docs" / "writing-functions.md").read_text()
    scope: dict = {}
    exec(next(block.partition("```")[0] for block in text.split("```python\n")[1:] if "api.tor.events" in block), scope)
    tor = FakeTor()
    assert FakeApi(hosts={("example.test", 80): lambda stream: None}, tor=tor).run(scope["ways"], host="example.test").decode().splitlines() == [
        "8 of 8 relays exit to port 80", "chosen: 3 relays to 192.0.2.1", "given: 3 relays to 192.0.2.1",
    ]  # fmt: skip
    serving = FakeApi(tor=tor)
    thread = threading.Thread(target=serving.run, args=(scope["serve"],))
    thread.start()
    end = time.monotonic() + 30
    while not serving.written.endswith(b".onion\n") and time.monotonic() < end:
        thread.join(0.01)
    address = serving.written.decode().strip()
    tor.descriptors[address] = "hs-descriptor 3\n"
    met = FakeApi(tor=tor).run(scope["meet"], address=address).decode().splitlines()
    thread.join(30)
    assert met[0].startswith("hs-descriptor 3: ") and met[1] == "you came to port 80" and not thread.is_alive()
    assert FakeApi().run(scope["watched"]).decode().splitlines()[-1] == "circuit closed"


def test_a_fake_api_has_no_control_connections_and_says_so():
    stem = pytest.importorskip("stem")
    with pytest.raises(stem.SocketError, match=r"tor\.controller"):
        FakeApi().run(lambda api: api.tor.controller())


@pytest.mark.parametrize("name", ["hello", "echo"])
def test_the_examples_work_under_the_runtime(start, name):
    directory = FUNCTIONS / name
    manifest = tomllib.loads((directory / "manifest.toml").read_text())
    files = {file.name: file.read_bytes() for file in directory.iterdir() if file.is_file()}
    node = start()
    assert node.load(files, tuple(manifest["methods"]), manifest["code"]) == {"loaded": {"methods": manifest["methods"]}}
    running = node.invoke(manifest["methods"][0])
    running.stream.sendall(b"a stream")
    running.stream.shutdown(socket.SHUT_WR)
    assert running.read() == {"hello": b"Hello, world!\n", "echo": b"a stream"}[name]
    assert running.done() == {"outcome": "returned"}


def greet(stream: socket.socket) -> None:
    """Plays an HTTP server."""
    request = stream.recv(10_000)
    if request:  # Some tests only connect.
        assert request.startswith(b"GET / HTTP/1.")
        stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: close\r\n\r\nhello")


@pytest.mark.parametrize(
    "fetch",
    [
        lambda: urllib.request.urlopen("http://example.test/").read(),
        lambda: requests.get("http://example.test/").content,
        lambda: asyncio.run(fetch_async()),
    ],
    ids=["urllib", "requests", "asyncio"],
)
def test_libraries_reach_the_hosts_of_the_test_and_afterwards_no_more(fetch):
    api = FakeApi(hosts={("example.test", 80): greet})
    before = (socket.socket, socket.getaddrinfo)
    assert api.run(lambda api: api.output.write(fetch())) == b"hello"
    assert api.connections == [("example.test", 80)]
    assert (socket.socket, socket.getaddrinfo) == before


async def fetch_async() -> bytes:
    """Fetches with asyncio."""
    reader, writer = await asyncio.open_connection("example.test", 80)
    writer.write(b"GET / HTTP/1.0\r\n\r\n")
    body = (await reader.read()).partition(b"\r\n\r\n")[2]
    writer.close()
    return body


def test_connections_go_to_real_servers(web, secure_web, certificate, monkeypatch):
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    api = FakeApi(hosts={("example.test", 80): web, ("example.test", 443): secure_web})
    with api.network():
        assert urllib.request.urlopen("http://example.test/").read() == b"hello from example.test"
        assert urllib.request.urlopen("https://example.test/").read() == b"hello from example.test"
        connection = http.client.HTTPConnection(*web)
        connection.request("GET", "/")
        assert connection.getresponse().read().startswith(b"hello from 127.0.0.1")
    with api.connect("example.test", 80, timeout=5) as stream:
        assert stream.getpeername() == web and stream.gettimeout() == 5


def test_only_allowed_destinations_are_connected_to(web):
    hosts = {("a.test", 80): greet, ("a.test", 443): greet, ("b.test", 80): greet}
    api = FakeApi(hosts=hosts, allow=[("a.test", 80), ("*", 443)])
    api.connect("a.test", 80).close()
    api.connect("a.test", 443).close()
    with pytest.raises(Refused):
        api.connect("b.test", 80)
    with api.network(), pytest.raises(urllib.error.URLError):
        urllib.request.urlopen("http://b.test/")
    with pytest.raises(Refused):
        FakeApi(allow=[]).connect(*web)


def test_errors_are_the_real_ones():
    with socket.create_server(("127.0.0.1", 0)) as server:
        free = server.getsockname()
    with pytest.raises(Unreachable):
        FakeApi().connect(*free)
    with pytest.raises(NameNotFound):
        FakeApi().connect("example.invalid", 80)
    with pytest.raises(BadCall):
        FakeApi().connect("127.0.0.1", 0)


def test_logs_and_prints_are_kept():
    def method(api):
        api.log("logged")
        print("printed")
        print("twice")

    api = FakeApi()
    api.run(method)
    assert api.logs == ["logged", "printed", "twice"]


def test_the_declared_length_is_kept():
    def more(api):
        api.output.length(1)
        api.output.write(b"22")

    def fewer(api):
        api.output.length(3)
        api.output.write(b"22")

    def right(api):
        api.output.length(2)
        api.output.write(b"22")

    with pytest.raises(ValueError):
        FakeApi().run(more)
    with pytest.raises(AssertionError):
        FakeApi().run(fewer)
    assert FakeApi().run(right) == b"22"


def test_a_method_that_does_not_run_when_called_fails():
    def method(api):
        yield

    with pytest.raises(TypeError):
        FakeApi().run(method)


def test_time_runs():
    api = FakeApi(seconds=10)
    assert 9 < api.time_left() <= 10


def test_several_at_once_keep_apart_and_leave_nothing_changed():
    before = (socket.socket, socket.getaddrinfo, sys.stdout, sys.stderr)
    meet = threading.Barrier(8)

    def method(api, name: str) -> None:
        meet.wait()
        print(name)
        meet.wait()
        urllib.request.urlopen(f"http://{name}.test/").read()

    apis = [FakeApi(hosts={(f"h{number}.test", 80): greet}) for number in range(8)]
    threads = [threading.Thread(target=api.run, args=(method,), kwargs={"name": f"h{number}"}) for number, api in enumerate(apis)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert [api.logs for api in apis] == [[f"h{number}"] for number in range(8)]
    assert [api.connections for api in apis] == [[(f"h{number}.test", 80)] for number in range(8)]
    assert (socket.socket, socket.getaddrinfo, sys.stdout, sys.stderr) == before
