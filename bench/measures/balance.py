"""Clients of one onion service alone, behind onionbalance, and behind LoadBalancer, whose replicas come with the load."""

import json
import os
import random
import shutil
import statistics
import subprocess
import tempfile
import threading
import time
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

from measures import network as private
from measures.browse import start_network
from measures.machine import ROOT, figure
from measures.onion import Clients, Download, Server, Tor, Visit, rates, reached
from measures.programs import Program, Trouble, build
from measures.steps import draw

CLIENTS = 20
BYTES = 10_000_000
CAPACITY = 1_250_000
"""Bytes a second of each backend and each replica. With four of them two cores are not yet the bound."""
BACKENDS = 4
GAP_SECONDS = 2.0
"""Mean time between two clients: they come as a Poisson process, at the same moments to each service."""
WINDOW_SECONDS = 10.0
"""Over which a throughput is taken."""
NOTICED_SECONDS = 10.0
"""After which all that were cut off know it."""
FAILOVER_SECONDS_MAX = 130
FILLS_MAX = 3
"""How often all come once more where one run did not bring all replicas."""
RUN_SECONDS_MAX = 400
STATUS_SECONDS = 1.0

PLOT = ROOT / "docs" / "balance.svg"

POLICY = """\
[offers]
egress = ["tor"]
connect = ["accept *:*"]
calls = ["store.*", "nodes.*", "tor.*"]
onion_services = 4
memory = "256 MiB"
storage = "64 MiB"
traffic = "4 GiB"
cpu = "30 min"
lifetime = "2 h"
rate = "16 MiB/s"
"""


def measure(clients: int = CLIENTS) -> None:
    """20 clients (or ROUNDS) download 10 MB each from an onion service alone, behind onionbalance, and behind LoadBalancer with 1 to 4 replicas"""
    programs = build("bento", "bento-node", "bento-jail", "testnet")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-")))
        network = start_network(stack, programs, directory)
        lines = Path(network["torrc"]).read_text()
        moments = _moments(clients)
        print(f"load       {clients} clients, each with a tor of its own, come within {moments[-1]:.0f} s and download {BYTES / 1e6:.0f} MB; a backend moves {CAPACITY / 1e6:.2f} MB/s")
        visitors = Clients(stack, directory, lines, clients)
        # It waits for a minute before it publishes anything, while others are measured.
        peer = _Onionbalance.start(stack, directory, lines)
        runs = {"alone": _alone(stack, directory, lines, visitors, moments)}
        if peer is not None:
            runs["onionbalance, 4 backends"] = peer.run(visitors, moments)
            peer.end()
        ours = _Ours(stack, programs, directory, network, clients)
        runs["LoadBalancer, 1 to 4"] = ours.grow(visitors, moments)
        runs["LoadBalancer, 4"] = ours.steady(visitors, moments)
        failover = ours.kill_one(visitors)
        _tell(runs, failover)
        ours.end()


def _moments(clients: int) -> list[float]:
    rng = random.Random(1)
    moments = [0.0]
    while len(moments) < clients:
        moments.append(moments[-1] + rng.expovariate(1 / GAP_SECONDS))
    return moments


def _tell(runs: dict[str, list[Download]], failover: float) -> None:
    best = {}
    print("\n| service | best 10 s, MB/s | to it alone | all done after, s | per client, MB/s: median (least, most) | tries |\n|---|---|---|---|---|---|")
    for name, downloads in runs.items():
        best[name] = rates(downloads, WINDOW_SECONDS)
        each = [one.rate() for one in downloads]
        end = max(one.ended for one in downloads) - min(one.begun for one in downloads)
        print(f"| {name} | {best[name] / 1e6:.2f} | {best[name] / best['alone']:.2f} | {end:.0f} | {statistics.median(each) / 1e6:.2f} ({min(each) / 1e6:.2f}, {max(each) / 1e6:.2f}) | {sum(one.tries for one in downloads)} |")
    PLOT.write_text(draw({name: [(at - min(one.begun for one in downloads), count) for one in downloads for at, count in one.came] for name, downloads in runs.items()}))
    print(f"\nplot       {PLOT.relative_to(ROOT)}")
    figure("balance_growth", best["LoadBalancer, 4"] / best["alone"], "x")
    figure("balance_failover_s", failover, "s")


