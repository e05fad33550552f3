"""Shard under the runtime, with the memory that its manifest asks for."""

import hashlib
import json
import socket
import sys
import threading
import tomllib

import pytest
from conftest import HERE, MANIFEST, ROOT

sys.path.insert(0, str(ROOT / "python" / "tests"))

from fake_node import Node  # noqa: E402

from bento.testing import FakeNode  # noqa: E402

MIB = 1 << 20
PIECE = bytes(range(256)) * 4_096


@pytest.fixture
def node(tmp_path):
    manifest = tomllib.loads(MANIFEST.read_text())
    memory = int(manifest["needs"]["memory"].removesuffix(" MiB")) * MIB
    before = f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory})); "
    environment = {"BENTO_PACKAGES": "/usr/lib/python3/dist-packages"}
    node = Node(tmp_path / "node", before=before, environment=environment, nodes={f"n{number}": FakeNode() for number in range(6)})
    files = {str(path.relative_to(HERE.parent)): path.read_bytes() for path in HERE.parent.rglob("*.*") if path.is_file() and "tests" not in path.parts}
    assert node.load(files, tuple(manifest["methods"]), manifest["code"]) == {"loaded": {"methods": manifest["methods"]}}
    yield node
    assert node.close() == 0


def test_a_file_larger_than_its_memory_is_spread_and_rebuilt(node):
    size = 210 * MIB
    running = node.invoke("put", n=6, k=4, size=size)

    def send() -> None:
        for _ in range(size // MIB):
            running.stream.sendall(PIECE)
        running.stream.shutdown(socket.SHUT_WR)

    sender = threading.Thread(target=send)
    sender.start()
    running.stream.settimeout(120)
    text = running.read()
    assert running.done() == {"outcome": "returned"}, running.logs
    sender.join()
    recipe = json.loads(text)
    nodes = node.world._composed._nodes
    for entry in recipe["shards"][:2]:
        nodes[entry["node"]].down = True
    running = node.invoke("get")
    running.stream.sendall(text)
    running.stream.shutdown(socket.SHUT_WR)
    running.stream.settimeout(120)
    found, count = hashlib.sha256(), 0
    while part := running.stream.recv(65_536):
        found.update(part)
        count += len(part)
    assert running.done() == {"outcome": "returned"} and count == size
    expected = hashlib.sha256()
    for _ in range(size // MIB):
        expected.update(PIECE)
    assert found.hexdigest() == recipe["sha256"] == expected.hexdigest()
    assert any(line.startswith(f"shard 0 at {recipe['shards'][0]['node']}: missing: ") for line in running.logs)
