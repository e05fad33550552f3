"""One connection to one web server: HTTP/1.1 requests on it, one after the other.

`http.client` parses; this module gives it a socket that comes from the node, and adds what it lacks: a bound on whole heads,
interim responses, and a copy of the bytes for the archive. Deadlines are not here: `fetch` shuts a socket that is late.
"""

import http.client
import io
import select
import ssl
import threading
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field

import urls
from bounds import HEAD_BYTES, IDLE_CONNECTIONS, INTERIM_RESPONSES

_READ = 32 * 1024


class Trouble(Exception):
    """A resource that could not be fetched. The text goes into the list of what is missing."""


class _Bytes(io.RawIOBase):
    """What arrives from the socket, counted and, if wanted, copied."""

    def __init__(self, sock) -> None:
        super().__init__()
        self.sock = sock
        self.head_left: int | None = None
        self.copy: bytearray | None = None
        self.arrived = 0
        self.frozen = False

    def readable(self) -> bool:
        return True

    def readinto(self, buffer) -> int | None:
        if self.frozen:
            return None
        count = self.sock.recv_into(buffer)
        self.arrived += count
        if self.copy is not None:
            self.copy += memoryview(buffer)[:count]
        if self.head_left is not None:
            self.head_left -= count
            if self.head_left < 0:
                raise Trouble(f"its head is over {HEAD_BYTES // 1024} KiB")
        return count


class _Reader(io.BufferedReader):
    """Stays open when `http.client` closes it at the end of a response: more may follow, and some of it may be buffered."""

    def close(self) -> None:
        pass


class _Channel:
    """The socket as `http.client` wants it."""

    def __init__(self, sock) -> None:
        self.bytes = _Bytes(sock)
        self.reader = _Reader(self.bytes, _READ)
        self.sent = bytearray()
        self.sock = sock

    def sendall(self, data) -> None:
        self.sent += data
        self.sock.sendall(data)

    def makefile(self, mode: str) -> _Reader:
        return self.reader

    def close(self) -> None:
        pass


class _Response(http.client.HTTPResponse):
    """Also passes over interim responses other than 100, such as 103 Early Hints."""

    def _read_status(self):
        for _ in range(INTERIM_RESPONSES):
            version, status, reason = super()._read_status()
            if status == 100 or not 101 < status < 200:
                self.interim = getattr(self, "interim", 0) + 1
                if self.interim > INTERIM_RESPONSES:
                    break
                return version, status, reason
            http.client.parse_headers(self.fp)
        raise Trouble(f"it answered with more than {INTERIM_RESPONSES} interim responses")


@dataclass
class Answer:
    """The head of a response. `body` may be read once."""

    status: int
    reason: str
    headers: http.client.HTTPMessage
    body: Iterator[bytes]
    #: The request and the response as they went over the wire; the response grows while the body is read.
    request: bytes
    response: bytearray | None = field(default=None)


