"""Networking libraries work unchanged, and all of them through the node: no host here has a name that anybody else could resolve."""

import socket

import pytest

PACKAGES = {"BENTO_PACKAGES": "/usr/lib/python3/dist-packages"}
URL = "http://example.test/hello"


def works(start, source: str, *, expected: bytes = b"hello from example.test", **options: object) -> None:
    """Runs `f`, which has to output what is expected."""
    node = start(source, "f", **options)
    assert node.run("f") == (expected, {"outcome": "returned"})


def test_connect_gives_a_connected_socket(start, web):
    source = """
import socket
def f(api):
    with api.connect("example.test", 80, timeout=20) as stream:
        assert isinstance(stream, socket.socket) and stream.gettimeout() == 20
        assert stream.getpeername() == ("127.0.0.1", PORT), stream.getpeername()
        assert stream.family == socket.AF_INET and stream.type == socket.SOCK_STREAM
        stream.sendall(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
        with stream.makefile("rb") as file:
            api.output.write(file.read().partition(b"\\r\\n\\r\\n")[2])
"""
    works(start, source.replace("PORT", str(web[1])), hosts={("example.test", 80): web})


@pytest.mark.parametrize(
    "source",
    [
        """
import urllib.request
def f(api): api.output.write(urllib.request.urlopen(URL, timeout=20).read())
""",
        """
def f(api):
    import urllib.request
    api.output.write(urllib.request.urlopen(URL).read())
""",
        """
import http.client
def f(api):
    connection = http.client.HTTPConnection("example.test")
    for _ in range(3):
        connection.request("GET", "/hello")
        body = connection.getresponse().read()
    api.output.write(body)
""",
        """
from socket import create_connection
def f(api):
    stream = create_connection(("example.test", 80), timeout=20)
    stream.sendall(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
    api.output.write(stream.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2])
""",
        """
import requests
def f(api): api.output.write(requests.get(URL, timeout=20).content)
""",
        """
import requests, concurrent.futures
def f(api):
    with requests.Session() as session, concurrent.futures.ThreadPoolExecutor(4) as pool:
        api.output.write(*set(pool.map(lambda _: session.get(URL).content, range(8))))
""",
        """
import urllib3
def f(api): api.output.write(urllib3.PoolManager().request("GET", URL).data)
""",
        """
import asyncio
async def get():
    reader, writer = await asyncio.open_connection("example.test", 80)
    assert writer.get_extra_info("peername")[0] == "127.0.0.1"
    writer.write(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
    await writer.drain()
    body = (await reader.read()).partition(b"\\r\\n\\r\\n")[2]
    writer.close()
    await writer.wait_closed()
    return body
async def several():
    return await asyncio.gather(*(get() for _ in range(5)))
def f(api): api.output.write(*set(asyncio.run(several())))
""",
        """
import asyncio, urllib.request
def f(api):
    async def main():
        return await asyncio.to_thread(lambda: urllib.request.urlopen(URL).read())
    api.output.write(asyncio.run(main()))
""",
        """
import socket, select
def f(api):
    stream = socket.socket()
    stream.setblocking(False)
    assert stream.connect_ex(("example.test", 80)) == 115
    _, ready, _ = select.select([], [stream], [], 20)
    assert ready == [stream] and stream.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR) == 0
    assert stream.getpeername()[0] == "127.0.0.1"
    stream.setblocking(True)
    stream.sendall(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
    api.output.write(stream.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2])
""",
    ],
    ids=["urllib", "late", "http", "socket", "requests", "pool", "urllib3", "asyncio", "to_thread", "poll"],
)
def test_http_libraries_work(start, web, source):
    works(start, source.replace("URL", repr(URL)), hosts={("example.test", 80): web}, environment=PACKAGES)


