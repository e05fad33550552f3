"""Cover traffic: each circuit keeps its shape, the budget is kept, and a circuit that is slow or breaks concerns no other."""

import itertools
import json
import random
import socket
import threading

import pytest
from bento.testing import FakeApi, FakeNode, FakeTor

import traffic
from conftest import NODE

import cover

MIB = 1 << 20


class Taken:
    """A circuit's socket that remembers when frames came, and takes them or not."""

    def __init__(self, clock) -> None:
        self.clock, self.times, self.full, self.broken, self.closed = clock, [], False, False, False
        self._near, self._far = socket.socketpair()

    def fileno(self) -> int:
        return self._near.fileno()

    def send(self, data: bytes, _flags: int) -> int:
        if self.broken:
            raise BrokenPipeError
        if self.full:
            raise BlockingIOError
        self.times.append(self.clock())
        return len(data)

    def recv(self, count: int, flags: int) -> bytes:
        return self._near.recv(count, flags)

    def close(self) -> None:
        self.closed = True
        self._near.close()
        self._far.close()


class Clock:
    """Time that passes as it is looked at, ten thousand times as fast as it takes."""

    def __init__(self) -> None:
        self.now = 0.0

    def __call__(self) -> float:
        self.now += 0.0005
        return self.now


def kept(shapes, seconds=100.0, budget=1 << 30, **options) -> tuple[traffic.Traffic, list[Taken], Clock]:
    clock = Clock()
    streams = [Taken(clock) for _ in shapes]
    lines = [traffic.Line(shape, options.get("connect"), stream) for shape, stream in zip(shapes, streams)]
    work = traffic.Traffic(lines, seconds, budget, clock)
    # Waiting takes no time here: the clock goes on by being looked at.
    work._hear = lambda left: None
    return work, streams, clock


def test_constant_traffic_has_its_rate_on_each_circuit_and_no_common_beat():
    draw = random.Random(3).random
    work, streams, _ = kept([traffic.Constant(5.0, draw) for _ in range(4)])
    work.run()
    assert [abs(len(stream.times) - 500) <= 1 for stream in streams] == [True] * 4
    for stream in streams:
        gaps = [after - before for before, after in itertools.pairwise(stream.times)]
        assert max(gaps) < 0.2 + 0.01 and min(gaps) > 0.2 - 0.01
    assert len({round(stream.times[0], 3) for stream in streams}) == 4
    assert work.spent == sum(len(stream.times) for stream in streams) * traffic.FRAME_BYTES


def test_poisson_traffic_has_its_rate_and_as_much_spread():
    draw = random.Random(5).random
    work, streams, _ = kept([traffic.Poisson(10.0, draw) for _ in range(2)])
    work.run()
    for stream in streams:
        # Of 1,000 in the mean, five deviations.
        assert abs(len(stream.times) - 1000) < 160
        counts = [sum(second <= time < second + 1 for time in stream.times) for second in range(100)]
        mean = sum(counts) / 100
        assert 0.5 < sum((count - mean) ** 2 for count in counts) / 100 / mean < 2.0


def test_a_slow_or_broken_circuit_concerns_no_other_and_nothing_piles_up():
    draw = random.Random(9).random
    work, (slow, broken, good), clock = kept([traffic.Constant(5.0, draw) for _ in range(3)], connect=lambda: (_ for _ in ()).throw(OSError()))
    slow.full = True

    def change(work):
        if work.elapsed > 50:
            slow.full = False
            broken.broken = True

    work.run(change, 1.0)
    assert abs(len(good.times) - 500) <= 1
    # What was not taken in time is left out, and not made up for.
    assert abs(len(slow.times) - 247) <= 5 and min(b - a for a, b in itertools.pairwise(slow.times)) > 0.19
    assert work.lines[0].held + work.lines[0].sent == work.lines[0].frames
    assert broken.closed and work.lines[1].lost == 1 and work.lines[1].socket is None


def test_never_more_is_sent_than_the_budget_has():
    draw = random.Random(1).random
    for budget in (0, traffic.FRAME_BYTES - 1, traffic.FRAME_BYTES, 10 * traffic.FRAME_BYTES + 1):
        work, streams, _ = kept([traffic.Constant(50.0, draw) for _ in range(3)], budget=budget)
        work.run()
        assert sum(len(stream.times) for stream in streams) == budget // traffic.FRAME_BYTES


