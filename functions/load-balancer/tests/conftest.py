"""What the tests share: other nodes with one Tor, and a load balancer that reaches them."""

import io
import json
import sys
import tarfile
import threading
import time
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT / "python")]

from bento.testing import FakeApi, FakeNode, FakeTor  # noqa: E402

import balancer  # noqa: E402
import fleet  # noqa: E402
import peer  # noqa: E402

MANIFEST = HERE.parent / "manifest.toml"

DEADLINE = 20.0
"""How long anything may take; all of it takes a second or two."""


def archive(files: dict[str, bytes]) -> bytes:
    """A site as it travels."""
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w") as tar:
        for name, content in files.items():
            entry = tarfile.TarInfo(name)
            entry.size = len(content)
            tar.addfile(entry, io.BytesIO(content))
    return made.getvalue()


SITE = archive({"index.html": b"<h1>Hello</h1>", "big.bin": bytes(range(256)) * 4_000, "docs/index.html": b"docs"})


class World:
    """Some nodes, and a load balancer: each call is an invocation of its own, `run` in a thread."""

    def __init__(self, nodes: int) -> None:
        self.tor = FakeTor()
        self.nodes = {f"node{number}.onion": FakeNode(f"Node {number}", tor=self.tor) for number in range(nodes)}
        self.first = FakeApi.from_manifest(MANIFEST, nodes=self.nodes, installs=64, tor=self.tor)
        self.running: threading.Thread | None = None

    def ask(self, method: str, input: bytes = b"", **arguments: object) -> dict:
        api = self.first.next(input)
        return json.loads(api.run(getattr(balancer, method), **arguments).splitlines()[-1])

    def up(self, site: bytes = SITE, key: str | None = None, **plan: object) -> dict:
        made = self.ask("setup", json.dumps({"key": key}).encode() + b"\n" + site, plan=plan)
        self.start()
        return made

    def start(self) -> None:
        api = self.first.next()
        self.running = threading.Thread(target=lambda: balancer.run(api), daemon=True)
        self.running.start()
        self.until(lambda: balancer._current is not None)

    def stop(self) -> None:
        """As when its node ends: nothing of the replicas is touched."""
        if balancer._current is not None:
            balancer._current.stop.set()
            self.running.join(DEADLINE)

    def status(self) -> dict:
        return self.ask("status")

    def states(self) -> dict[str, str]:
        return {one["name"]: one["state"] for one in self.status()["replicas"]}

    def serving(self, count: int) -> bool:
        return sorted(self.states().values()) == ["serving"] * count

    def until(self, told: object) -> object:
        end = time.monotonic() + DEADLINE
        while not (found := told()):
            assert time.monotonic() < end, self.first and self.status()
            time.sleep(0.02)
        return found

    def function(self, name: str) -> object:
        """The replica's function, where it is."""
        record = balancer._current.fleet.replicas[name].record
        return self.nodes[record["node"]].functions[record["invocation"]]


@pytest.fixture
def world():
    made = World(6)
    yield made
    made.stop()


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """Seconds are tenths."""
    monkeypatch.setattr(balancer, "TICK_SECONDS", 0.05)
    monkeypatch.setattr(balancer, "RETRY_SECONDS", 0.1)
    monkeypatch.setattr(fleet, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(fleet, "LOST_SECONDS", 2.0)
    monkeypatch.setattr(fleet, "GONE_SECONDS", 4.0)
    monkeypatch.setattr(fleet, "DEPLOY_SECONDS", 0.5)
    monkeypatch.setattr(fleet, "END_SECONDS", 2.0)
    monkeypatch.setattr(fleet, "OWED_SECONDS", 0.2)
    monkeypatch.setattr(peer, "BEAT_SECONDS", 0.1)
    monkeypatch.setattr(peer, "TAKEOVER_SECONDS", 1.5)
    monkeypatch.setattr(peer, "START_SECONDS", 1.0)
    monkeypatch.setattr(peer, "PAUSE_SECONDS", 0.05)
    monkeypatch.setattr(peer, "WAKE_SECONDS", 0.5)
