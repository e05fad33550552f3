"""What the tests share: the client's half of a flow, and a Browser that fetches nothing."""

import json
import sys
import threading
from pathlib import Path

import hypothesis
import pytest

HERE = Path(__file__).resolve().parent
ROOT = HERE.parents[2]
sys.path[:0] = [str(HERE.parent), str(ROOT / "python")]

from bento.testing import FakeApi, FakeNode  # noqa: E402

import cover  # noqa: E402
import flow  # noqa: E402

# Without deadlines, since the machine that tests may be busy; and without its directory of examples.
hypothesis.settings.register_profile("bento", deadline=None, database=None)
hypothesis.settings.load_profile("bento")

NODE = "other.onion"

STAND_IN = '''
def page(api, url, bucket=1000):
    if url == "raise":
        raise ValueError("no such page")
    api.output.length(bucket)
    api.output.write(url.encode().ljust(bucket, b"."))
'''


@pytest.fixture
def browser(tmp_path, monkeypatch) -> FakeNode:
    """The node that pages are fetched on."""
    (tmp_path / "manifest.toml").write_text('name = "browser"\ncode = "browser.py"\nmethods = ["page"]\n[needs]\ntraffic = "1 MiB"\n')
    (tmp_path / "browser.py").write_text(STAND_IN)
    monkeypatch.setattr(cover, "BROWSER", tmp_path)
    return FakeNode()


class Client:
    """Asks in the flow, and reads what comes out of it."""

    def __init__(self, down: dict, up: dict) -> None:
        self.down, self.up = down, up
        self.waiting: list[bytes] = []
        self.read = 0

    def ask(self, number: int, question: object) -> None:
        data = question if isinstance(question, bytes) else json.dumps(question).encode()
        self.waiting.append(flow.HEAD.pack(flow.DATA, number, len(data)) + data + flow.HEAD.pack(flow.END, number, 0))

    def page(self, number: int, **arguments: object) -> None:
        self.ask(number, {"method": "page", "arguments": arguments})

    def run(self, **options: object) -> tuple[FakeApi, dict[int, tuple[bytes, dict]]]:
        """Runs the flow to its end: the answers by number, and how each ended."""
        api = FakeApi(self._frames(), nodes=options.pop("nodes", {}))
        given = {"down": self.down, "up": self.up, "traffic": 1 << 30, "fetch": 1 << 24} | options
        api.run(cover.stream, **given)
        return api, answers(api.written, self.down["bytes"])

    def _frames(self):
        for _ in range(self.up["frames"]):
            yield (self.waiting.pop(0) if self.waiting else b"").ljust(self.up["bytes"], b"\0")


def answers(written: bytes, size: int) -> dict[int, tuple[bytes, dict]]:
    """What the flow carried."""
    data: dict[int, bytearray] = {}
    ends: dict[int, dict] = {}
    for at in range(0, len(written), size):
        for kind, number, payload in flow.messages(written[at : at + size]):
            if kind == flow.DATA:
                data.setdefault(number, bytearray()).extend(payload)
            else:
                assert kind == flow.END and number not in ends
                ends[number] = json.loads(payload)
    assert threading.active_count() < 50
    return {number: (bytes(data.get(number, b"")), end) for number, end in ends.items()}
