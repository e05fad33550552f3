"""A file through a Dropbox beside the same file over plain Tor to an onion service and back, on a private network."""

import json
import multiprocessing
import os
import resource
import socket
import statistics
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import urlsplit

from measures import network as private
from measures.fetcher import Connection
from measures.machine import figure, line
from measures.programs import Program, Trouble, below, build, cpu_seconds

ROUNDS = 5
WARM_UP_ROUNDS = 1

FILE_BYTES = 50_000_000

BLOCK_BYTES = 65_536

COMMAND_SECONDS_MAX = 300

POLICY = "[offers]\n"
"""As it comes: a Dropbox for such a file fits."""


def measure(rounds: int = ROUNDS) -> None:
    """Put and get 50 MB with `bento dropbox`, as a ratio to a plain upload to an onion service and download from it"""
    programs = build("bento", "bento-node", "bento-jail", "testnet")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-")))
        network = private.up(stack, programs, directory)
        peer = _Peer(stack, network, directory)
        node, address = private.node(stack, programs, directory, network, POLICY)
        tors = {pid: _words(pid) for pid in below(network["pid"], "tor")}
        name = next(relay["name"] for relay in network["relays"] if relay["role"] == "client")
        client = [pid for pid, words in tors.items() if f"/{name}/" in words]
        if len(client) != 1:
            raise Trouble(f"which of these is the client's tor? {tors}")
        relays = [pid for pid in tors if pid not in client]
        # Each a function that tells its processes, since some begin meanwhile.
        shared = {"client's tor": lambda: client, "relays": lambda: relays}
        ours = {
            "node's tor": lambda: below(node.process.pid, "tor"),
            "bentod": lambda: [node.process.pid],
            "function and jails": lambda: [*below(node.process.pid, "python"), *below(node.process.pid, "bento-jail")],
            **shared,
        }
        theirs = {"its tor": lambda: [peer.tor.process.pid], "its server": lambda: [peer.server], **shared}
        file = directory / "file"
        file.write_bytes(os.urandom(FILE_BYTES))
        box = _Dropbox(programs, directory, address, network["socks"])
        plain, drop = _Sample(theirs, resource.RUSAGE_SELF), _Sample(ours, resource.RUSAGE_CHILDREN)
        for number in range(WARM_UP_ROUNDS + rounds):
            if number == WARM_UP_ROUNDS:
                plain.clear()
                drop.clear()
            isolation = f"{os.getpid()} {number}"
            back = directory / "back"
            plain.take(lambda: peer.put(file, f"put {isolation}"), lambda: peer.get(back, f"get {isolation}"))
            _compare(file, back)
            kept = drop.take(lambda: box.put(file), lambda: box.get(back))
            _compare(file, back)
            box.end()
    print(f"{FILE_BYTES / 1e6:g} MB of random bytes up and down, {len(tors) + 1} daemons of tor on these cores; {kept} bytes lay on the node; {rounds} rounds, alternating")
    for name, sample in (("plain Tor", plain), ("bento dropbox", drop)):
        line(f"{name}, put", sample.put)
        line(f"{name}, get", sample.get)
        sample.tell(name)
    for what, mine, others in (("put", drop.put, plain.put), ("get", drop.get, plain.get)):
        figure(f"dropbox_{what}_s", statistics.median(mine), "s")
        figure(f"dropbox_{what}_ratio", statistics.median(mine) / statistics.median(others), "x")
    figure("dropbox_cpu_ratio", drop.cpu / plain.cpu, "x")
    whole = [statistics.median(map(sum, zip(sample.put, sample.get))) for sample in (drop, plain)]
    figure("dropbox_ratio", whole[0] / whole[1], "x")


class _Sample:
    """Times of one way, and the CPU time that each group of processes took for it, both for up and down together."""

    def __init__(self, groups: dict[str, Callable[[], list[int]]], program: int) -> None:
        self._groups = groups
        self._program = program
        self.clear()

    def clear(self) -> None:
        """Forgets the warm-up."""
        self.put: list[float] = []
        self.get: list[float] = []
        self._used: dict[str, list[float]] = {name: [] for name in ("client's program", *self._groups)}

    def take(self, put: Callable[[], object], get: Callable[[], object]) -> object:
        """Does both once; what the second gives."""
        before = {pid: cpu_seconds(pid) for pids in self._groups.values() for pid in pids()}
        program = self._own()
        for work, taken in ((put, self.put), (get, self.get)):
            began = time.perf_counter()
            result = work()
            taken.append(time.perf_counter() - began)
        self._used["client's program"].append(self._own() - program)
        for name, pids in self._groups.items():
            self._used[name].append(sum(cpu_seconds(pid) - before.get(pid, 0) for pid in pids()))
        return result

    def _own(self) -> float:
        used = resource.getrusage(self._program)
        return used.ru_utime + used.ru_stime

    @property
    def cpu(self) -> float:
        """Seconds of all processes: median."""
        return statistics.median(map(sum, zip(*self._used.values())))

    def tell(self, name: str) -> None:
        """A line for people."""
        parts = ", ".join(f"{group} {statistics.median(used):.2f}" for group, used in self._used.items())
        print(f"{name}, CPU seconds (medians): {parts}; all {self.cpu:.2f}", flush=True)


