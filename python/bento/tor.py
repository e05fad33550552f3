"""`api.tor`: circuits, onion services and descriptors of the node's Tor, as far as they are the function's own.

What a function makes here ends with its process at the latest; close it, or use `with`, when it is needed no longer.
"""

import errno
import time

from bento.api import Failed, Missing, Timeout, trouble
from bento.streams import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    import socket
    from collections.abc import Iterable, Iterator, Sequence

    import _socket

    import stem.control

    from bento.api import Ask

DESCRIPTOR_BYTES_MAX = 50_000
"""Longest descriptor of an onion service, as directories take it."""


class Relay:
    """A relay of the network, as the node's Tor knows it."""

    __slots__ = ("address", "bandwidth", "country", "ed25519", "exit", "fingerprint", "flags", "nickname", "or_port")

    def __init__(self, entry: dict) -> None:
        self.fingerprint: str = entry["fingerprint"]
        self.nickname: str = entry["nickname"]
        self.address: str = entry["address"]
        self.or_port: int = entry["or_port"]
        self.flags: frozenset[str] = frozenset(entry["flags"])
        self.bandwidth: int = entry["bandwidth"]
        self.country: str | None = entry.get("country")
        self.exit: str | None = entry.get("exit")
        """The summary of its exit policy for IPv4, such as `accept 80,443`; `None` where it accepts nothing or is not known yet."""
        self.ed25519: str | None = entry.get("ed25519")

    def exits_to(self, port: int) -> bool:
        """Does its exit policy accept this port of most addresses?"""
        verb, _, ports = (self.exit or "reject 1-65535").partition(" ")
        spans = (span.partition("-") for span in ports.split(","))
        named = any(int(first) <= port <= int(last or first) for first, _, last in spans)
        return named == (verb == "accept")

    def __repr__(self) -> str:
        return f"Relay({self.nickname} {self.fingerprint})"


class Circuit:
    """A circuit of the function's own."""

    def __init__(self, ask: "Ask", answer: dict) -> None:
        self._ask = ask
        self.number: int = answer["circuit"]
        self.path: list[str] = answer["path"]
        """The fingerprints of its relays, from the node on."""

    def extend(self, *relays: str) -> None:
        """Makes it longer by these relays. If that fails it is closed."""
        answer, _ = self._ask("tor.extend", {"circuit": self.number, "relays": list(relays)}).result()
        self.path = answer["path"]

    def connect(self, host: str, port: int, timeout: float | None = None) -> "socket.socket":
        """A socket connected to a host and port through exactly this circuit. The timeout also becomes the socket's."""
        import socket

        from bento import net

        arguments = {"circuit": self.number, "host": net.name(host), "port": port}
        return net.connected(socket, self._ask("tor.circuit_connect", arguments), host, timeout)

    def close(self) -> None:
        """Closes it, and with it its streams. What is closed already stays so."""
        try:
            self._ask("tor.close_circuit", {"circuit": self.number}).result()
        except Missing:
            pass

    def __enter__(self) -> "Circuit":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Service:
    """An onion service of the function's own."""

    def __init__(self, ask: "Ask", answer: dict) -> None:
        self._ask = ask
        self.number: int = answer["service"]
        self.address: str = answer["address"]
        """Its address, which ends in `.onion`."""
        self.key: str | None = answer["key"]
        """Its secret key as Tor writes it, for an onion service of the same address later."""
        self.published: bool = answer["published"]
        """Had a directory stored its descriptor when it was made?"""

    def accept(self, timeout: float | None = None) -> "tuple[socket.socket, int]":
        """Waits for the next client: a connected socket, and the port that it came to. Raises `Missing` once the service is closed."""
        import socket

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            left = None if end is None else max(0.0, end - time.monotonic())
            answer, stream = self._ask("tor.accept", {"service": self.number}).result(left)
            if answer["port"] is not None:
                stream = opened(stream)
                return socket.socket(stream.family, stream.type, 0, stream.detach()), answer["port"]
            if end is not None and time.monotonic() >= end:
                raise Timeout(errno.ETIMEDOUT, "no client came in time")

    def close(self) -> None:
        """Closes it. Connections that were accepted go on. What is closed already stays so."""
        try:
            self._ask("tor.close_service", {"service": self.number}).result()
        except Missing:
            pass

    def __enter__(self) -> "Service":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Published(tuple):
    """What became of a descriptor: `took` and `silent` are fingerprints of directories, `refused` pairs of one and its reason."""

    __slots__ = ()
    took = property(lambda self: self[0], doc="The directories that have stored it.")
    refused = property(lambda self: self[1], doc="Those that did not, each with Tor's word for why.")
    silent = property(lambda self: self[2], doc="Those that have not answered.")