def _alone(stack: ExitStack, directory: Path, lines: str, visitors: Clients, moments: list[float]) -> list[Download]:
    with Server(BYTES, CAPACITY) as server, Tor(directory / "alone", lines, server.port) as tor:
        reached(visitors, tor.address)
        return visitors.run(tor.address, moments, RUN_SECONDS_MAX)


class _Onionbalance:
    """The peer: backends that are there all the time, and who publishes for them."""

    def __init__(self, stack: ExitStack, address: str, servers: list[Server], publisher: Program) -> None:
        self._stack, self._address, self._servers, self._publisher = stack, address, servers, publisher

    @classmethod
    def start(cls, stack: ExitStack, directory: Path, lines: str) -> "_Onionbalance | None":
        program = os.environ.get("BENTO_ONIONBALANCE") or shutil.which("onionbalance")
        if program is None:
            print("onionbalance is not here, and LoadBalancer is compared with one service alone\nHint: `pip install onionbalance setuptools` into an environment, and name its program in BENTO_ONIONBALANCE")
            return None
        own = stack.enter_context(ExitStack())
        home = directory / "onionbalance"
        maker = Path(program).with_name("onionbalance-config")
        subprocess.run([str(maker), "--hs-version", "v3", "--no-interactive", "-n", str(BACKENDS), "--output", str(home)], check=True, capture_output=True, text=True)
        key = next(home.glob("*.key"))
        front = f"{key.stem.removesuffix('.onion')}.onion"
        servers = [own.enter_context(Server(BYTES, CAPACITY)) for _ in range(BACKENDS)]
        tors = [own.enter_context(Tor(directory / f"backend-{number}", lines, server.port, front=front)) for number, server in enumerate(servers)]
        instances = "".join(f"  - address: {tor.address}\n    name: backend-{number}\n" for number, tor in enumerate(tors))
        (home / "config.yaml").write_text(f"services:\n- key: {key}\n  instances:\n{instances}")
        control = own.enter_context(Tor(directory / "publisher", lines))
        words = [program, "--hs-version", "v3", "--is-testnet", "-s", str(control.control), "-c", str(home / "config.yaml"), "-v", "info"]
        publisher = own.enter_context(Program("onionbalance", words, directory / "onionbalance.log"))
        return cls(own, front, servers, publisher)

    def run(self, visitors: Clients, moments: list[float]) -> list[Download]:
        reached(visitors, self._address)
        for server in self._servers:
            server.accepted = 0
        downloads = visitors.run(self._address, moments, RUN_SECONDS_MAX)
        print(f"onionbalance: connections of each backend {[server.accepted for server in self._servers]}")
        return downloads

    def end(self) -> None:
        self._stack.close()


