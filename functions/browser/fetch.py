"""Fetches resources: each only once, several at a time, within bounds of number, bytes and time.

A timeout per read is no deadline, since a server may send a byte a second. So the thread that waits for all of them shuts the
socket of a fetch that is late; whatever that fetch was waiting for then fails at once.
"""

import _socket
import queue
import socket
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass, field

import decode
import headers
import urls
import warc
from bounds import AT_ONCE, PER_HOST, REDIRECTS, THREADS, Bounds
from headers import Kind
from wire import Answer, Connection, Connections, Trouble

# Bytes of an unwanted body that are read to keep its connection: a new one costs more than that over Tor.
_DRAIN_BYTES = 64 * 1024
_STACK_BYTES = 512 * 1024


@dataclass
class Resource:
    """What was fetched."""

    url: str
    status: int
    headers: object
    body: bytes

    def header(self, name: str) -> str:
        """A header's value, or an empty string."""
        return self.headers.get(name) or ""


@dataclass
class Fetch:
    """One wanted address: what came of it, or why nothing did."""

    url: str
    kind: Kind
    referrer: str | None
    limit: int
    #: An address that was only a guess is not missed if it is not there.
    guess: bool = False
    #: How deep the frame it is for is nested.
    depth: int = 0
    resource: Resource | None = None
    trouble: str | None = None
    ended: bool = False
    _deadline: float = float("inf")
    _sock: socket.socket | None = None
    _late: bool = False
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def hold(self, sock: socket.socket) -> None:
        """Remembers the socket this fetch waits on, so that `stop` reaches it."""
        with self._lock:
            self._sock = sock
            late = self._late
        if late:
            _shut(sock)
            raise Trouble("timeout")

    def stop(self) -> None:
        """Ends the wait of this fetch, now or as soon as it begins one."""
        with self._lock:
            self._late, sock = True, self._sock
        if sock is not None:
            _shut(sock)


def _shut(sock: socket.socket) -> None:
    try:
        # The plain shutdown also for TLS: that of `ssl` takes away the state under the thread that reads.
        _socket.socket.shutdown(sock, socket.SHUT_RDWR)
    except OSError:
        pass


