"""A flow of Cover as its client's line shows it, its rate, and what it costs its node."""

import json
import os
import random
import selectors
import socket
import statistics
import subprocess
import tempfile
import time
from contextlib import ExitStack
from pathlib import Path

from measures import client
from measures import network as private
from measures.browse import RULE, start_network, start_node, start_site
from measures.machine import ROOT, figure, percentile
from measures.programs import Node, Program, Trouble, below, build, cpu_seconds
from measures.trace import draw

CIRCUITS = 50

FRAMES, FRAME_BYTES, INTERVAL = 100, 996, 0.2
"""Of each of them: 20 s of some 5 kB/s."""

RATE = 50 * 1024
"""What `bento cover run` takes if nothing else is said. A machine of two cores carries it with client, relays, website and node all on it."""

PAGE_BYTES = 200_000
"""Some four seconds of the flow."""

LINE_FRAMES, LINE_SECONDS = 4, 40
"""Of each circuit through Tor, frames a second; and for how long all of them send."""

LINE_FRAME_BYTES = 498

RUN_SECONDS = 90
RAMP_SECONDS = 5
PAUSE_SECONDS = 6
STEP = 0.5
"""What is counted at once on the line."""

PLOT = ROOT / "docs" / "cover.svg"


def measure(rounds: int = 1) -> None:
    """A flow on its client's line with and without pages, its rate error, and CPU time per circuit for 50 on one node, without Tor and with"""
    programs = build("bento", "bento-node", "bento-jail", "testnet")
    _line(programs)
    costs, with_tor = [], []
    for _ in range(rounds):
        costs.append(_circuits(programs))
        with_tor.append(_through_tor(programs))
    figure("cover_cpu_per_circuit_ms_per_s", statistics.median(costs), "ms/s")
    figure("cover_tor_cpu_per_circuit_ms_per_s", statistics.median(with_tor), "ms/s")


def _line(programs: Path) -> None:
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-")))
        network = start_network(stack, programs, directory)
        page = start_site(stack, network, directory)["http"] + f"size/{PAGE_BYTES}"
        node = start_node(stack, programs, network, directory)
        seen = directory / "seen"
        observer = stack.enter_context(Program("observer", [str(programs / "testnet"), "observe", "--output", str(seen)], directory / "observer.log"))
        socks = _tor(stack, directory, network, observer.wait_for(r"^HTTPSProxy .*$").group())
        bento = _Bento(programs, directory, socks)
        # Until the node's descriptor is where every client looks.
        bento.patiently("policy", node)

        began = time.time()
        words = ["cover", "run", node, "--rate", f"{RATE} B/s", "--for", f"{RUN_SECONDS} s", "--ramp", f"{RAMP_SECONDS} s", "--connect", RULE, "--progress"]
        flow = stack.enter_context(Program("the flow", bento.words(*words), directory / "flow.log"))
        flow.wait_for(r" runs: ")
        began = time.time()
        time.sleep(RAMP_SECONDS + PAUSE_SECONDS)
        pages, polls = [], []
        while time.time() - began < RUN_SECONDS - RAMP_SECONDS - PAUSE_SECONDS and flow.process.poll() is None:
            from_ = time.time()
            asking = subprocess.Popen(bento.words("browse", page, "--cover", "-o", str(directory / "page.html"), "--force"), env=bento.environment)
            while asking.poll() is None or time.time() < from_ + 1:
                polls.append(bento.received())
                time.sleep(0.5)
            pages.append((from_, time.time()))
            until = time.time() + PAUSE_SECONDS
            while time.time() < until:
                polls.append(bento.received())
                time.sleep(0.5)
        ended = polls[-1][0]
        flow.process.wait(120)
        end_words = flow.log.read_text().strip().splitlines()[-1:]
        # The neighbour: the same page by itself.
        time.sleep(PAUSE_SECONDS)
        bare = []
        for _ in range(2):
            from_ = time.time()
            bento.patiently("browse", page, "--node", node, "--connect", RULE, "-o", str(directory / "page.html"), "--force")
            bare.append((from_, time.time()))
            time.sleep(PAUSE_SECONDS)
        end = time.time()
        time.sleep(0.5)
        series = _series(seen, began - 3, end)

    (first, before), (last, after) = polls[0], polls[-1]
    rate = (after - before) / (last - first)
    planned = bento.planned
    error = abs(rate / planned - 1) * 100
    seconds = [abs((b - a) / (t - s) / planned - 1) * 100 for (s, a), (t, b) in zip(polls, polls[4:])]
    print(f"it ended with: {' '.join(end_words)}; {bento.late:.1f} s late at most while it was looked at")
    print(f"a flow of {planned} B/s, {len(pages)} pages of {PAGE_BYTES // 1000} kB in it: {rate:.0f} B/s over {last - first:.0f} s; in windows of some 2 s off by {statistics.median(seconds):.2f} % (median), {percentile(seconds, 0.95):.2f} % (95 of 100)")
    for name, values in series.items():
        busy, quiet = _split(values, began - 3, pages, first, ended)
        gap, chance = _distance(busy, quiet), _chance(busy, quiet)
        print(f"the line, {name}: {statistics.mean(busy):.0f} B each {STEP} s with a page on its way ({len(busy)}), {statistics.mean(quiet):.0f} without ({len(quiet)}); distance {gap:.2f}, of labels by chance {chance:.0%} are as far")
        bare_busy, bare_quiet = _split(values, began - 3, bare, bare[0][0] - PAUSE_SECONDS + 1, end)
        # Most of the time in which a page comes by itself nothing does; so its fullest intervals say more than a distance.
        print(f"the line, {name}, without a flow: {statistics.mean(bare_busy):.0f} B with a page on its way, at most {max(bare_busy)}; {statistics.mean(bare_quiet):.0f} without, at most {max(bare_quiet)}")
    PLOT.write_text(draw(series["down"], STEP, [(a - began + 3, b - began + 3) for a, b in pages + bare]))
    print(f"plot       {PLOT.relative_to(ROOT)}")
    figure("cover_rate_error_percent", error, "%")