def lines_of(written: bytes) -> list[dict]:
    assert len(written) % cover.LINE_BYTES == 0
    return [json.loads(written[at : at + cover.LINE_BYTES]) for at in range(0, len(written), cover.LINE_BYTES)]


@pytest.mark.parametrize("shape", ["constant", "poisson"])
def test_it_is_its_own_sink_and_gets_back_what_it_sends(shape):
    api = FakeApi()
    told = lines_of(api.run(cover.send, circuits=3, shape=shape, rate=50, seconds=1.5, traffic=MIB * 4, back=True, every=0.5))
    last = told[-1]
    assert last["ended"] and last["open"] == 3 and len(told) >= 3
    assert last["sent"] + last["held"] == last["due"] and last["sent"] > 100
    assert 0 < last["received"] <= last["sent"] * traffic.FRAME_BYTES
    assert not api.session.services


def test_sinks_are_installed_on_other_nodes_and_ended(monkeypatch):
    tor = FakeTor()
    nodes = {NODE: FakeNode(tor=tor), "third.onion": FakeNode(tor=tor)}
    api = FakeApi(nodes=nodes, tor=tor)
    told = lines_of(api.run(cover.send, circuits=4, rate=50, seconds=1.0, traffic=MIB * 4, sinks=list(nodes), every=0.4))
    assert told[-1]["open"] == 4 and told[-1]["sent"] > 100 and told[-1]["received"] == 0
    assert all(node.invoked == {"sink": 1} and not node.functions for node in nodes.values())


def test_circuits_are_tried_again_while_none_can_be_made_and_what_is_refused_is_not(monkeypatch):
    monkeypatch.setattr(cover, "OPEN_PAUSE", 0.01)
    tries: list[int] = []

    class Late:
        def way(self, number: int):
            def connect():
                tries.append(number)
                if len(tries) <= 6:
                    raise ConnectionError("not yet")
                return number

            return connect

    assert [stream for _, stream in cover._open(Late(), 3)] == [0, 1, 2] and tries[3:] == [0] * 4 + [1, 2]

    class Never(Late):
        error: type[OSError] = PermissionError

        def way(self, number: int):
            def connect():
                tries.append(number)
                raise self.error("no")

            return connect

    tries.clear()
    with pytest.raises(PermissionError):
        cover._open(Never(), 2)
    assert len(tries) == 2
    Never.error = ConnectionError
    monkeypatch.setattr(cover, "OPEN_SECONDS", 0.1)
    with pytest.raises(ConnectionError):
        cover._open(Never(), 2)
    assert 4 < len(tries) < 30


def test_circuits_of_its_own_lead_to_whoever_swallows(monkeypatch):
    monkeypatch.setattr(cover, "OPEN_SECONDS", 0.0)
    got = threading.Semaphore(0)

    def swallow(stream: socket.socket) -> None:
        while stream.recv(4096):
            got.release()

    api = FakeApi(hosts={("sink.example", 9000): swallow}, tor=FakeTor(), circuits=2)
    told = lines_of(api.run(cover.send, circuits=2, rate=50, seconds=0.5, traffic=MIB * 4, to="sink.example:9000"))
    assert told[-1]["open"] == 2 and got.acquire(timeout=30)
    assert len(api.session.circuits) == 2
    # One more than the grant has is one that is not open.
    api = FakeApi(hosts={("sink.example", 9000): swallow}, tor=FakeTor(), circuits=1)
    assert lines_of(api.run(cover.send, circuits=2, rate=50, seconds=0.5, traffic=MIB * 4, to="sink.example:9000"))[-1]["open"] == 1
    with pytest.raises(OSError):
        FakeApi(tor=FakeTor([])).run(cover.send, circuits=2, rate=50, seconds=0.5, traffic=MIB * 4, to="sink.example:9000")


@pytest.mark.parametrize(
    "wrong", [{"circuits": 0}, {"circuits": 101}, {"shape": "square"}, {"rate": 0}, {"rate": 101}, {"to": "nowhere"}, {"to": "a:1", "sinks": ["b"]}, {"traffic": 1 << 16}]
)
def test_what_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        FakeApi().run(cover.send, **{"circuits": 1, "seconds": 0.1, "traffic": MIB} | wrong)
