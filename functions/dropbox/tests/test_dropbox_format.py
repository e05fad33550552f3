"""The golden file of encrypted drops, and Dropbox under the runtime with the memory that its manifest asks for."""

import hashlib
import json
import re
import socket
import sys
import threading
import tomllib

import pytest
from conftest import HERE, MANIFEST, ROOT, plaintext, sealed

sys.path.insert(0, str(ROOT / "python" / "tests"))

from fake_node import Node, Running  # noqa: E402

import page  # noqa: E402

from bento.testing import FakeStore  # noqa: E402

MIB = 1 << 20


def test_the_golden_file_is_what_the_format_says():
    vectors = json.loads((ROOT / "spec" / "vectors" / "drop.json").read_text())
    key, prefix = bytes.fromhex(vectors["key"]), bytes.fromhex(vectors["prefix"])
    assert [case["plaintext_bytes"] for case in vectors["files"]] == [0, 1, 65_536, 65_537]
    for case in vectors["files"]:
        size = case["plaintext_bytes"]
        file = sealed(key, prefix, plaintext(size))
        assert len(file) == case["sealed_bytes"] == size + 7 + 16 * max(1, -(-size // 65_536))
        assert hashlib.sha256(file).hexdigest() == case["sealed_sha256"]
        assert case["sealed"] in (None, file.hex()) and case["sealed_end"] in (None, file[-32:].hex())


def test_the_page_lets_nothing_in_but_its_own_script_and_style():
    text = page.html().decode()
    policy = re.search(r'http-equiv="Content-Security-Policy" content="([^"]+)"', text)[1]
    rules = dict(rule.strip().split(" ", 1) for rule in policy.split(";"))
    assert rules["default-src"] == "'none'" and rules["connect-src"] == "'self'"
    for tag, rule in (("script", "script-src"), ("style", "style-src")):
        content = re.search(rf"<{tag}>(.*?)</{tag}>", text, re.DOTALL)[1]
        assert rules[rule] == page._digest(content)
    assert not re.search(r"https?://|\bsrc=|@import|url\(|\bon\w+=|\{(policy|style|script)\}", text)
    assert len(text) < 20_000


@pytest.fixture
def node(tmp_path):
    needs = tomllib.loads(MANIFEST.read_text())["needs"]
    memory = int(needs["memory"].removesuffix(" MiB")) * MIB
    node = Node(tmp_path / "node", before=f"import resource; resource.setrlimit(resource.RLIMIT_AS, ({memory}, {memory})); ")
    node.world.kept = FakeStore(1 << 30)
    files = {path.name: path.read_bytes() for path in HERE.parent.iterdir() if path.is_file()}
    manifest = tomllib.loads(MANIFEST.read_text())
    assert node.load(files, tuple(manifest["methods"]), manifest["code"]) == {"loaded": {"methods": manifest["methods"]}}
    yield node
    assert node.close() == 0


def test_files_larger_than_its_memory_go_through_eight_at_once(node):
    size = 160 * MIB
    piece = bytes(range(256)) * 4_096
    digest = hashlib.sha256(piece * (size // len(piece))).hexdigest()
    ids = [f"{number:032x}" for number in range(8)]

    told = {}

    def send(running: Running, drop: str) -> None:
        for _ in range(sizes[drop] // len(piece)):
            running.stream.sendall(piece)
        running.stream.shutdown(socket.SHUT_WR)
        told[drop] = json.loads(running.read()), running.done()

    # One that is larger than the memory, and seven beside it.
    sizes = dict.fromkeys(ids, 16 * MIB) | {ids[0]: size}
    for drop in ids:
        assert node.run("begin", drop=drop, size=sizes[drop])[1] == {"outcome": "returned"}
    threads = [threading.Thread(target=send, args=(node.invoke("put", drop=drop), drop)) for drop in ids]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert told == {drop: ({"offset": sizes[drop]}, {"outcome": "returned"}) for drop in ids}
    finished, ended = node.run("finish", drop=ids[0], sha256=digest)
    assert ended == {"outcome": "returned"} and json.loads(finished)["size"] == size
    running = node.invoke("get", drop=ids[0], pad=200 * MIB)
    running.stream.shutdown(socket.SHUT_WR)
    found, count = hashlib.sha256(), 0
    while part := running.stream.recv(65_536):
        if 48 <= count and count + len(part) <= 48 + size:
            found.update(part)
        else:
            found.update(part[max(0, 48 - count) : max(0, 48 + size - count)])
        count += len(part)
    assert running.done() == {"outcome": "returned"}
    assert count == 200 * MIB == running.length and found.hexdigest() == digest


def test_errors_name_themselves_to_the_client(node):
    for method, arguments, name in (
        ("get", {"drop": "0" * 32}, "NoSuchDrop"),
        ("head", {"drop": "x"}, "ValueError"),
        ("begin", {"drop": "0" * 32, "size": 1 << 40}, "Full"),
    ):
        output, ended = node.run(method, **arguments)
        assert output == b"" and ended["outcome"] == "failed" and ended["error"].startswith(f"{name}: ")
    node.run("begin", drop="0" * 32, size=5)
    output, ended = node.run("put", drop="0" * 32, offset=3)
    assert json.loads(output) == {"offset": 0} and ended["error"].startswith("WrongOffset: 0 bytes are there")