class _Bento:
    """The client, with a home of its own."""

    def __init__(self, programs: Path, directory: Path, socks: str) -> None:
        self._program, self._socks = programs / "bento", socks
        self.planned, self.late = 0, 0.0
        names = {"XDG_DATA_HOME": "data", "XDG_CONFIG_HOME": "config", "XDG_RUNTIME_DIR": "run"}
        self.environment = {**os.environ, **{name: str(directory / value) for name, value in names.items()}}

    def words(self, *words: str) -> list[str]:
        # By `env`, so that it is the same however it is started.
        names = [f"{name}={self.environment[name]}" for name in ("XDG_DATA_HOME", "XDG_CONFIG_HOME", "XDG_RUNTIME_DIR")]
        return ["/usr/bin/env", *names, str(self._program), *words, "--socks", self._socks]

    def patiently(self, *words: str) -> None:
        end = time.monotonic() + private.UP_SECONDS_MAX
        while subprocess.run(self.words(*words), capture_output=True).returncode:
            if time.monotonic() > end:
                raise Trouble(f"bento {words[0]} does not succeed")
            time.sleep(1)

    def received(self) -> tuple[float, int]:
        """When, and how many bytes of the flow had come."""
        done = subprocess.run(self.words("cover", "status", "--json"), capture_output=True, text=True, check=True)
        now, flows = time.time(), json.loads(done.stdout)["flows"]
        if not flows:
            raise Trouble("the flow has ended early")
        self.planned, self.late = flows[0]["rate"], max(self.late, flows[0]["late"])
        return now, flows[0]["received"]


def _tor(stack: ExitStack, directory: Path, network: dict, proxy: str) -> str:
    home = directory / "tor"
    home.mkdir(mode=0o700)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    torrc = home / "torrc"
    torrc.write_text(Path(network["torrc"]).read_text() + f"\n{proxy}\nSocksPort 127.0.0.1:{port}\nDataDirectory {home}/data\nLog notice stdout\n")
    tor = stack.enter_context(Program("tor", ["tor", "--defaults-torrc", "/dev/null", "-f", str(torrc)], directory / "tor.log"))
    tor.wait_for("Bootstrapped 100%", private.UP_SECONDS_MAX)
    return f"127.0.0.1:{port}"


def _series(seen: Path, from_: float, to: float) -> dict[str, list[int]]:
    series = {name: [0] * int((to - from_) / STEP) for name in ("down", "up")}
    for text in seen.read_text().splitlines():
        at, name, count = text.split()
        place = int((float(at) - from_) / STEP)
        if 0 <= place < len(series[name]) and float(at) >= from_:
            series[name][place] += int(count)
    return series