@pytest.mark.parametrize(
    "source",
    [
        """
import ssl
def f(api):
    with ssl.create_default_context().wrap_socket(api.connect("example.test", 443), server_hostname="example.test") as stream:
        assert stream.getpeername()[0] == "127.0.0.1" and stream.version() == "TLSv1.3"
        stream.sendall(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
        api.output.write(stream.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2])
""",
        """
import ssl, socket
def f(api):
    with ssl.create_default_context().wrap_socket(socket.socket(), server_hostname="example.test") as stream:
        stream.connect(("example.test", 443))
        stream.sendall(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
        api.output.write(stream.makefile("rb").read().partition(b"\\r\\n\\r\\n")[2])
""",
        """
import urllib.request
def f(api): api.output.write(urllib.request.urlopen("https://example.test/hello").read())
""",
        """
import requests
def f(api): api.output.write(requests.get("https://example.test/hello", verify=CA).content)
""",
        """
import asyncio
async def get():
    reader, writer = await asyncio.open_connection("example.test", 443, ssl=True)
    writer.write(b"GET /hello HTTP/1.0\\r\\nHost: example.test\\r\\n\\r\\n")
    body = (await reader.read()).partition(b"\\r\\n\\r\\n")[2]
    writer.close()
    return body
def f(api): api.output.write(asyncio.run(get()))
""",
    ],
    ids=["wrap", "connect", "urllib", "requests", "asyncio"],
)
def test_tls_is_the_functions_own(start, secure_web, certificate, source):
    environment = {**PACKAGES, "SSL_CERT_FILE": str(certificate)}
    source = source.replace("CA", repr(str(certificate)))
    works(start, source, hosts={("example.test", 443): secure_web}, environment=environment)
    # Without the certificate the same connection is not trusted.
    if "verify" not in source:
        node = start(source, "f", hosts={("example.test", 443): secure_web}, environment={"SSL_CERT_FILE": "/dev/null"})
        assert "CERTIFICATE_VERIFY_FAILED" in node.run("f")[1]["error"]


def test_a_long_answer_and_a_long_request_arrive(start, web):
    source = """
import urllib.request, hashlib
def f(api):
    assert urllib.request.urlopen("http://example.test/long").read() == b"x" * 1_000_000
    data = bytes(range(256)) * 10_000
    assert urllib.request.urlopen("http://example.test/", data).read() == data
    api.output.write(b"both")
"""
    works(start, source, expected=b"both", hosts={("example.test", 80): web})


ERRORS = """
import asyncio, socket, urllib.request, urllib.error, requests
import bento.api
def direct(api, host):
    try: api.connect(host, 80)
    except OSError as error: api.output.write(f"{type(error).__name__} {error.errno} {error.strerror}".encode())
def plain(api, host):
    try: socket.create_connection((host, 80))
    except socket.gaierror: api.output.write(b"gaierror")
    except PermissionError: api.output.write(b"PermissionError")
    except TimeoutError: api.output.write(b"TimeoutError")
    except ConnectionError: api.output.write(b"ConnectionError")
    except OSError: api.output.write(b"OSError")
def url(api, host):
    try: urllib.request.urlopen(f"http://{host}/")
    except urllib.error.URLError as error: api.output.write(type(error.reason).__name__.encode())
def request(api, host):
    try: requests.get(f"http://{host}/")
    except requests.ConnectTimeout: api.output.write(b"ConnectTimeout")
    except requests.ConnectionError: api.output.write(b"ConnectionError")
def loop(api, host):
    try: asyncio.run(asyncio.open_connection(host, 80))
    except OSError as error: api.output.write(type(error).__name__.encode())
"""


@pytest.mark.parametrize(
    ("kind", "direct", "plain", "loop"),
    [
        ("refused", "Refused 13", "PermissionError", "PermissionError"),
        ("unreachable", "Unreachable 113", "ConnectionError", "OSError"),
        ("resolve", "NameNotFound -2", "gaierror", "OSError"),
        ("timeout", "Timeout 110", "TimeoutError", "TimeoutError"),
        ("busy", "Busy 16", "OSError", "OSError"),
        ("bad-call", "BadCall 22", "OSError", "OSError"),
    ],
)
def test_the_nodes_errors_are_those_that_libraries_know(start, kind, direct, plain, loop):
    node = start(ERRORS, "direct", "plain", "url", "request", "loop", hosts={("example.test", 80): kind}, environment=PACKAGES)
    for method, expected in (
        ("direct", f"{direct} because the test says so"),
        ("plain", plain),
        ("url", direct.partition(" ")[0]),
        ("request", "ConnectTimeout" if kind == "timeout" else "ConnectionError"),
        ("loop", loop),
    ):
        assert (method, *node.run(method, host="example.test")) == (method, expected.encode(), {"outcome": "returned"})


