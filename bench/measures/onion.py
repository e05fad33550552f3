"""Onion services of a limited rate, and clients of onion services, each with a `tor` of its own."""

import socket
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from measures import network as private
from measures.programs import Program, Trouble

PIECE_BYTES = 16 * 1024
CONNECT_SECONDS = 60
AGAIN_SECONDS = 0.25
"""Before a client that was cut off or did not get through tries again."""
SILENT_SECONDS = 60
REACH_SECONDS = 20
AT_ONCE = 5
"""Clients' tors that are started at the same time."""
NEWNYM_SECONDS = 10.5
"""Tor forgets at most once in ten seconds."""


class Server:
    """A web server that sends so many bytes to everybody, at most at this rate for all together."""

    def __init__(self, bytes_: int, rate: int) -> None:
        self._body, self._rate = bytes(bytes_), rate
        self._next, self._turn = time.monotonic(), threading.Lock()
        self.accepted = 0
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "Server":
        return self

    def __exit__(self, *_: object) -> None:
        self._listener.close()

    def _accept(self) -> None:
        while True:
            try:
                stream, _ = self._listener.accept()
            except OSError:
                return
            threading.Thread(target=self._answer, args=(stream,), daemon=True).start()

    def _answer(self, stream: socket.socket) -> None:
        with stream:
            try:
                asked = stream.recv(4096)
                body = memoryview(b"there" if b"small" in asked.split(b"\r\n")[0] else self._body)
                self.accepted += len(body) > 5
                stream.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n" % len(body))
                for start in range(0, len(body), PIECE_BYTES):
                    piece = body[start : start + PIECE_BYTES]
                    with self._turn:
                        at = self._next = max(time.monotonic(), self._next)
                        self._next += len(piece) / self._rate
                    time.sleep(max(0.0, at - time.monotonic()))
                    stream.sendall(piece)
            except OSError:
                pass  # The client has gone.


class Tor(Program):
    """A `tor` of the network: a client, and where a port is given an onion service that leads there. `front`: whose clients it takes as well."""

    def __init__(self, home: Path, lines: str, port: int | None = None, front: str | None = None) -> None:
        home.mkdir(mode=0o700)
        self.control = home / "control"
        with socket.create_server(("127.0.0.1", 0)) as free:
            self.port = free.getsockname()[1]
        own = f"\nSocksPort 127.0.0.1:{self.port}\nControlPort unix:{self.control}\nCookieAuthentication 0\nDataDirectory {home}/data\nLog notice stdout\n"
        service = home / "service"
        if port is not None:
            service.mkdir(mode=0o700)
            own += f"HiddenServiceDir {service}\nHiddenServiceVersion 3\nHiddenServicePort 80 127.0.0.1:{port}\n"
            if front is not None:
                (service / "ob_config").write_text(f"MasterOnionAddress {front}\n")
                own += "HiddenServiceOnionBalanceInstance 1\n"
        torrc = home / "torrc"
        torrc.write_text(lines + own)
        self._service = service
        super().__init__("tor", ["tor", "--defaults-torrc", "/dev/null", "-f", str(torrc)], home / "log")

    def __enter__(self) -> "Tor":
        try:
            # Who asks for a descriptor before it is published is not soon told that it is.
            if self._service.exists():
                self._uploaded()
            self.wait_for("Bootstrapped 100%", private.UP_SECONDS_MAX)
        except BaseException:
            self.__exit__()
            raise
        return self

    @property
    def address(self) -> str:
        """Of its onion service."""
        return (self._service / "hostname").read_text().strip()

    def _controlled(self) -> socket.socket:
        self.wait_for("Opened Control listener", private.UP_SECONDS_MAX)
        control = socket.socket(socket.AF_UNIX)
        control.settimeout(private.UP_SECONDS_MAX)
        control.connect(str(self.control))
        return control

    def _uploaded(self) -> None:
        with self._controlled() as control:
            control.sendall(b"AUTHENTICATE\r\nSETEVENTS HS_DESC\r\n")
            said = b""
            while b"650 HS_DESC UPLOADED " not in said:
                said += _some(control)

    def forget(self) -> None:
        """It is a new client: it knows no descriptor and has no circuit."""
        with self._controlled() as control:
            control.sendall(b"AUTHENTICATE\r\nSIGNAL NEWNYM\r\nQUIT\r\n")
            said = b""
            while piece := control.recv(1024):
                said += piece
            if not said.startswith(b"250 OK\r\n250 OK\r\n"):
                raise Trouble(f"tor does not forget: {said!r}")


