"""What the tests share: other nodes, and a Shard that reaches them."""

import json
import os
import sys
from pathlib import Path

import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT / "python")]
# Where `setup.sh` puts what Debian does not have.
sys.path.append(os.environ.get("BENTO_WHEELS", str(Path.home() / ".cache" / "bento" / "wheels")))

from bento.testing import FakeApi, FakeNode  # noqa: E402

import erasure  # noqa: E402
import shard  # noqa: E402
import shelves  # noqa: E402

MANIFEST = HERE.parent / "manifest.toml"


class World:
    """Some nodes, and a Shard: each call is an invocation of its own."""

    def __init__(self, nodes: int) -> None:
        self.nodes = {f"node{number}.onion": FakeNode(f"Node {number}") for number in range(nodes)}
        self.first = FakeApi.from_manifest(MANIFEST, nodes=self.nodes, installs=64)
        self.logs: list[str] = []

    def run(self, method: str, input: object = b"", **arguments: object) -> bytes:
        api = self.first.next(json.dumps(input).encode() if isinstance(input, dict) else input)
        try:
            return api.run(getattr(shard, method), **arguments)
        finally:
            self.logs = api.logs

    def put(self, data: bytes, **arguments: object) -> dict:
        return json.loads(self.run("put", data, size=len(data), **arguments))

    def ask(self, method: str, recipe: dict, **arguments: object) -> dict:
        return json.loads(self.run(method, recipe, **arguments))

    def functions(self) -> int:
        """How many there are on all nodes, whether they can be reached or not."""
        return sum(len(node.functions) for node in self.nodes.values())

    def shelf(self, recipe: dict, number: int) -> tuple[FakeNode, object]:
        """The node of a shard, and the function there."""
        entry = next(entry for entry in recipe["shards"] if entry["number"] == number)
        node = self.nodes[entry["node"]]
        return node, node.functions[entry["invocation"]]

    def spoil(self, recipe: dict, number: int, at: int = 100) -> None:
        """Changes a byte of a shard, and has its node stand by it."""
        _, function = self.shelf(recipe, number)
        content = next(data for name, data in function.store.objects.items() if name.startswith("c/"))
        content[at % len(content)] ^= 1


def keep_only(world: World, recipe: dict, numbers: object) -> None:
    """Only the nodes of these shards can be reached."""
    for entry in recipe["shards"]:
        world.nodes[entry["node"]].down = entry["number"] not in numbers


@pytest.fixture
def world() -> World:
    return World(8)


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    """No pauses between tries, and stripes so short that a small file has several."""
    monkeypatch.setattr(shelves, "PAUSE_SECONDS", 0)
    monkeypatch.setattr(erasure, "PIECE_BYTES_MAX", 10_000)
    monkeypatch.setattr(erasure, "FOUNTAIN_STRIPE_BYTES_MAX", 40_000)


@pytest.fixture(params=["rs", "fountain"])
def mode(request) -> str:
    if request.param == "fountain":
        pytest.importorskip("raptorq", reason="there is no package raptorq here (setup.sh installs it)")
    return request.param
