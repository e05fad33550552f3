"""A page through a node beside the same page over plain Tor, on a private network."""

import json
import os
import socket
import ssl
import statistics
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from measures import fetcher
from measures import network as private
from measures.machine import ROOT, figure, line
from measures.programs import Program, Trouble, build

ROUNDS = 12
WARM_UP_ROUNDS = 2

SITE, SECOND = ("www.gazette.example", "127.80.0.1"), ("media.gazette.example", "127.80.0.2")
RULE = "accept 127.80.0.0/16:*"
"""The website has private addresses, which a node and a function must both name to reach."""

METER_SECONDS = 1.5
"""Tor tells once a second what its connections carried."""

BROWSE_SECONDS_MAX = 120


def measure(rounds: int = ROUNDS) -> None:
    """Fetch a page with `bento browse` through a private Tor network, as a ratio to plain Tor with 6 connections per origin"""
    programs = build("bento", "bento-node", "bento-jail", "testnet")
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-")))
        network = start_network(stack, programs, directory)
        site = start_site(stack, network, directory)
        node = start_node(stack, programs, network, directory)
        socks = network["socks"].rpartition(":")
        client = _Client(programs, directory, node, network["socks"])
        meter = _Meter(stack, network)
        tls = ssl.create_default_context(cafile=network["ca"])
        print(f"page       the front page of testnet/site/site.py on {len(network['relays'])} daemons, node with egress `direct`, one fetch at a time")
        for scheme in ("http", "https"):
            url = site[scheme]
            page, others = _resources(client, url, site["http"])
            plain, browse = _Sample(meter), _Sample(meter)
            bodies = told = None
            for number in range(WARM_UP_ROUNDS + rounds):
                if number == WARM_UP_ROUNDS:
                    plain.clear()
                    browse.clear()
                # A name of its own each time, and so a circuit of its own, as each `bento browse` has.
                bodies = plain.take(lambda: fetcher.fetch(page, others, (socks[0], int(socks[2])), f"{scheme} {os.getpid()} {number}", tls))
                told = browse.take(lambda: client.browse(url))
            print(f"{scheme}: {1 + len(others)} resources, {bodies} bytes of bodies; browse packed {told['html']} bytes and received {told['received']}")
            line(f"{scheme}, plain Tor", plain.seconds)
            line(f"{scheme}, bento browse", browse.seconds)
            print(f"{scheme}, bytes at the client's Tor (sent, received; medians): plain {plain.bytes()}, browse {browse.bytes()}")
            # Most of the web is https, and there plain Tor pays a handshake for each connection.
            name = "browse_ratio" if scheme == "https" else "browse_http_ratio"
            figure(name, statistics.median(browse.seconds) / statistics.median(plain.seconds), "x")


class _Sample:
    """Times and bytes of one way to fetch the page."""

    def __init__(self, meter: "_Meter") -> None:
        self._meter = meter
        self.clear()

    def clear(self) -> None:
        """Forgets the warm-up."""
        self.seconds: list[float] = []
        self._sent: list[int] = []
        self._received: list[int] = []

    def take(self, fetch: Callable[[], object]) -> object:
        """Fetches once, and measures that."""
        # Each reading waits; so Tor has had time to make circuits in place of those that the last fetch took.
        received, sent = self._meter.read()
        began = time.perf_counter()
        result = fetch()
        self.seconds.append(time.perf_counter() - began)
        after_received, after_sent = self._meter.read()
        self._received.append(after_received - received)
        self._sent.append(after_sent - sent)
        return result

    def bytes(self) -> str:
        """The medians."""
        return f"{statistics.median(self._sent):.0f}, {statistics.median(self._received):.0f}"


class _Client:
    """`bento browse`, with a home of its own."""

    def __init__(self, programs: Path, directory: Path, node: str, socks: str) -> None:
        self._output = directory / "page.html"
        self._words = [programs / "bento", "browse", "--json", "--force", "--output", self._output, "--node", node, "--connect", RULE, "--socks", socks]
        # Until the first page.
        self._patience = time.monotonic() + private.UP_SECONDS_MAX
        self._environment = {**os.environ, "XDG_DATA_HOME": str(directory / "data"), "XDG_CONFIG_HOME": str(directory / "config")}

    def browse(self, url: str) -> dict:
        """Fetches a page; what the program tells of it."""
        done = private.patiently([*self._words, url], self._environment, self._patience, BROWSE_SECONDS_MAX)
        self._patience = 0
        told = json.loads(done.stdout)
        if told["outcome"] != "page" or told["missing"]:
            raise Trouble(f"bento browse did not fetch all of the page: {done.stdout}")
        return told