class _Ours:
    """LoadBalancer, as a person has it: `bento balance`."""

    def __init__(self, stack: ExitStack, programs: Path, directory: Path, network: dict, clients: int) -> None:
        names = {"XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "XDG_RUNTIME_DIR": "run"}
        self._environment = {**os.environ, **{name: str(directory / value) for name, value in names.items()}}
        self._bento, self._socks = str(programs / "bento"), network["socks"]
        self._nodes: dict[str, Program] = {}
        homes = [directory / f"node-{name}" for name in ("front", "a", "b", "c", "d")]
        for home in homes:
            home.mkdir()
            program, address = private.node(stack, programs, home, network, POLICY)
            self._nodes[address] = program
            self._ask("nodes", "add", home.name, address)
        site = directory / "site"
        site.mkdir()
        (site / "index.html").write_bytes(os.urandom(BYTES))
        (site / "small.html").write_text("there")
        up = ["balance", "up", "--site", str(site), "--node", homes[0].name, *(word for home in homes[1:] for word in ("--on", home.name))]
        up += ["--most", str(BACKENDS), "--connections", str(max(1, clients // (BACKENDS + 1))), "--rate", str(CAPACITY), "--limit", str(CAPACITY), "--up", "1 s", "--down", "1 h"]
        up += ["--traffic", "2 GiB", "--lifetime", "1 h", "--cpu", "15 min"]
        self._address = self._ask(*up)["address"]
        self._until(lambda told: _serving(told) == 1, "its first replica to serve")

    def _ask(self, *words: str) -> dict:
        until = time.monotonic() + private.UP_SECONDS_MAX
        done = private.patiently([self._bento, *words, "--socks", self._socks, "--json"], self._environment, until, 240)
        lines = done.stdout.splitlines()
        return json.loads(lines[-1]) if lines and lines[-1].startswith("{") else {}

    def _until(self, is_so, what: str) -> dict:
        end = time.monotonic() + private.UP_SECONDS_MAX
        while not is_so(told := self._ask("balance", "status")):
            if time.monotonic() > end:
                raise Trouble(f"LoadBalancer was waited for: {what}\n{json.dumps(told)[:3000]}")
            time.sleep(STATUS_SECONDS)
        return told

    def grow(self, visitors: Clients, moments: list[float]) -> list[Download]:
        """With one replica at the beginning."""
        reached(visitors, self._address)
        counts: dict[int, float] = {}
        stop = threading.Event()
        began = time.monotonic()

        def look() -> None:
            while not stop.is_set():
                try:
                    counts.setdefault(_serving(self._ask("balance", "status")), time.monotonic() - began)
                except (Trouble, subprocess.TimeoutExpired):
                    pass  # It is asked again.
                stop.wait(STATUS_SECONDS)

        looking = threading.Thread(target=look)
        looking.start()
        try:
            downloads = visitors.run(self._address, moments, RUN_SECONDS_MAX)
        finally:
            stop.set()
            looking.join()
        told = self._ask("balance", "status")
        grown = [event["time"] for event in told["events"] if event["text"].startswith("grow by ") and ": mean load" in event["text"]]
        print(f"LoadBalancer: replicas that serve, and seconds after the first client: {({count: round(at, 1) for count, at in sorted(counts.items()) if count > 1})}; decided at {[round(at - grown[0], 1) for at in grown]} s after the first decision to grow")
        self._spread(told, {})
        return downloads

    def steady(self, visitors: Clients, moments: list[float]) -> list[Download]:
        """With all that there may be."""
        for _ in range(FILLS_MAX):
            if _serving(self._ask("balance", "status")) == BACKENDS:
                break
            visitors.forget()
            visitors.run(self._address, [0.0] * len(moments), RUN_SECONDS_MAX)
        told = self._until(lambda told: _serving(told) == BACKENDS, "all replicas")
        before = {one["name"]: one["accepted"] for one in told["replicas"]}
        visitors.forget()
        downloads = visitors.run(self._address, moments, RUN_SECONDS_MAX)
        self._spread(self._ask("balance", "status"), before)
        return downloads

    @staticmethod
    def _spread(told: dict, before: dict) -> None:
        print(f"LoadBalancer: connections of each replica {[one['accepted'] - before.get(one['name'], 0) for one in told['replicas']]}")

    def kill_one(self, visitors: Clients) -> float:
        """Kills the node of a replica that has clients. How long it takes until the last of those gets something again.

        They ask for little: on a machine that is full it is measured how long its relays need to hear that a circuit has ended.
        """
        visitors.forget()
        visits, wait = visitors.begin(self._address, [0.0] * len(visitors.all), RUN_SECONDS_MAX, Visit)
        _wait(lambda: all(one.came for one in visits), 60)
        told = self._ask("balance", "status")
        victim = max(told["replicas"], key=lambda one: one["connections"])
        killed = time.monotonic()
        self._nodes[victim["node"]].process.kill()
        time.sleep(NOTICED_SECONDS)
        # A stream of which nothing more is heard is given up later.
        _wait(lambda: all(one.came and one.came[-1][0] > time.monotonic() - 1 for one in visits), FAILOVER_SECONDS_MAX)
        cut = [one for one in visits if one.broken and one.broken[-1] >= killed]
        for one in visits:
            one.enough = True
        wait()
        gaps = [next((at for at, _ in one.came if at > one.broken[-1]), float("inf")) - killed for one in cut]
        if not gaps or max(gaps) == float("inf"):
            raise Trouble("a client was not served again" if gaps else "no client was served by the replica that was killed")
        after = Counter(one["state"] for one in self._ask("balance", "status")["replicas"])
        print(f"LoadBalancer: the node of a replica with {victim['connections']} of {len(visits)} clients was killed; {len(gaps)} were cut off, and got something again after {', '.join(f'{gap:.1f}' for gap in sorted(gaps))} s; at the end {dict(after)}")
        return max(gaps)

    def end(self) -> None:
        """Ends it; what cannot be reached is known: its node was killed."""
        began = time.monotonic()
        self._ask("balance", "down", "--force")
        print(f"LoadBalancer: it ended within {time.monotonic() - began:.1f} s, with one node killed")


def _wait(is_so, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not is_so() and time.monotonic() < end:
        time.sleep(0.1)


def _serving(told: dict) -> int:
    return sum(one["state"] == "serving" for one in told["replicas"])