class Connection:
    """A connection that may serve several requests."""

    def __init__(self, sock, url: str) -> None:
        _, host, port = urls.origin(url)
        self.sock = sock
        self.fresh = True
        self._channel = _Channel(sock)
        self._client = http.client.HTTPConnection(host, port)
        self._client.response_class = _Response
        self._client.auto_open = 0
        self._client.sock = self._channel
        self._response: http.client.HTTPResponse | None = None
        self._complete = False

    def ask(self, url: str, headers: list[tuple[str, str]], keep: bool) -> Answer:
        """Sends a GET request and reads the head of the response. `keep`: copy the bytes."""
        channel, source = self._channel, self._channel.bytes
        target, host = urls.target(url)
        channel.sent = bytearray()
        source.copy = bytearray() if keep else None
        source.head_left, source.arrived = HEAD_BYTES, 0
        self._complete = False
        try:
            self._client.putrequest("GET", target, skip_host=True, skip_accept_encoding=True)
            self._client.putheader("Host", host)
            for name, value in headers:
                self._client.putheader(name, value)
            self._client.endheaders()
            self._response = response = self._client.getresponse()
        except http.client.RemoteDisconnected:
            raise
        except (http.client.HTTPException, ValueError) as error:
            raise Trouble(f"its answer is not HTTP: {str(error)[:100] or type(error).__name__}") from None
        source.head_left = None
        return Answer(response.status, response.reason, response.headers, self._body(response), bytes(channel.sent), source.copy)

    @property
    def silent(self) -> bool:
        """True if not a byte has arrived since the request."""
        return self._channel.bytes.arrived == 0

    def _body(self, response: http.client.HTTPResponse) -> Iterator[bytes]:
        try:
            while piece := response.read(_READ):
                yield piece
        except http.client.HTTPException as error:
            raise Trouble(f"its answer breaks off: {str(error)[:100]}") from None
        if response.length:
            raise Trouble(f"its answer breaks off: {response.length} more bytes were promised")
        self._complete = True

    def reusable(self) -> bool:
        """True if the response was read to its end, and nothing follows that nobody asked for."""
        response, source = self._response, self._channel.bytes
        if response is None or response.will_close or not self._complete:
            return False
        source.frozen = True
        try:
            if self._channel.reader.peek(1):
                return False
        finally:
            source.frozen = False
        poll = select.poll()
        poll.register(self.sock, select.POLLIN)
        return not poll.poll(0)

    def close(self) -> None:
        self.sock.close()


class Connections:
    """Opens connections through the node and keeps those that can be used again."""

    def __init__(self, api, authorities: str | None) -> None:
        self._api = api
        self._authorities = authorities
        self._idle: dict[tuple[str, str, int], list[Connection]] = {}
        self._tls: ssl.SSLContext | None = None
        self._lock = threading.Lock()

    def take(self, url: str) -> Connection | None:
        """An idle connection to the place of `url`, if there is one."""
        with self._lock:
            idle = self._idle.get(urls.origin(url), [])
            while idle:
                connection = idle.pop()
                if connection.reusable():
                    connection.fresh = False
                    return connection
                connection.close()
        return None

    def give(self, url: str, connection: Connection) -> None:
        """Hands back a connection whose response was read."""
        with self._lock:
            if connection.reusable() and sum(map(len, self._idle.values())) < IDLE_CONNECTIONS:
                self._idle.setdefault(urls.origin(url), []).append(connection)
                return
        connection.close()

    def open(self, url: str, hold: Callable, seconds: float) -> Connection:
        """A new connection. `hold` is told of its socket before anything waits on it; the node has so many seconds to make it."""
        kind, host, port = urls.origin(url)
        try:
            sock = self._api.connect(host, port, timeout=seconds)
        except OSError as error:
            # The node's refusals and the network's failures alike: the reason is all that matters to the reader.
            raise Trouble(f"no connection: {(error.strerror or str(error))[:200]}") from error
        hold(sock)
        if kind == "https":
            try:
                sock = self._context().wrap_socket(sock, server_hostname=host, do_handshake_on_connect=False)
                hold(sock)
                sock.do_handshake()
            except ssl.SSLCertVerificationError as error:
                raise Trouble(f"its certificate is not valid: {error.verify_message}") from None
            except ssl.SSLError as error:
                raise Trouble(f"TLS failed: {error.reason or error}") from None
        return Connection(sock, url)

    def _context(self) -> ssl.SSLContext:
        with self._lock:
            if self._tls is None:
                self._tls = ssl.create_default_context()
                self._tls.set_alpn_protocols(["http/1.1"])
                if self._authorities:
                    self._tls.load_verify_locations(cadata=self._authorities)
            return self._tls

    def close(self) -> None:
        """Closes what is idle."""
        with self._lock:
            for idle in self._idle.values():
                for connection in idle:
                    connection.close()
            self._idle.clear()
