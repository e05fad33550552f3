"""A replica: an onion service of its own that takes the front's clients as well, and tells its load.

It serves a site that it was given, or forwards each connection to an origin's onion service. Its key is its own, and it knows of the front
no more than the address.
"""

import collections
import json
import select
import socket
import threading
import time

import pages

from bento.api import Missing

CONNECTIONS_MAX = 24
"""Most connections at the same time: each has a thread. One more is not taken, and its client is told so by Tor."""

TELL_SECONDS = 1.0
"""Between two reports."""

SPAN_SECONDS = 5.0
"""Over which time the rate is taken."""

PIECE_BYTES = 64 * 1024

IDLE_SECONDS = 120.0
"""How long a forwarded connection may carry nothing."""


class Meter:
    """What this process serves, and how much."""

    def __init__(self) -> None:
        self._turn = threading.Lock()
        self.address: str | None = None
        self.service: object = None
        self.ended: str | None = None
        self.connections = 0
        self.accepted = 0
        self.bytes = 0
        self.free = threading.Condition(self._turn)
        self._marks: collections.deque[tuple[float, int]] = collections.deque()

    def count(self, bytes: int) -> None:
        """So many more were carried."""
        with self._turn:
            self.bytes += bytes

    def room(self) -> bool:
        """Waits until there is a place for one more connection; tells whether there is a service that takes it."""
        with self._turn:
            self.free.wait_for(lambda: self.connections < CONNECTIONS_MAX or self.service is None)
            return self.service is not None

    def take(self) -> None:
        """A connection has begun."""
        with self._turn:
            self.connections += 1
            self.accepted += 1

    def give_back(self) -> None:
        """A connection has ended."""
        with self._turn:
            self.connections -= 1
            self.free.notify()

    def report(self) -> dict:
        """What is told: the rate is that of the last seconds."""
        now = time.monotonic()
        with self._turn:
            self._marks.append((now, self.bytes))
            while len(self._marks) > 2 and now - self._marks[0][0] > SPAN_SECONDS:
                self._marks.popleft()
            (begun, before), span = self._marks[0], now - self._marks[0][0]
            rate = (self.bytes - before) / span if span > 0 else 0.0
            return {
                "address": self.address, "serving": self.service is not None, "ended": self.ended, "connections": self.connections,
                "accepted": self.accepted, "bytes": self.bytes, "rate": round(rate),
            }  # fmt: skip

    def close(self, why: str, only_idle: bool = False) -> bool:
        """Ends the service; with `only_idle` not while there are connections. Tells whether it has ended."""
        with self._turn:
            if only_idle and self.connections:
                return False
            service, self.service = self.service, None
            self.ended = self.ended or why
            self.free.notify_all()
        if service is not None:
            service.close()
        return True


# One of a process: its methods are invocations of one function.
meter = Meter()
_serving = threading.Lock()


class AlreadyServing(Exception):
    """It serves already."""


def site(api) -> None:
    """Keeps the site that is the input: a tar archive, not compressed."""
    data = api.input.read()
    pages.Site(data)
    api.store.put("site", data)


def serve(api, front: str, origin: str | None = None) -> None:
    """Serves until it is retired. `front`: whose clients it takes as well; `origin`: `ADDRESS.onion:PORT` to forward to, in place of the site."""
    global meter
    if not _serving.acquire(blocking=False):
        raise AlreadyServing("it serves already")
    try:
        content = None if origin else pages.Site(api.store.get("site"))
        where = _place(origin) if origin else None
        meter = own = Meter()
        # The same key again after a restart: the backend's address stays, and the descriptors that clients have stay good.
        key = _kept(api, "key")
        service = api.tor.onion_service(80, key, front=front, published=False)
        if key is None and service.key is not None:
            api.store.put("key", service.key.encode())
        own.address, own.service = service.address, service
        try:
            _accept(api, own, service, content, where)
        finally:
            own.close("it has ended")
    finally:
        _serving.release()


def watch(api) -> None:
    """Tells its load, a line of JSON each second, until nobody reads or it does not serve any more."""
    try:
        while True:
            report = meter.report()
            api.output.write(json.dumps(report).encode() + b"\n")
            if report["ended"]:
                return
            time.sleep(TELL_SECONDS)
    except ConnectionError:
        pass


def retire(api) -> None:
    """Ends the service if no connection is open, and tells whether it did."""
    done = meter.close("it was retired", only_idle=True)
    api.output.write(json.dumps({"retired": done} | meter.report()).encode() + b"\n")


def _accept(api, own: Meter, service, content, where) -> None:
    # Waiting for a place leaves further clients to the node, which refuses them when too many wait.
    while own.room():
        try:
            # Without a timeout: a client that came at its very end would be lost.
            stream, _ = service.accept()
        except Missing:
            return
        own.take()
        try:
            threading.Thread(target=_connection, args=(api, own, stream, content, where), daemon=True).start()
        except BaseException:
            own.give_back()
            stream.close()
            raise


def _connection(api, own: Meter, stream: socket.socket, content, where) -> None:
    try:
        with stream:
            if content is not None:
                pages.serve(stream, content, own.count)
                return
            host, port = where
            with api.tor.connect(host, port, isolation=None, timeout=60) as origin:
                _forward(stream, origin, own)
    except OSError:
        pass  # One side has gone: the other is closed with it.
    finally:
        own.give_back()


def _forward(client: socket.socket, origin: socket.socket, own: Meter) -> None:
    """Copies both ways until both have ended, or nothing comes any more."""
    other = {client.fileno(): (client, origin), origin.fileno(): (origin, client)}
    poll = select.poll()
    for number in other:
        poll.register(number, select.POLLIN)
    client.settimeout(IDLE_SECONDS)
    origin.settimeout(IDLE_SECONDS)
    while other:
        ready = poll.poll(IDLE_SECONDS * 1000)
        if not ready:
            return
        for number, _ in ready:
            source, sink = other[number]
            piece = source.recv(PIECE_BYTES)
            if piece:
                sink.sendall(piece)
                own.count(len(piece))
                continue
            poll.unregister(number)
            del other[number]
            sink.shutdown(socket.SHUT_WR)


def _kept(api, name: str) -> str | None:
    try:
        return api.store.get(name).decode()
    except Missing:
        return None


def _place(origin: str) -> tuple[str, int]:
    host, colon, port = origin.rpartition(":")
    if not colon or not host.endswith(".onion") or not port.isdigit():
        raise ValueError("an origin is written ADDRESS.onion:PORT")
    return host, int(port)
