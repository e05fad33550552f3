"""Fetches a page with all that belongs to it over plain Tor, as a browser would that knew beforehand what belongs to it.

HTTP/1.1 over SOCKS5, connections kept alive, TLS where the page has it. Knowing the list spares this side the rounds in which a
browser discovers style sheets, and what those name in turn; so it is a peer on the fast side.
"""

import http.client
import queue
import socket
import ssl
import threading
from urllib.parse import SplitResult, urlsplit

from measures.programs import Trouble

CONNECTIONS = 6
"""In parallel, to each origin: what browsers do with HTTP/1.1."""

PATIENCE_SECONDS = 60

BLOCK_BYTES = 65_536
"""Of a body that is sent, at once."""


def fetch(page: str, others: list[str], socks: tuple[str, int], isolation: str, tls: ssl.SSLContext | None) -> int:
    """Fetches the page, then the others in parallel. Returns the bytes of all bodies."""
    first = urlsplit(page)
    connection = Connection(first, socks, isolation, tls)
    total = _get(connection, first)
    if not others:
        return total
    waiting: dict[tuple[str, str], queue.SimpleQueue] = {}
    for url in map(urlsplit, others):
        waiting.setdefault((url.scheme, url.netloc), queue.SimpleQueue()).put(url)
    sizes: list[int] = []
    errors: list[BaseException] = []

    def work(left: queue.SimpleQueue, kept: Connection | None) -> None:
        try:
            while True:
                try:
                    url = left.get_nowait()
                except queue.Empty:
                    break
                if kept is None:
                    kept = Connection(url, socks, isolation, tls)
                sizes.append(_get(kept, url))
        except (OSError, http.client.HTTPException, Trouble) as error:
            errors.append(error)
        finally:
            if kept is not None:
                kept.close()

    threads = []
    for origin, left in waiting.items():
        for number in range(min(CONNECTIONS, left.qsize())):
            # The page's own connection goes on.
            own = connection if number == 0 and origin == (first.scheme, first.netloc) else None
            threads.append(threading.Thread(target=work, args=(left, own)))
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    connection.close()
    if errors:
        raise Trouble(f"fetching over plain Tor: {errors[0]!r}")
    return total + sum(sizes)


def _get(connection: "Connection", url: SplitResult) -> int:
    connection.request("GET", url.path + (f"?{url.query}" if url.query else ""))
    response = connection.getresponse()
    body = response.read()
    if response.status != 200:
        raise Trouble(f"{url.geturl()} is answered with {response.status}")
    return len(body)


class Connection(http.client.HTTPConnection):
    """A connection through Tor."""

    def __init__(self, url: SplitResult, socks: tuple[str, int], isolation: str, tls: ssl.SSLContext | None) -> None:
        port = url.port or (443 if url.scheme == "https" else 80)
        super().__init__(url.hostname, port, timeout=PATIENCE_SECONDS, blocksize=BLOCK_BYTES)
        self._socks = socks
        self._isolation = isolation.encode()
        self._tls = tls if url.scheme == "https" else None

    def connect(self) -> None:
        """SOCKS5 (RFC 1928) with a name and password (RFC 1929), by which Tor keeps circuits apart."""
        stream = socket.create_connection(self._socks, self.timeout)
        stream.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        host = self.host.encode()
        stream.sendall(b"\x05\x01\x02")
        _expect(stream, b"\x05\x02", "greeting")
        stream.sendall(b"\x01" + bytes([len(self._isolation)]) + self._isolation + b"\x01x")
        _expect(stream, b"\x01\x00", "password")
        stream.sendall(b"\x05\x01\x00\x03" + bytes([len(host)]) + host + self.port.to_bytes(2))
        # An IPv4 address and a port follow; Tor always answers with that length.
        _expect(stream, b"\x05\x00\x00\x01", "connection")
        _exactly(stream, 6)
        self.sock = self._tls.wrap_socket(stream, server_hostname=self.host) if self._tls else stream


def _expect(stream: socket.socket, wanted: bytes, what: str) -> None:
    came = _exactly(stream, len(wanted))
    if came != wanted:
        raise Trouble(f"Tor's SOCKS port answers the {what} with {came.hex()}")


def _exactly(stream: socket.socket, count: int) -> bytes:
    data = b""
    while len(data) < count:
        came = stream.recv(count - len(data))
        if not came:
            raise Trouble("Tor's SOCKS port closed the connection")
        data += came
    return data
