"""`FakeTor`: a node's Tor, in memory, for one function or for several that share a node."""

import _socket
import base64
import dataclasses
import hashlib
import json
import os
import queue
import re
import secrets
import socket
import threading
from collections.abc import Callable, Iterable, Mapping

from bento.testing.answers import Failure, received, served

PATH_MAX = 8
"""Most relays of a circuit."""

BACKLOG = 16
"""Clients that wait at one port of an onion service."""

ACCEPT_SECONDS = 20.0
"""Longest wait of one `tor.accept`; a test may make it shorter."""

DESCRIPTOR_BYTES_MAX = 50_000

FRONT_BACKENDS_MAX = 64
"""Most backends of a front."""

_FINGERPRINT = re.compile("[0-9A-Fa-f]{40}")


def relay(number: int, **fields: object) -> dict:
    """The entry of a relay in `tor.relays`: an exit in another family for each number, changed by `fields`."""
    return {
        "fingerprint": hashlib.sha1(f"relay {number}".encode()).hexdigest().upper(), "nickname": f"relay{number}",
        "address": f"198.{18 + number // 256}.{number % 256}.1", "or_port": 9001, "flags": ["Exit", "Fast", "Guard", "HSDir", "Running", "Stable", "V2Dir", "Valid"], "bandwidth": 1000, "country": None,
        "exit": "accept 1-65535", "ed25519": None,
    } | fields  # fmt: skip


@dataclasses.dataclass
class _Circuit:
    path: list[str]
    streams: list[tuple[int, int]]


@dataclasses.dataclass
class _Service:
    address: str
    ports: list[int]
    client_auth: list[str]
    coming: queue.Queue
    front: str | None = None


class FakeTor:
    """A network of these relays (or of eight exits), and what functions do with it.

    `descriptors`: those of onion services by address, for `tor.descriptor`; what functions publish is added. `consensus`: what
    `tor.consensus` answers. `fronts`: the backends of each front that was published, with their weights. `visit(address, port)` comes to a function's onion service as a client does. `fail(circuit's path)` ends
    circuits that have this path, as a relay that goes away does. `down` is set while there is no Tor: `stop()` and `start()`.
    """

    def __init__(self, relays: Iterable[dict] | None = None, descriptors: Mapping[str, str] | None = None) -> None:
        self.relays = [relay(number) for number in range(8)] if relays is None else list(relays)
        self.descriptors = dict(descriptors or {})
        self.consensus: dict = {
            "valid_after": 1_600_000_000, "fresh_until": 1_600_003_600, "valid_until": 1_600_010_800, "shared_random_previous": None,
            "shared_random_current": None, "params": {},
        }  # fmt: skip
        self.down = False
        self.sessions: list[FakeSession] = []
        self.fronts: dict[str, list[tuple[str, int]]] = {}
        self._came: dict[tuple[str, str], int] = {}

    def visit(self, address: str, port: int) -> _socket.socket:
        """Connects to an onion service of a function as a client does; to a front's backends in turn, by weight."""
        front = None
        if address in self.fronts:
            front = address
            address, _ = min(self.fronts[front], key=lambda one: (self._came.get((front, one[0]), 0) + 1) / one[1])
            self._came[front, address] = self._came.get((front, address), 0) + 1
        for session in list(self.sessions):
            for service in list(session.services.values()):
                # One that was not told of the front cannot answer its clients.
                if service.address == address and port in service.ports and front in (None, service.front):
                    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
                    try:
                        service.coming.put_nowait((port, far))
                    except queue.Full:
                        break
                    return near
        raise ConnectionRefusedError(f"no onion service takes clients at {address}:{port}")

    def fail(self, path: Iterable[str], reason: str = "DESTROYED") -> None:
        """Ends the circuits that have this path."""
        for session in self.sessions:
            for number, circuit in list(session.circuits.items()):
                if circuit.path == list(path):
                    session.end_circuit(number, "closed", reason)

    def stop(self) -> None:
        """Tor ends: circuits are lost."""
        self.down = True
        for session in self.sessions:
            for number in list(session.circuits):
                session.end_circuit(number, "closed", "TOR_LOST")
            session.tell({"event": "tor", "status": "lost"})

    def start(self) -> None:
        """Tor runs again; onion services are there again."""
        self.down = False
        for session in self.sessions:
            session.tell({"event": "tor", "status": "back"})
            for number in session.services:
                session.tell({"event": "service", "service": number, "status": "uploaded", "hsdir": self.relays[0]["fingerprint"]})