def test_a_timeout_ends_the_wait_and_a_late_stream_is_closed(start):
    source = """
import socket
def f(api):
    for attempt in (
        lambda: api.connect("example.test", 80, timeout=0.05),
        lambda: socket.create_connection(("example.test", 80), timeout=0.05),
    ):
        try: attempt()
        except TimeoutError: api.output.write(b"t")
"""
    node = start(source, "f")
    node.manual.add("net.connect")
    assert node.run("f") == (b"tt", {"outcome": "returned"})
    for _ in range(2):
        ours, theirs = socket.socketpair()
        node.answer(node.call(), {"address": "127.0.0.1", "port": 80}, theirs)
        ours.settimeout(30)
        assert ours.recv(1) == b""


def test_a_connection_given_up_before_its_answer_is_closed(start):
    source = """
import socket
def f(api):
    stream = socket.socket(type=socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    assert stream.connect_ex(("example.test", 80)) == 115
    assert stream.connect_ex(("example.test", 80)) == 114
    stream.close()
"""
    node = start(source, "f")
    node.manual.add("net.connect")
    assert node.run("f") == (b"", {"outcome": "returned"})
    ours, theirs = socket.socketpair()
    node.answer(node.call(), {"address": "127.0.0.1", "port": 80}, theirs)
    ours.settimeout(30)
    assert ours.recv(1) == b""


def test_other_internet_sockets_are_refused_and_local_ones_are_not(start):
    source = """
import socket
def f(api):
    udp = lambda: socket.socket(type=socket.SOCK_DGRAM)
    raw = lambda: socket.socket(socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP)
    netlink = lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW)
    for attempt in (udp, raw, netlink):
        try: attempt()
        except PermissionError as error:
            assert "a function can open TCP connections to other hosts" in str(error), error
        else:
            raise AssertionError(attempt)
    bind = lambda: socket.socket().bind(("192.0.2.1", 0))
    name = lambda: socket.socket().bind(("127.example.org", 0))
    source = lambda: socket.create_connection(("example.test", 80), source_address=("192.0.2.1", 0))
    for attempt in (bind, name, source):
        try: attempt()
        except PermissionError as error:
            assert "a function can listen at 127.0.0.1 only" in str(error), error
        else:
            raise AssertionError(attempt)
    try: socket.socket().accept()
    except OSError as error: assert error.errno == 22, error
    one, two = socket.socketpair()
    one.send(b"local"); assert two.recv(5) == b"local" and two.family == socket.AF_UNIX
    socket.socket(socket.AF_UNIX).bind(b"\\0bento-test-%d" % id(one))
    api.output.write(b"all")
"""
    works(start, source, expected=b"all")