def _split(values: list[int], start: float, pages: list[tuple[float, float]], from_: float, to: float) -> tuple[list[int], list[int]]:
    """What passed with a page on its way, and without."""
    busy, quiet = [], []
    for number, value in enumerate(values):
        begin = start + number * STEP
        if from_ <= begin and begin + STEP <= to:
            if any(a <= begin and begin + STEP <= b for a, b in pages):
                busy.append(value)
            elif all(b <= begin or begin + STEP <= a for a, b in pages):
                quiet.append(value)
    if not busy or not quiet:
        raise Trouble("too little was seen on the line")
    return busy, quiet


def _distance(one: list[int], other: list[int]) -> float:
    """Of Kolmogorov and Smirnov."""
    return max(abs(sum(value <= most for value in one) / len(one) - sum(value <= most for value in other) / len(other)) for most in {*one, *other})


def _chance(one: list[int], other: list[int], tries: int = 1000) -> float:
    """How often labels given by chance are as far apart."""
    rng, all_, found = random.Random(1), one + other, _distance(one, other)
    hits = 0
    for _ in range(tries):
        rng.shuffle(all_)
        hits += _distance(all_[: len(one)], all_[len(one) :]) >= found
    return hits / tries


def _circuits(programs: Path) -> float:
    """Fifty flows at once on one node without Tor: how well each keeps its rate, and their CPU time each."""
    wide = 'functions = 64\nlifetime = "1 h"\negress = ["direct"]\n'
    with Node(programs, f"[offers]\n{wide}") as node:
        down = {"frames": FRAMES, "bytes": FRAME_BYTES, "interval": INTERVAL}
        up = {"frames": int(FRAMES * INTERVAL), "bytes": 64, "interval": 1.0}
        files = {path.name: path.read_text() for path in sorted((ROOT / "functions/cover").glob("*.py"))}
        files["manifest.toml"] = 'name = "cover"\ncode = "cover.py"\nmethods = ["stream"]\n[needs]\nprocesses = 16\n'
        bundle = client.pack(files)
        total = up["frames"] * up["bytes"]
        heads = {"Bento-Bundle-Length": str(len(bundle)), "Bento-Arguments": json.dumps({"down": down, "up": up, "traffic": 4 << 20})}
        head = client.request("POST", "/v1/run/stream", heads).replace(b"Content-Length: 0", b"Content-Length: %d" % (len(bundle) + total))
        selector = selectors.DefaultSelector()
        flows = []
        for _ in range(CIRCUITS):
            flow = _Flow(socket.create_connection(node.address, 60))
            flow.stream.sendall(head + bundle)
            selector.register(flow.stream, selectors.EVENT_READ, flow)
            flows.append(flow)
        _until(selector, flows, up, lambda: all(flow.times for flow in flows), 120)
        pids = [node.process.pid, *node.below()]
        before, begin = {pid: _cpu(pid, 0.0) for pid in pids}, time.monotonic()
        _until(selector, flows, up, lambda: time.monotonic() > begin + FRAMES * INTERVAL / 2, 120)
        took = time.monotonic() - begin
        spent = {pid: _cpu(pid, since) - since for pid, since in before.items()}
        used, cover = sum(spent.values()), sum(time_ for pid, time_ in spent.items() if pid != node.process.pid)
        _until(selector, flows, up, lambda: all(flow.received >= FRAMES * FRAME_BYTES for flow in flows), 120)
        errors = []
        for flow in flows:
            (first, start), (last, end) = flow.times[0], flow.times[-1]
            errors.append(abs((end - start) / (last - first) / (FRAME_BYTES / INTERVAL) - 1) * 100)
            flow.stream.close()
    cost = 1000 * used / took / CIRCUITS
    print(f"{CIRCUITS} flows of {FRAME_BYTES / INTERVAL:.0f} B/s on one node without Tor: {cost:.2f} ms/s of CPU time each, of which {1000 * cover / took / CIRCUITS:.2f} in the functions; rates off by {statistics.median(errors):.3f} % (median), {max(errors):.3f} % (most)")
    return cost