class _Dropbox:
    """`bento dropbox`, with a home of its own."""

    def __init__(self, programs: Path, directory: Path, node: str, socks: str) -> None:
        self._bento = [str(programs / "bento"), "--json", "--socks", socks]
        self._node = node
        # Until the first drop.
        self._patience = time.monotonic() + private.UP_SECONDS_MAX
        self._environment = {**os.environ, "XDG_DATA_HOME": str(directory / "data"), "XDG_CONFIG_HOME": str(directory / "config")}

    def put(self, file: Path) -> None:
        """Installs a Dropbox, and puts the file there."""
        self._told = self._run("dropbox", "put", "--node", self._node, str(file))

    def get(self, back: Path) -> int:
        """Fetches it by its link, as somebody else would; how many bytes came."""
        return self._run("dropbox", "get", "--force", "-o", str(back), self._told["link"])["received"]

    def end(self) -> None:
        """Ends the Dropbox."""
        self._run("shutdown", self._told["dropbox"])

    def _run(self, *words: str) -> dict:
        done = private.patiently([*self._bento, *words], self._environment, self._patience, COMMAND_SECONDS_MAX)
        self._patience = 0
        told = json.loads(done.stdout)
        if told.get("broken"):
            raise Trouble(f"a stream broke on the way, which takes time: {done.stdout}")
        return told


class _Peer:
    """An onion service with a web server that takes files and gives them back, and a client for it."""

    def __init__(self, stack: ExitStack, network: dict, directory: Path) -> None:
        home = directory / "peer"
        home.mkdir(mode=0o700)
        with closing(socket.create_server(("127.0.0.1", 0))) as free:
            port = free.getsockname()[1]
        process = multiprocessing.get_context("fork").Process(target=_serve, args=(port, home / "kept"), daemon=True)
        process.start()
        stack.callback(process.terminate)
        self.server = process.pid
        service = f"DataDirectory {home}/data\nSocksPort 0\nHiddenServiceDir {home}/service\nHiddenServicePort 80 127.0.0.1:{port}\n"
        (home / "torrc").write_text(Path(network["torrc"]).read_text() + service)
        words = ["tor", "--defaults-torrc", "/dev/null", "-f", str(home / "torrc")]
        self.tor = stack.enter_context(Program("tor", words, home / "log"))
        self.tor.wait_for("Bootstrapped 100%", private.UP_SECONDS_MAX)
        host, _, socks_port = network["socks"].rpartition(":")
        self._socks = (host, int(socks_port))
        self._url = urlsplit(f"http://{(home / 'service/hostname').read_text().strip()}/file")
        until = time.monotonic() + private.UP_SECONDS_MAX
        # Reachable a little later than its tor is connected.
        while True:
            try:
                return self._ask("GET", "first", None, None)
            except (Trouble, OSError):
                if time.monotonic() > until:
                    raise
                time.sleep(private.RETRY_SECONDS)

    def put(self, file: Path, isolation: str) -> None:
        """Sends it."""
        with file.open("rb") as body:
            self._ask("PUT", isolation, body, None)

    def get(self, back: Path, isolation: str) -> None:
        """Fetches it."""
        with back.open("wb") as file:
            self._ask("GET", isolation, None, file)

    def _ask(self, method: str, isolation: str, body: object, into: object) -> None:
        connection = Connection(self._url, self._socks, isolation, None)
        connection.timeout = COMMAND_SECONDS_MAX
        try:
            connection.request(method, self._url.path, body, {"Content-Length": str(FILE_BYTES)} if body else {})
            answer = connection.getresponse()
            if answer.status != (204 if into is None else 200):
                raise Trouble(f"the plain server answers with {answer.status}")
            while block := answer.read(BLOCK_BYTES):
                into.write(block)
        finally:
            connection.close()


def _serve(port: int, kept: Path) -> None:
    """Keeps one file, on the disk when it says so."""

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_PUT(self) -> None:
            with kept.open("wb") as file:
                left = int(self.headers["Content-Length"])
                while left and (block := self.rfile.read(min(BLOCK_BYTES, left))):
                    left -= file.write(block)
                file.flush()
                os.fsync(file.fileno())
            self._answer(204, 0)

        def do_GET(self) -> None:
            if not kept.exists():
                return self._answer(204, 0)
            with kept.open("rb") as file:
                self._answer(200, kept.stat().st_size)
                self.connection.sendfile(file)

        def _answer(self, status: int, length: int) -> None:
            self.send_response(status)
            if length:
                self.send_header("Content-Length", str(length))
            self.end_headers()
            self.wfile.flush()

        def log_message(self, *_: object) -> None:
            """Says nothing."""

    ThreadingHTTPServer(("127.0.0.1", port), Handler).serve_forever()


def _words(pid: int) -> str:
    return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode()


def _compare(file: Path, back: Path) -> None:
    if file.read_bytes() != back.read_bytes():
        raise Trouble("what came back is not what was sent")
    back.unlink()