class FakeSession:
    """The calls `tor.…` of one function. `circuits_max` and `services_max`: what its grant has."""

    def __init__(
        self, tor: FakeTor, connect: Callable[[str, int], tuple[dict, _socket.socket]], circuits_max: int | None, services_max: int | None
    ) -> None:
        self.tor = tor
        self.connect = connect
        self._circuits_max = circuits_max
        self._services_max = services_max
        self._last = {"circuit": 0, "service": 0, "stream": 0}
        self._listeners: list[_socket.socket] = []
        self.circuits: dict[int, _Circuit] = {}
        self.services: dict[int, _Service] = {}
        self._turn = threading.RLock()
        tor.sessions.append(self)

    def answer(self, name: str, arguments: dict) -> tuple[object, _socket.socket | None]:
        """Does one of them."""
        verb = name.removeprefix("tor.")
        if verb not in _VERBS:
            raise Failure("bad-call", f"there is no call {name}")
        if self.tor.down and verb not in ("events", "accept", "close_circuit", "close_service"):
            raise Failure("unreachable", "the node's Tor is not running at the moment")
        if verb == "accept":
            return self.call_accept(**arguments)
        with self._turn:
            return getattr(self, f"call_{verb}")(**arguments)

    def close(self) -> None:
        """The function's process ends."""
        for number in list(self.circuits):
            self.end_circuit(number, "closed", "REQUESTED")
        for number in list(self.services):
            self.call_close_service(number)
        for listener in self._listeners:
            listener.close()
        self._listeners.clear()

    def tell(self, event: dict) -> None:
        """An event, to all that listen."""
        line = json.dumps(event).encode() + b"\n"
        for listener in list(self._listeners):
            try:
                listener.sendall(line)
            except OSError:
                self._listeners.remove(listener)

    def end_circuit(self, number: int, status: str, reason: str) -> None:
        """A circuit and its streams end."""
        circuit = self.circuits.pop(number)
        for descriptor, inode in circuit.streams:
            _end(descriptor, inode)
        self.tell({"event": "circuit", "circuit": number, "status": status, "reason": reason})

    def _number(self, kind: str) -> int:
        self._last[kind] += 1
        return self._last[kind]

    def call_relays(self) -> tuple[object, _socket.socket]:
        lines = "".join(json.dumps(entry) + "\n" for entry in self.tor.relays).encode()
        return {"relays": len(self.tor.relays)}, served(lambda stream: stream.sendall(lines))

    def call_consensus(self) -> tuple[object, None]:
        return self.tor.consensus, None

    def call_circuit(
        self, length: int = 3, flags: Iterable[str] = (), country: str | None = None, exit_port: int | None = None, exclude: Iterable[str] = ()
    ) -> tuple[object, None]:
        from bento.tor import Relay

        if not 2 <= length <= PATH_MAX:
            raise Failure("bad-call", f"a circuit has 2 to {PATH_MAX} relays")
        unwanted = {_checked(one) for one in exclude}
        known = [entry for entry in self.tor.relays if entry["fingerprint"] not in unwanted]
        fitting = [entry for entry in known if set(flags) <= set(entry["flags"])]

        def is_last(entry: dict) -> bool:
            return (country is None or entry["country"] == country) and (exit_port is None or Relay(entry).exits_to(exit_port))

        last = next(filter(is_last, fitting), None)
        first = next((entry for entry in known if "Guard" in entry["flags"] and entry is not last), None)
        between = [entry for entry in fitting if entry is not last and entry is not first][: length - 2]
        if last is None or first is None or len(between) < length - 2:
            raise Failure("missing", "no relays fit")
        return self._built([entry["fingerprint"] for entry in (first, *between, last)])

    def call_path(self, relays: list[str]) -> tuple[object, None]:
        return self._built(self._hops([], relays))

    def _built(self, path: list[str]) -> tuple[object, None]:
        if self._circuits_max is not None and len(self.circuits) >= self._circuits_max:
            raise Failure("refused", f"the function may have {self._circuits_max} circuits at a time, and has them")
        number = self._number("circuit")
        self.circuits[number] = _Circuit(path, [])
        self.tell({"event": "circuit", "circuit": number, "status": "built", "path": path})
        return {"circuit": number, "path": path}, None

    def call_extend(self, circuit: int, relays: list[str]) -> tuple[object, None]:
        found = self._own(circuit)
        found.path = found.path + self._hops(found.path, relays)
        self.tell({"event": "circuit", "circuit": circuit, "status": "built", "path": found.path})
        return {"circuit": circuit, "path": found.path}, None

    def _hops(self, before: list[str], relays: list[str]) -> list[str]:
        hops = [_checked(one) for one in relays]
        whole = [*before, *hops]
        if not hops or len(whole) > PATH_MAX:
            raise Failure("bad-call", f"a circuit has 1 to {PATH_MAX} relays")
        if any(one == other for one, other in zip(whole, whole[1:], strict=False)):
            raise Failure("bad-call", "a relay cannot follow itself")
        if not set(hops) <= {entry["fingerprint"] for entry in self.tor.relays}:
            raise Failure("missing", "the network has no relay of this fingerprint")
        return hops

    def _own(self, circuit: int) -> _Circuit:
        if circuit not in self.circuits:
            raise Failure("missing", "the function has no circuit of this number")
        return self.circuits[circuit]

    def call_close_circuit(self, circuit: int) -> tuple[object, None]:
        self._own(circuit)
        self.end_circuit(circuit, "closed", "REQUESTED")
        return None, None

    def call_circuit_connect(self, circuit: int, host: str, port: int) -> tuple[object, _socket.socket]:
        found = self._own(circuit)
        if host.endswith(".onion"):
            raise Failure("refused", "an onion service is reached by tor.connect")
        return self._joined(circuit, host, port, found.streams)

    def _joined(self, circuit: int | None, host: str, port: int, streams: list[tuple[int, int]]) -> tuple[object, _socket.socket]:
        number = self._number("stream")
        event = {"event": "stream", "stream": number, "circuit": circuit}
        self.tell(event | {"status": "new"})
        try:
            value, stream = self.connect(host, port)
        except Failure:
            self.tell(event | {"status": "failed", "reason": "CONNECTREFUSED"})
            raise
        # A copy of it would hold it open after the function has closed its own.
        streams.append((stream.fileno(), os.fstat(stream.fileno()).st_ino))
        self.tell(event | {"status": "connected"})
        return {"stream": number} | value, stream

    def call_onion_service(
        self,
        ports: list[int],
        key: str | None = None,
        discard_key: bool = False,
        max_streams: int | None = None,
        client_auth: Iterable[str] = (),
        pow: dict | None = None,
        front: str | None = None,
        published: bool = True,
    ) -> tuple[object, None]:
        if not 1 <= len(ports) <= 16 or len(set(ports)) < len(ports) or not all(isinstance(port, int) and 0 < port < 65_536 for port in ports):
            raise Failure("bad-call", "an onion service has 1 to 16 ports, each once, from 1 to 65535")
        if self._services_max is not None and len(self.services) >= self._services_max:
            raise Failure("refused", f"the function may have {self._services_max} onion services at a time, and has them")
        given = f"ED25519-V3:{base64.b64encode(secrets.token_bytes(64)).decode()}" if key is None else key
        if not re.fullmatch(r"ED25519-V3:[A-Za-z0-9+/]{86}==", given):
            raise Failure("bad-call", "a key is of the form ED25519-V3:…, as Tor writes it")
        address = _address(given)
        if any(service.address == address for session in self.tor.sessions for service in session.services.values()):
            raise Failure("busy", "there is an onion service of this address at this node")
        number = self._number("service")
        self.services[number] = _Service(address, list(ports), list(client_auth), queue.Queue(BACKLOG), front)
        self.tell({"event": "service", "service": number, "status": "uploaded", "hsdir": self.tor.relays[0]["fingerprint"]})
        return {"service": number, "address": address, "key": None if discard_key else given, "published": published}, None

    def call_accept(self, service: int) -> tuple[object, _socket.socket | None]:
        found = self.services.get(service)
        if found is None:
            raise Failure("missing", "the function has no onion service of this number")
        try:
            port, stream = found.coming.get(timeout=ACCEPT_SECONDS)
        except queue.Empty:
            return {"port": None}, None
        if stream is None:
            found.coming.put((0, None))
            raise Failure("missing", "the onion service was closed")
        return {"port": port}, stream

    def call_close_service(self, service: int) -> tuple[object, None]:
        found = self.services.pop(service, None)
        if found is None:
            raise Failure("missing", "the function has no onion service of this number")
        while True:
            try:
                _, waiting = found.coming.get_nowait()
            except queue.Empty:
                break
            if waiting is not None:
                waiting.close()
        # Wakes who waits for a client.
        found.coming.put((0, None))
        return None, None

    def call_descriptor(self, address: str, hsdirs: list[str] | None = None) -> tuple[object, _socket.socket]:
        text = self.tor.descriptors.get(address)
        if text is None:
            raise Failure("missing", "no directory has a descriptor of this onion service")
        hsdir = _checked(hsdirs[0]) if hsdirs else self.tor.relays[0]["fingerprint"]
        data = text.encode()
        return {"bytes": len(data), "hsdir": hsdir}, served(lambda stream: stream.sendall(data))

    def call_publish(self, address: str, bytes: int, hsdirs: list[str] | None = None) -> tuple[object, _socket.socket]:
        if not 0 < bytes <= DESCRIPTOR_BYTES_MAX:
            raise Failure("bad-call", f"a descriptor has at most {DESCRIPTOR_BYTES_MAX} bytes")
        asked = [self.tor.relays[0]["fingerprint"]] if hsdirs is None else [_checked(one) for one in hsdirs]
        known = {entry["fingerprint"] for entry in self.tor.relays if "HSDir" in entry["flags"]}

        def take(stream: _socket.socket) -> None:
            text = received(stream).decode()
            if len(text) != bytes or not text.startswith("hs-descriptor 3\n"):
                answer: dict = {"error": {"kind": "bad-call", "text": "this is no descriptor of version 3"}}
            else:
                self.tor.descriptors[address] = text
                answer = {"took": [one for one in asked if one in known], "refused": [], "silent": [one for one in asked if one not in known]}
            stream.sendall(json.dumps(answer).encode())

        return None, served(take)

    def call_front(self, key: str | None, backends: list[list], clients: list[str]) -> tuple[object, None]:
        given = f"ED25519-V3:{base64.b64encode(secrets.token_bytes(64)).decode()}" if key is None else key
        if len(backends) > FRONT_BACKENDS_MAX or any(not isinstance(weight, int) or not 0 <= weight <= 1_000_000 for _, weight in backends):
            raise Failure("bad-call", f"a front has at most {FRONT_BACKENDS_MAX} backends, each with a weight of 0 to 1,000,000")
        answer: dict = {"address": _address(given), "key": given, "backends": [], "periods": [], "fetched": False, "again": 3600.0}
        there = {service.address for session in self.tor.sessions for service in session.services.values()}
        for address, weight in backends:
            found = address in there
            answer["backends"].append({"address": address, "points": 3 if found else 0, "missing": None if found else "nobody has its descriptor"})
        named = [(address, weight) for address, weight in backends if address in there and weight]
        if named:
            self.tor.fronts[answer["address"]] = named
            took = [entry["fingerprint"] for entry in self.tor.relays if "HSDir" in entry["flags"]]
            answer |= {"periods": [{"took": took, "refused": [], "silent": []}] * 2, "fetched": True}
        elif backends:
            raise Failure("missing", "no backend has an introduction point to give")
        return answer, None

    def call_connect(self, host: str, port: int, isolation: str | None = None) -> tuple[object, _socket.socket]:
        if isolation is not None and len(isolation.encode()) > 100:
            raise Failure("bad-call", "an isolation has at most 100 bytes")
        return self._joined(None, host, port, [])

    def call_events(self) -> tuple[object, _socket.socket]:
        near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)
        self._listeners.append(far)
        return None, near


_VERBS = frozenset(
    ("relays", "consensus", "circuit", "path", "extend", "close_circuit", "circuit_connect", "connect", "onion_service", "accept")
    + ("close_service", "descriptor", "publish", "front", "events")
)


def _address(key: str) -> str:
    # The same key, the same address; nobody can tell the one from the other here either.
    return base64.b32encode(hashlib.sha512(key.encode()).digest()[:35]).decode().lower() + ".onion"


def _end(descriptor: int, inode: int) -> None:
    """Ends a stream, if this is still it."""
    try:
        if os.fstat(descriptor).st_ino == inode:
            with socket.socket(fileno=os.dup(descriptor)) as stream:
                stream.shutdown(socket.SHUT_RDWR)
    except OSError:
        pass  # It has ended by itself.


def _checked(fingerprint: str) -> str:
    if not isinstance(fingerprint, str) or not _FINGERPRINT.fullmatch(fingerprint):
        raise Failure("bad-call", "a relay is named by its fingerprint, 40 hexadecimal digits")
    return fingerprint.upper()