def test_names_are_handed_on_as_they_are(start, web):
    source = """
import socket, ssl, requests
def f(api):
    INET, INET6, STREAM, TCP = socket.AF_INET, socket.AF_INET6, socket.SOCK_STREAM, socket.IPPROTO_TCP
    assert socket.getaddrinfo("example.test", "https") == [(INET, STREAM, TCP, "", ("example.test", 443))]
    assert socket.getaddrinfo("192.0.2.1", 80, type=STREAM) == [(INET, STREAM, TCP, "", ("192.0.2.1", 80))]
    assert socket.getaddrinfo("2001:db8::1", 80) == [(INET6, STREAM, TCP, "", ("2001:db8::1", 80, 0, 0))]
    assert socket.getaddrinfo(b"bytes.test", b"8080")[0][4] == ("bytes.test", 8080)
    assert socket.getaddrinfo("b\\u00fccher.test", 80)[0][4] == ("xn--bcher-kva.test", 80)
    assert socket.gethostbyname("example.test") == "example.test"
    socket.getfqdn()
    for wrong in (
        lambda: socket.getaddrinfo("example.test", 80, flags=socket.AI_NUMERICHOST),
        lambda: socket.getaddrinfo("192.0.2.1", 80, INET6),
        lambda: socket.getaddrinfo("example.test", 80, type=socket.SOCK_DGRAM),
        lambda: socket.getaddrinfo("example.test", "gopher-like"),
        lambda: socket.getaddrinfo("a" * 300, 80),
        lambda: socket.getaddrinfo("with blank", 80),
        lambda: socket.getaddrinfo("\\udc80", 80),
        lambda: api.connect("\\u2024\\u2024", 80),
    ):
        try: wrong()
        except socket.gaierror: pass
        else: raise AssertionError
    six = socket.create_connection(("2001:db8::1", 80))
    assert six.family == INET6 and len(six.getpeername()) == 4 and len(six.getsockname()) == 4
    six.setsockopt(TCP, socket.TCP_NODELAY, 1)
    assert six.getsockopt(TCP, socket.TCP_NODELAY) == 1
    six.setsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE, 1)
    copy = six.dup()
    assert copy.getpeername() == six.getpeername() and copy.family == INET6
    moved = socket.socket(fileno=copy.detach())
    assert moved.getpeername() == six.getpeername() and moved.family == INET6
    try: six.connect(("example.test", 80))
    except OSError as error: assert error.errno == 106
    else: raise AssertionError
    try: socket.socket().getpeername()
    except OSError as error: assert error.errno == 107
    else: raise AssertionError
    assert str(six).startswith("<socket.socket fd="), six
    api.output.write(b"all")
"""
    works(start, source, expected=b"all", hosts={("2001:db8::1", 80): web}, environment=PACKAGES)


def test_libraries_connect_for_the_invocation_that_uses_them(start, web):
    source = """
import socket, threading
from concurrent.futures import ThreadPoolExecutor
pool = ThreadPoolExecutor(1)
def try_it():
    try: socket.create_connection(("example.test", 80)).close()
    except PermissionError as error: return str(error)
    return ""
at_import = try_it()
go = threading.Event()
def plain(api): api.output.write(try_it().encode())
def thread(api):
    found = []
    worker = threading.Thread(target=lambda: found.append(try_it()))
    worker.start(); worker.join()
    api.output.write(found[0].encode())
def pooled(api): api.output.write(pool.submit(try_it).result().encode())
def imported(api): api.output.write(at_import.encode())
def wait(api):
    api.output.write(b"x")
    api.input.read()
"""
    node = start(source, "plain", "thread", "pooled", "imported", "wait")
    node.manual.add("net.connect")

    def answered_for(number: int) -> None:
        call = node.call()
        assert call["invocation"] == number
        _, theirs = socket.socketpair()
        node.answer(call, {"address": "127.0.0.1", "port": 80}, theirs)

    assert b"only while an invocation runs" in node.run("imported")[0]
    waiting = node.invoke("wait")
    assert waiting.stream.recv(1) == b"x"
    for method in ("plain", "thread", "pooled"):
        running = node.invoke(method)
        answered_for(running.number)
        assert running.read() == b"" and running.done() == {"outcome": "returned"}
    # The pool's thread was started by an invocation that has ended. With two running it cannot tell; with one it can.
    running = node.invoke("pooled")
    assert b"only while an invocation runs" in running.read()
    waiting.stream.shutdown(socket.SHUT_WR)
    assert waiting.done() == {"outcome": "returned"}
    running = node.invoke("pooled")
    answered_for(running.number)
    assert running.read() == b""


def test_a_full_table_of_descriptors_is_that_bound(start, web):
    source = """
import socket
held = []
def f(api):
    while True: held.append(api.connect("example.test", 80))
def g(api):
    held.clear()
    while True: held.append(socket.create_connection(("example.test", 80)))
"""
    limit = "import resource; resource.setrlimit(resource.RLIMIT_NOFILE, (24, 24)); "
    node = start("import encodings.idna\n" + source, "f", "g", hosts={("example.test", 80): lambda stream: stream.recv(1)}, before=limit)
    assert node.run("f")[1] == {"outcome": "killed", "bound": "descriptors"}
    assert node.run("g")[1] == {"outcome": "killed", "bound": "descriptors"}
