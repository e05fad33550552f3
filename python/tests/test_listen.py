"""A function's own 127.0.0.1: it listens there for itself and for clients of its onion services, and for nobody else."""

import socket


def works(node, expected: bytes) -> None:
    """Runs `f`, which has to output what is expected."""
    assert node.run("f") == (expected, {"outcome": "returned"})


def test_a_server_of_the_standard_library_serves_the_function_itself(start):
    source = """
import http.server, socket, threading, urllib.request
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.send_header("Content-Length", "4"); self.end_headers()
        self.wfile.write(b"page")
    def log_message(self, *arguments): pass
def f(api):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    host, port = server.server_address
    assert host == "127.0.0.1" and port == server.socket.getsockname()[1] > 0
    for name in "127.0.0.1", "localhost":
        api.output.write(urllib.request.urlopen(f"http://{name}:{port}/", timeout=20).read())
    try: socket.create_server(("127.0.0.1", port))
    except OSError as error: assert error.errno == 98, error
    server.shutdown(); server.server_close()
    for name in "127.0.0.1", "localhost":
        # Nobody is there any more, so the node is asked, as for any other host.
        try: socket.create_connection((name, port), timeout=20)
        except OSError as error: assert error.args[1] == "because the test says so", error
        else: raise AssertionError(name)
    socket.create_server(("127.0.0.1", port)).close()
"""
    works(start(source, "f"), b"pagepage")


def test_asyncio_listens_too(start):
    source = """
import asyncio
async def serve(api):
    async def answer(reader, writer):
        writer.write(b"heard " + await reader.readline()); writer.close()
    server = await asyncio.start_server(answer, "127.0.0.1", 0)
    port = server.sockets[0].getsockname()[1]
    for word in b"one", b"two":
        reader, writer = await asyncio.open_connection("127.0.0.1", port)
        writer.write(word + b"\\n")
        api.output.write(await reader.read())
        writer.close()
    server.close()
def f(api): asyncio.run(asyncio.wait_for(serve(api), 20))
"""
    works(start(source, "f"), b"heard one\nheard two\n")


def test_clients_of_an_onion_service_come_where_the_function_listens(start):
    source = """
import socket
def f(api):
    with socket.create_server(("127.0.0.1", 5000)) as server:
        server.settimeout(20)
        for _ in range(2):
            stream, peer = server.accept()
            with stream:
                assert peer[0] == "127.0.0.1" and stream.getpeername() == peer and stream.gettimeout() is None
                stream.sendall(b"hello " + stream.recv(100))
"""
    node = start(source, "f")
    node.manual.add("tor.listen")
    running = node.invoke("f")
    for name in b"anna", b"bert":
        call = node.call()
        assert call["arguments"] == {"port": 5000}
        node.answer(call, {"port": None})
        ours, theirs = socket.socketpair()
        ours.settimeout(30)
        node.answer(node.call(), {"port": 5000}, theirs)
        ours.sendall(name)
        assert ours.recv(100) == b"hello " + name
    assert running.done() == {"outcome": "returned"}


def test_nothing_waits_where_nobody_accepts(start):
    source = """
import select, socket, time
def f(api):
    server = socket.create_server(("127.0.0.1", 5000))
    server.setblocking(False)
    try: server.accept()
    except BlockingIOError: pass
    assert select.select([server], [], [], 0) == ([], [], [])
    clients = [socket.create_connection(("127.0.0.1", 5000), timeout=20) for _ in range(128)]
    try: socket.create_connection(("127.0.0.1", 5000), timeout=20)
    except ConnectionRefusedError: pass
    assert select.select([server], [], [], 0) == ([server], [], [])
    server.accept()[0].close()
    assert clients[0].recv(1) == b""
    server.close()
    assert clients[1].recv(1) == b""
    api.output.write(b"good")
"""
    works(start(source, "f"), b"good")