class _Meter:
    """What the client's Tor sent to its guard and received from it, cells and all, as told by its control port once a second.

    Not `traffic/read` and `traffic/written`: these count what goes between Tor and its own client as well.
    """

    def __init__(self, stack: ExitStack, network: dict) -> None:
        address = next(relay["address"] for relay in network["relays"] if relay["role"] == "client")
        self._stream = stack.enter_context(socket.create_connection((address, 9051), 10))
        self._lines = stack.enter_context(self._stream.makefile("r", encoding="latin-1", newline="\r\n"))
        # 250-AUTH METHODS=COOKIE,SAFECOOKIE COOKIEFILE="/…/control_auth_cookie"
        told = self._ask("PROTOCOLINFO 1")
        cookie = next(text.partition('COOKIEFILE="')[2].partition('"')[0] for text in told if "COOKIEFILE=" in text)
        self._ask(f"AUTHENTICATE {Path(cookie).read_bytes().hex()}")
        # Only testing networks have this event.
        self._ask("SETEVENTS CONN_BW")
        self._stream.settimeout(None)
        self._total = {"READ": 0, "WRITTEN": 0}
        threading.Thread(target=self._listen, daemon=True).start()

    def read(self) -> tuple[int, int]:
        """Bytes received and sent since its start."""
        time.sleep(METER_SECONDS)
        return self._total["READ"], self._total["WRITTEN"]

    def _listen(self) -> None:
        # 650 CONN_BW ID=11 TYPE=OR READ=272 WRITTEN=817
        try:
            for text in self._lines:
                told = dict(word.split("=", 1) for word in text.split() if "=" in word)
                if told.get("TYPE") == "OR":
                    for name in self._total:
                        self._total[name] += int(told[name])
        except (OSError, ValueError):
            pass  # It was closed at the end.

    def _ask(self, command: str) -> list[str]:
        self._stream.sendall(f"{command}\r\n".encode())
        told = []
        while True:
            told.append(self._lines.readline().rstrip("\r\n"))
            if not told[-1].startswith("250"):
                raise Trouble(f"the control port answers {command.split()[0]} with {told[-1]!r}")
            if told[-1][3:4] == " ":
                return told


def start_network(stack: ExitStack, programs: Path, directory: Path) -> dict:
    """Brings a private network up, with the names of the website in it."""
    names = [f"--name={name}={address}" for name, address in (SITE, SECOND)]
    return private.up(stack, programs, directory, *names, f"--certificate={SITE[0]},{SECOND[0]}")


def start_site(stack: ExitStack, network: dict, directory: Path) -> dict:
    """Starts the website; its addresses by scheme."""
    # An ordinary user cannot have the usual ports; then others do.
    usual = True
    try:
        socket.create_server((SITE[1], 80)).close()
    except PermissionError:
        usual = False
    ports = {"http": 80, "https": 443} if usual else {"http": 8080, "https": 8443}
    server = network["servers"][0]
    words = ["/usr/bin/python3", "-B", ROOT / "testnet/site/site.py", "--cert", server["certificate"], "--key", server["key"], "--second-name", SECOND[0]]
    for scheme, port in ports.items():
        words += [f"--{scheme}", f"{SITE[1]}:{port}", f"--second-{scheme}", f"{SECOND[1]}:{port}"]
    stack.enter_context(Program("the website", list(map(str, words)), directory / "site.log")).wait_for("^ready")
    return {scheme: f"{scheme}://{SITE[0]}{'' if usual else f':{port}'}/" for scheme, port in ports.items()}


def start_node(stack: ExitStack, programs: Path, network: dict, directory: Path) -> str:
    """Starts a node with egress `direct`; its address."""
    packages = [
        "brotli", "_brotli", "html5lib", "tinycss2", "webencodings", "six", "lxml", "bs4",
        "soupsieve", "requests", "urllib3", "idna", "certifi", "chardet", "charset_normalizer",
    ]
    images = f"[images.python3]\n[images.web]\npackages = {json.dumps(packages)}\ncertificates = {json.dumps(network['ca'])}\n"
    policy = f'[offers]\nimage = ["python3", "web"]\nmemory = "1 GiB"\negress = ["direct"]\nconnect = ["{RULE}", "accept *:80", "accept *:443"]\n'
    return private.node(stack, programs, directory, network, policy, f'nameservers = ["{network["dns"]}"]', images)[1]


def _resources(client: _Client, url: str, counts: str) -> tuple[str, list[str]]:
    """What a browse of the page asks for, from the website's own counts."""
    counts = counts.replace(SITE[0], SITE[1]) + "_requests"
    # Not through a proxy that the environment may name.
    opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
    opener.open(f"{counts}?reset", timeout=10).read()
    client.browse(url)
    asked = json.loads(opener.open(counts, timeout=10).read())["requests"]
    scheme = url.partition(":")[0]
    urls = [f"{scheme}://{place}" for place in asked]
    if url not in urls:
        raise Trouble(f"the website was not asked for {url}, but for {urls}")
    urls.remove(url)
    return url, urls