class Fetcher:
    """All fetches of one visit."""

    def __init__(self, api, bounds: Bounds, page: str, archive: "warc.Archive | None" = None, authorities: str | None = None) -> None:
        self.page = page
        self.bytes = 0
        self.count = 0
        self.all: dict[str, Fetch] = {}
        self._bounds = bounds
        self._end = time.monotonic() + bounds.seconds
        self._archive = archive
        self._cookies = headers.Cookies()
        self._connections = Connections(api, authorities)
        self._waiting: list[Fetch] = []
        self._running: list[Fetch] = []
        self._ended: queue.SimpleQueue[Fetch] = queue.SimpleQueue()
        self._work: queue.SimpleQueue[Fetch | None] = queue.SimpleQueue()
        self._threads = 0
        # Threads whose fetch was given up and that have not noticed yet.
        self._stuck = 0
        self._lock = threading.Lock()

    def want(self, url: str, kind: Kind, referrer: str | None, limit: int, guess: bool = False) -> Fetch:
        """The fetch of this address, begun if it is new. It is not ended before `run`."""
        url = urls.split_fragment(url)[0]
        if known := self.all.get(url):
            return known
        wanted = Fetch(url, kind, referrer, limit, guess)
        self.all[url] = wanted
        if urls.scheme(url) not in ("http", "https"):
            wanted.trouble, wanted.ended = f"an address that is not fetched ({urls.scheme(url) or 'no scheme'}:)", True
        elif self.count >= self._bounds.resources:
            wanted.trouble, wanted.ended = f"beyond the bound of {self._bounds.resources} resources", True
        else:
            self.count += 1
            self._waiting.append(wanted)
        return wanted

    def run(self, ended: Callable[[Fetch], None]) -> None:
        """Fetches until nothing is wanted any more. `ended` is told of each, in this thread, and may want more."""
        while self._waiting or self._running:
            now = time.monotonic()
            if now >= self._end:
                self._give_up()
                return
            self._start(now)
            wake = min([self._end, *(fetch._deadline for fetch in self._running if not fetch._late)])
            try:
                fetch = self._ended.get(timeout=max(0.0, wake - now))
            except queue.Empty:
                for late in [fetch for fetch in self._running if fetch._deadline <= time.monotonic()]:
                    self._abandon(late, f"timeout: not complete after {self._bounds.resource_seconds:g} s")
                    ended(late)
                continue
            if fetch in self._running:
                self._running.remove(fetch)
                fetch.ended = True
                ended(fetch)
            else:
                self._stuck -= 1

    def close(self) -> None:
        """Ends the threads."""
        for fetch in self._running:
            fetch.stop()
        for _ in range(self._threads):
            self._work.put(None)
        self._connections.close()

    def _abandon(self, fetch: Fetch, reason: str) -> None:
        self._running.remove(fetch)
        self._stuck += 1
        fetch.stop()
        fetch.trouble, fetch.resource, fetch.ended = reason, None, True

    def _give_up(self) -> None:
        reason = f"timeout: the page was not complete after {self._bounds.seconds:g} s"
        for fetch in list(self._running):
            self._abandon(fetch, reason)
        for fetch in self._waiting:
            fetch.trouble, fetch.ended = reason, True
        self._waiting.clear()

    def _start(self, now: float) -> None:
        busy: dict[tuple[str, str, int], int] = {}
        for fetch in self._running:
            place = urls.origin(fetch.url)
            busy[place] = busy.get(place, 0) + 1
        for fetch in sorted(self._waiting, key=lambda fetch: fetch.kind.rank):
            if len(self._running) >= AT_ONCE or len(self._running) + self._stuck >= THREADS:
                return
            place = urls.origin(fetch.url)
            if busy.get(place, 0) >= PER_HOST:
                continue
            busy[place] = busy.get(place, 0) + 1
            self._waiting.remove(fetch)
            self._running.append(fetch)
            fetch._deadline = min(self._end, now + self._bounds.resource_seconds)
            if self._threads < len(self._running) + self._stuck:
                self._another_thread()
            self._work.put(fetch)

    def _another_thread(self) -> None:
        before = threading.stack_size(_STACK_BYTES)
        try:
            threading.Thread(target=self._serve, daemon=True).start()
        except RuntimeError:
            # No more threads than these: what is wanted waits for one of them.
            if not self._threads:
                raise Trouble("not one thread could be started") from None
            return
        finally:
            threading.stack_size(before)
        self._threads += 1

    def _serve(self) -> None:
        while fetch := self._work.get():
            resource, trouble = None, None
            try:
                resource = self._fetch(fetch)
            except Trouble as error:
                trouble = str(error)
            except decode.Undecodable as error:
                trouble = str(error)
            except urls.BadUrl as error:
                trouble = str(error)
            except OSError as error:
                trouble = f"the connection broke: {error.strerror or type(error).__name__}"
            except Exception as error:
                # A fault of this program must not leave a fetch without an end.
                trouble = f"the browser failed on it: {type(error).__name__}: {error}"
            with fetch._lock:
                if not fetch._late:
                    fetch.resource, fetch.trouble = resource, trouble
            self._ended.put(fetch)

    def _fetch(self, fetch: Fetch) -> Resource:
        url, seen = fetch.url, 0
        while True:
            connection, answer = self._ask(fetch, url)
            try:
                self._cookies.learn(url, answer.headers)
                place = answer.headers.get("Location")
                if answer.status in (301, 302, 303, 307, 308) and place is not None:
                    seen += 1
                    if seen > REDIRECTS:
                        raise Trouble(f"more than {REDIRECTS} redirects")
                    self._read(fetch, url, answer, _DRAIN_BYTES, drain=True)
                    self._connections.give(url, connection)
                    url = redirected(url, place)
                    continue
                body = self._read(fetch, url, answer, fetch.limit)
                self._connections.give(url, connection)
                return Resource(url, answer.status, answer.headers, body)
            except BaseException:
                connection.close()
                raise

    def _ask(self, fetch: Fetch, url: str) -> tuple[Connection, Answer]:
        lines = headers.request(url, fetch.kind, fetch.referrer, self.page, self._cookies.header(url))
        while True:
            connection = self._connections.take(url)
            if connection is None:
                connection = self._connections.open(url, fetch.hold, max(0.1, fetch._deadline - time.monotonic()))
            else:
                fetch.hold(connection.sock)
            try:
                return connection, connection.ask(url, lines, self._archive is not None)
            except OSError as error:
                connection.close()
                # The server may have closed an idle connection at the moment it was used again. Then ask on a new one.
                if connection.fresh or not connection.silent or fetch._late:
                    if isinstance(error, ConnectionError) and connection.silent:
                        raise Trouble("the server closed the connection without an answer") from None
                    raise
            except BaseException:
                connection.close()
                raise

    def _read(self, fetch: Fetch, url: str, answer: Answer, limit: int, drain: bool = False) -> bytes:
        raw = answer.body if drain else decode.decoded(answer.body, answer.headers.get("Content-Encoding") or "")
        body = bytearray()
        for piece in raw:
            if len(body) + len(piece) > limit:
                if drain:
                    break
                raise Trouble(f"it is over {limit} bytes")
            self._spend(len(piece))
            body += piece
        if self._archive is not None and answer.response is not None:
            self._archive.add(url, answer.request, bytes(answer.response))
        return bytes(body)

    def _spend(self, count: int) -> None:
        with self._lock:
            if self.bytes + count > self._bounds.bytes:
                raise Trouble(f"the page is over {self._bounds.bytes} bytes altogether")
            self.bytes += count


def redirected(url: str, place: str) -> str:
    """Where a redirect leads. Raises `Trouble` where none may."""
    # http.client reads heads as Latin-1; servers that send other bytes here mean UTF-8.
    place = place.encode("latin-1", "replace").decode("utf-8", "replace")
    after = urls.resolve(url, place)
    if urls.scheme(after) not in ("http", "https"):
        raise Trouble(f"it redirects to an address that is not fetched ({urls.scheme(after)}:)")
    if urls.scheme(url) == "https" and urls.scheme(after) == "http":
        raise Trouble("it redirects from https to http: ask for the http address if that is meant")
    fragment = urls.split_fragment(url)[1]
    return after if "#" in after else after + fragment