def _through_tor(programs: Path) -> float:
    """Cover traffic of one node through fifty circuits of its tor: whether all of it comes at its rate, and CPU time for each circuit."""
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-")))
        network = start_network(stack, programs, directory)
        offers = 'calls = ["tor.*", "maybenot.*", "nodes.*"]\ncpu = "30 min"\ntraffic = "1 GiB"\nlifetime = "1 h"\ndescriptors = 512\n'
        policy = f'[offers]\nmemory = "1 GiB"\nconnect = ["{RULE}", "accept *:80"]\ncircuits = {CIRCUITS}\n{offers}'
        node, address = private.node(stack, programs, directory, network, policy, f'nameservers = ["{network["dns"]}"]', "[images.python3]\n")
        bento = _Bento(programs, directory, network["socks"])
        bento.patiently("policy", address)
        swallower = stack.enter_context(socket.create_server(("127.80.0.7", 0)))
        selector = selectors.DefaultSelector()
        stack.callback(selector.close)
        selector.register(swallower, selectors.EVENT_READ)
        to = f"127.80.0.7:{swallower.getsockname()[1]}"
        words = ["cover", "send", address, "--circuits", str(CIRCUITS), "--frames", str(LINE_FRAMES), "--for", f"{2 * LINE_SECONDS} s", "--to", to, "--json"]
        sending = stack.enter_context(Program("cover send", bento.words(*words), directory / "send.log"))
        _swallow(selector, swallower, lambda lines, _: lines >= CIRCUITS, 120, sending)
        # Each has its moment within the first second.
        _swallow(selector, swallower, lambda _, seconds: seconds > 3, 60, sending)
        tor = below(node.process.pid, "tor")
        pids = [node.process.pid, *below(node.process.pid)]
        before = {pid: _cpu(pid, 0.0) for pid in pids}
        received, took = _swallow(selector, swallower, lambda _, seconds: seconds > LINE_SECONDS / 2, 120, sending)
        spent = {pid: _cpu(pid, since) - since for pid, since in before.items()}
        for key in list(selector.get_map().values()):
            if key.fileobj is not swallower:
                key.fileobj.close()
    all_, of_tor = sum(spent.values()), sum(spent[pid] for pid in tor)
    error = abs(received / took / (CIRCUITS * LINE_FRAMES * LINE_FRAME_BYTES) - 1) * 100
    each = 1000 / took / CIRCUITS
    print(f"{CIRCUITS} circuits through Tor, {LINE_FRAMES} frames a second on each: {all_ * each:.2f} ms/s of CPU time each, of which {of_tor * each:.2f} in the node's tor; what comes out of the exits is off by {error:.2f} %")
    figure("cover_circuits_rate_error_percent", error, "%")
    return all_ * each


def _swallow(selector: selectors.BaseSelector, swallower: socket.socket, done, most: float, sending: Program) -> tuple[int, float]:
    """Takes what comes until it is done, by how many lines there are and how many seconds have passed: bytes, and seconds."""
    begin, received = time.monotonic(), 0
    while not done(len(selector.get_map()) - 1, time.monotonic() - begin):
        if time.monotonic() > begin + most or sending.process.poll() is not None:
            raise Trouble(f"the circuits do not send\n{sending.log.read_text()[-2000:]}")
        for key, _ in selector.select(0.05):
            if key.fileobj is swallower:
                selector.register(swallower.accept()[0], selectors.EVENT_READ)
            elif data := key.fileobj.recv(65_536):
                received += len(data)
            else:
                selector.unregister(key.fileobj)
                key.fileobj.close()
    return received, time.monotonic() - begin


def _cpu(pid: int, ended: float) -> float:
    """CPU time of a process; that of one that has ended meanwhile is not known any more."""
    try:
        return cpu_seconds(pid)
    except OSError:
        return ended


class _Flow:
    def __init__(self, stream: socket.socket) -> None:
        self.stream = stream
        self.received = 0
        self.times: list[tuple[float, int]] = []
        self.next = time.monotonic()
        self.sent = 0


def _until(selector: selectors.BaseSelector, flows: list[_Flow], up: dict, done, seconds: float) -> None:
    end = time.monotonic() + seconds
    while not done():
        now = time.monotonic()
        if now > end:
            raise Trouble("the flows do not come")
        for flow in flows:
            if flow.sent < up["frames"] and now >= flow.next:
                flow.stream.sendall(bytes(up["bytes"]))
                flow.sent += 1
                flow.next += up["interval"]
        for key, _ in selector.select(0.05):
            flow = key.data
            data = flow.stream.recv(65_536)
            if not data:
                selector.unregister(flow.stream)
                continue
            if not flow.received and b"\r\n\r\n" in data:
                if not data.startswith(b"HTTP/1.1 200"):
                    raise Trouble(f"the node answers {data[:500]!r}")
                data = data.partition(b"\r\n\r\n")[2]
            flow.received += len(data)
            if data:
                flow.times.append((time.monotonic(), flow.received))