class Events:
    """What happens to the function's own circuits, streams and onion services: dictionaries, one by one."""

    def __init__(self, stream: "_socket.socket") -> None:
        self._stream = stream
        self._rest = bytearray()

    def next(self, timeout: float | None = None) -> dict:
        """The next event. Raises `Timeout` if none comes in time, and `StopIteration` at the end; neither loses one."""
        import json

        end = None if timeout is None else time.monotonic() + timeout
        while True:
            line, newline, rest = self._rest.partition(b"\n")
            if newline:
                self._rest = rest
                return json.loads(line)
            self._stream.settimeout(None if end is None else max(0.001, end - time.monotonic()))
            try:
                piece = self._stream.recv(65_536)
            except TimeoutError:
                raise Timeout(errno.ETIMEDOUT, "no event in time") from None
            if not piece:
                raise StopIteration
            self._rest += piece

    def fileno(self) -> int:
        """The stream's descriptor, for `select`."""
        return self._stream.fileno()

    def close(self) -> None:
        """Ends the subscription."""
        self._stream.close()

    def __iter__(self) -> "Events":
        return self

    def __next__(self) -> dict:
        return self.next()

    def __enter__(self) -> "Events":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Tor:
    """The node's Tor, as far as the function's grant goes."""

    def __init__(self, ask: "Ask") -> None:
        self._ask = ask

    def relays(self) -> "list[Relay]":
        """All relays of the network."""
        import json

        answer, stream = self._ask("tor.relays", {}).result()
        lines = _all(opened(stream)).splitlines()
        if len(lines) != answer["relays"]:
            raise Failed(errno.EIO, f"the node told {len(lines)} relays of {answer['relays']}")
        return [Relay(json.loads(line)) for line in lines]

    def consensus(self) -> dict:
        """What the consensus says besides: its times, the shared random values, and the network's parameters (`params`)."""
        answer, _ = self._ask("tor.consensus", {}).result()
        return answer

    def circuit(
        self,
        path: "Sequence[str] | None" = None,
        *,
        length: int = 3,
        flags: "Iterable[str]" = (),
        country: str | None = None,
        exit_port: int | None = None,
        exclude: "Iterable[str]" = (),
    ) -> Circuit:
        """A new circuit: through these relays, or through as many as the node chooses, behind a guard of its own.

        `flags`: what all but the first have; `country` and `exit_port`: of the last; `exclude`: relays that are not taken.
        """
        if path is not None:
            answer, _ = self._ask("tor.path", {"relays": list(path)}).result()
            return Circuit(self._ask, answer)
        arguments = {"length": length, "flags": list(flags), "country": country, "exit_port": exit_port, "exclude": list(exclude)}
        answer, _ = self._ask("tor.circuit", arguments).result()
        return Circuit(self._ask, answer)

    def connect(self, host: str, port: int, isolation: str | None = None, timeout: float | None = None) -> "socket.socket":
        """A socket connected through Tor, also to an onion service. Those of one `isolation` may share circuits; without, each has its own."""
        import socket

        from bento import net

        arguments = {"host": net.name(host), "port": port, "isolation": isolation}
        return net.connected(socket, self._ask("tor.connect", arguments), host, timeout)

    def onion_service(
        self,
        ports: "int | Iterable[int]",
        key: str | None = None,
        *,
        discard_key: bool = False,
        max_streams: int | None = None,
        client_auth: "Iterable[str]" = (),
        pow: "dict[str, int] | None" = None,
        front: str | None = None,
        published: bool = True,
    ) -> Service:
        """A new onion service at these ports, with a new key or the one that is given, whose clients come by `accept`.

        With `front`, an address, it is a backend: it also takes the clients of that one (see `front` below).
        Returns when a directory has stored its descriptor, and with `published=False` at once.
        """
        arguments = {
            "ports": [ports] if isinstance(ports, int) else list(ports), "key": key, "discard_key": discard_key, "max_streams": max_streams,
            "client_auth": list(client_auth), "pow": pow, "front": front, "published": published,
        }  # fmt: skip
        answer, _ = self._ask("tor.onion_service", arguments).result()
        return Service(self._ask, answer)

    def descriptor(self, address: str, hsdirs: "Iterable[str] | None" = None) -> str:
        """The descriptor of an onion service, fetched from a directory: from one of these, or of those that Tor finds."""
        arguments = {"address": address, "hsdirs": None if hsdirs is None else list(hsdirs)}
        answer, stream = self._ask("tor.descriptor", arguments).result()
        text = _all(opened(stream))
        if len(text) != answer["bytes"]:
            raise Failed(errno.EIO, f"the node gave {len(text)} bytes of {answer['bytes']}")
        return text.decode("ascii")

    def publish(self, address: str, descriptor: str, hsdirs: "Iterable[str] | None" = None) -> Published:
        """Gives a descriptor to directories: to these, or to those that Tor finds. Tells what they said."""
        import json

        data = descriptor.encode("ascii")
        if len(data) > DESCRIPTOR_BYTES_MAX:
            raise ValueError(f"a descriptor has at most {DESCRIPTOR_BYTES_MAX} bytes")
        arguments = {"address": address, "bytes": len(data), "hsdirs": None if hsdirs is None else list(hsdirs)}
        _, stream = self._ask("tor.publish", arguments).result()
        answer = json.loads(_all(opened(stream), data) or b'{"error": {"kind": "failed", "text": "the node did not say"}}')
        if "error" in answer:
            raise trouble(answer["error"]["kind"], answer["error"]["text"])
        return Published((answer["took"], [tuple(pair) for pair in answer["refused"]], answer["silent"]))

    def controller(self) -> "stem.control.Controller":
        """Stem's controller, authenticated, of a Tor that has nothing but what is the function's own. For functions of an image with Stem.

        Scripts that connect by themselves find the same at 127.0.0.1: port 9051, and a SOCKS port at 9050.
        """
        from bento.controller import controller

        return controller(self._ask)

    def front(self, key: str | None = None, backends: "Iterable[tuple[str, int]]" = (), clients: "Iterable[str]" = ()) -> dict:
        """Publishes an onion service that has no introduction points of its own: its clients are spread over backends, by weight.

        `key`: its key, or a new one. `backends`: addresses of onion services that were made with its address as `front`, and weights of 0 to
        1,000,000; without any, nothing is published. `clients`: keys of those who alone may find it, as in Tor's `authorized_clients`. Returns
        a dictionary as `spec/function-api.md` has it; `again` are seconds after which to publish again.
        """
        arguments = {"key": key, "backends": [list(one) for one in backends], "clients": list(clients)}
        answer, _ = self._ask("tor.front", arguments).result()
        return answer

    def events(self) -> Events:
        """What happens from now on to what is the function's own."""
        _, stream = self._ask("tor.events", {}).result()
        return Events(opened(stream))


def _all(stream: "_socket.socket", data: bytes = b"") -> bytes:
    """Sends the data, and reads to the end."""
    from bento.streams import Exchange

    with Exchange(stream, data) as exchange:
        return exchange.read()