class Download:
    """What one client fetches, again from where it was when it is cut off."""

    def __init__(self, tor: Tor, address: str, target: str = "/") -> None:
        self._tor, self._address, self._target = tor, address, target
        self.begun = self.ended = time.monotonic()
        self.came: list[tuple[float, int]] = []
        self.broken: list[float] = []
        self.tries = 0
        self.length: int | None = None
        self.got = 0

    def rate(self) -> float:
        """Bytes a second from when it came to its end."""
        return self.got / (self.ended - self.begun)

    def run(self, until: float) -> None:
        """Until it has all that it wants."""
        self.begun = time.monotonic()
        while not self._done():
            if time.monotonic() > until:
                raise Trouble(f"a client of {self._address} is not done after {self.tries} tries: it has {self.got} of {self.length} bytes")
            try:
                self.once()
            except OSError:
                self.broken.append(time.monotonic())
                time.sleep(AGAIN_SECONDS)
        self.ended = time.monotonic()

    def _done(self) -> bool:
        return self.length is not None and self.got >= self.length

    def once(self, seconds: float = CONNECT_SECONDS) -> None:
        """One try, which raises where it does not come to its end."""
        self.tries += 1
        # Circuits of its own each time, as a browser does after a circuit that broke.
        with _connected(self._tor.port, self._address, f"{id(self)} {self.tries}", seconds) as stream:
            self._ask(stream)

    def _ask(self, stream: socket.socket) -> None:
        part = f"Range: bytes={self.got}-\r\n" if self.got else ""
        stream.sendall(f"GET {self._target} HTTP/1.1\r\nHost: {self._address}\r\n{part}Connection: close\r\n\r\n".encode())
        data = b""
        while b"\r\n\r\n" not in data:
            data += _some(stream)
        head, _, data = data.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
        if not head.startswith((b"HTTP/1.1 200", b"HTTP/1.1 206")) or (self.got and not head.startswith(b"HTTP/1.1 206")):
            raise Trouble(f"{self._address} answers {head!r}")
        self.length = self.got + length
        while True:
            if data:
                self.got += len(data)
                self.came.append((time.monotonic(), len(data)))
            if self.got >= self.length:
                return
            data = _some(stream)


class Visit(Download):
    """A client that asks for a small page again and again over one stream, and over another where that breaks, until it is enough."""

    def __init__(self, tor: Tor, address: str) -> None:
        super().__init__(tor, address, "/small.html")
        self.enough = False

    def _done(self) -> bool:
        return self.enough

    def _ask(self, stream: socket.socket) -> None:
        while not self.enough:
            stream.sendall(f"GET {self._target} HTTP/1.1\r\nHost: {self._address}\r\n\r\n".encode())
            said = b""
            while not said.endswith(b"there"):
                said += _some(stream)
            self.came.append((time.monotonic(), len(said)))
            time.sleep(AGAIN_SECONDS)


class Clients:
    """So many, each with a `tor` of its own."""

    def __init__(self, stack: ExitStack, directory: Path, lines: str, count: int) -> None:
        self.all: list[Tor] = []
        for start in range(0, count, AT_ONCE):
            some = [Tor(directory / f"client-{number}", lines) for number in range(start, min(start + AT_ONCE, count))]
            self.all += [stack.enter_context(tor) for tor in some]
        self._forgot = float("-inf")

    def forget(self) -> None:
        """They are all new ones."""
        time.sleep(max(0.0, self._forgot + NEWNYM_SECONDS - time.monotonic()))
        for tor in self.all:
            tor.forget()
        self._forgot = time.monotonic()

    def run(self, address: str, moments: list[float], seconds: float) -> list[Download]:
        """Each comes at its moment; all are waited for."""
        downloads, wait = self.begin(address, moments, seconds)
        wait()
        return downloads

    def begin(self, address: str, moments: list[float], seconds: float, kind: type[Download] = Download):
        """The same, whatever each does, and what waits for them."""
        downloads = [kind(tor, address) for tor in self.all]
        wrong: list[BaseException] = []
        began = time.monotonic()

        def come(download: Download, moment: float) -> None:
            time.sleep(max(0.0, began + moment - time.monotonic()))
            try:
                download.run(began + seconds)
            except BaseException as error:
                wrong.append(error)

        threads = [threading.Thread(target=come, args=pair, daemon=True) for pair in zip(downloads, moments, strict=True)]
        for thread in threads:
            thread.start()

        def wait() -> None:
            for thread in threads:
                thread.join()
            if wrong:
                raise wrong[0]

        return downloads, wait


def reached(visitors: Clients, address: str) -> None:
    """Waits until a client gets through; afterwards they are all new ones."""
    end = time.monotonic() + private.UP_SECONDS_MAX
    while True:
        # Each asks once: whom directories have told that there is nothing does not ask again at once.
        for tor in visitors.all:
            try:
                Download(tor, address, "/small.html").once(REACH_SECONDS)
            except OSError as error:
                if time.monotonic() > end:
                    raise Trouble(f"{address} is not reached: {error!r}") from None
                time.sleep(1)
                continue
            visitors.forget()
            return
        visitors.forget()


def rates(downloads: list[Download], window: float) -> float:
    """The most bytes a second of all together, over so many seconds."""
    came = sorted(piece for one in downloads for piece in one.came)
    best = total = first = 0
    for at, count in came:
        total += count
        while at - came[first][0] > window:
            total -= came[first][1]
            first += 1
        best = max(best, total)
    return best / window


def _connected(port: int, host: str, isolation: str, seconds: float = CONNECT_SECONDS) -> socket.socket:
    """A stream through a `tor` (SOCKS 5, RFC 1928, with a name and password that keep circuits apart)."""
    stream = socket.create_connection(("127.0.0.1", port), seconds)
    try:
        name = isolation.encode()
        for ask, length in (
            (b"\x05\x01\x02", 2),
            (b"\x01" + bytes([len(name)]) + name + b"\x01x", 2),
            (b"\x05\x01\x00\x03" + bytes([len(host)]) + host.encode() + (80).to_bytes(2, "big"), 10),
        ):
            stream.sendall(ask)
            said = b""
            while len(said) < length:
                said += _some(stream)
        if said[1]:
            raise ConnectionRefusedError(f"tor's SOCKS port says {said[1]}")
        stream.settimeout(SILENT_SECONDS)
        return stream
    except BaseException:
        stream.close()
        raise


def _some(stream: socket.socket) -> bytes:
    data = stream.recv(65_536)
    if not data:
        raise ConnectionResetError("it ended early")
    return data
