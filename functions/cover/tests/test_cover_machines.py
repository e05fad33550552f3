"""What Maybenot machines want is done at its time. The machines themselves are the node's (`crates/bento-node/src/machines.rs`)."""

import json

import pytest
from bento.testing import FakeApi

import cover
import traffic
from machines import Machined
from test_cover_traffic import MIB, kept


class Script:
    """Machines that want what a test says: a function of the names of the events."""

    def __init__(self, wants) -> None:
        self.wants, self.told = wants, []

    def trigger(self, at: int, events) -> list[dict]:
        names = [event["event"] for event in events]
        assert 1 <= len(names) <= 16
        self.told.append((at, names))
        return self.wants(names)

    def ask(self, at: int, events) -> "Answer":
        return Answer(self.trigger(at, events))


class Answer:
    def __init__(self, wanted: list[dict]) -> None:
        self.wanted = wanted

    def result(self) -> tuple:
        return self.wanted, None


def padding(timeout: float, **fields: object) -> dict:
    return {"action": "send_padding", "machine": 0, "timeout": int(timeout * 1e6), "bypass": False, "replace": False} | fields


def run(wants, seconds: float = 10.0):
    script = Script(wants)
    work, (stream,), _ = kept([Machined(script)], seconds)
    work.run()
    return script, stream.times


def test_a_frame_starts_the_machine_and_padding_follows_its_word():
    script, times = run(lambda names: [padding(0.5)] if "tunnel_sent" in names else [])
    assert [round(time, 1) for time in times] == [pytest.approx(0.5 * number, abs=0.1) for number in range(len(times))] and len(times) == 20
    assert script.told[0][1] == ["normal_sent", "tunnel_sent"] and all(names == ["padding_sent", "tunnel_sent"] for _, names in script.told[1:])


@pytest.mark.parametrize(("late", "frames"), [(0.05, 100), (0.9, 100), (3.0, 34)])
def test_what_is_done_late_does_not_make_the_next_late_as_well_unless_it_is_very_late(late, frames):
    script = Script(lambda names: [padding(0.1)] if "tunnel_sent" in names else [])
    shape, now, sent = Machined(script), 0.0, 0
    while (due := shape.due()) is not None and due < 10.0:
        # All that is due by then is done at once.
        now = max(now, due + late)
        sent += shape.fire(now)
        while (more := shape.due()) is not None and more <= now and more < 10.0:
            sent += shape.fire(now)
    assert abs(sent - frames) <= 12 and [at for at, _ in script.told] == sorted(at for at, _ in script.told)


def test_machines_of_all_streams_are_asked_before_any_is_waited_for():
    order = []

    class Told(Script):
        def ask(self, at, events):
            order.append("asked")
            answer = super().ask(at, events)
            answer.result = lambda: (order.append("waited"), (answer.wanted, None))[1]
            return answer

    work, streams, _ = kept([Machined(Told(lambda names: [padding(0.5)])) for _ in range(3)], 2.0)
    work.run()
    assert order[:6] == ["asked"] * 3 + ["waited"] * 3 and all(len(stream.times) == 4 for stream in streams)


def test_a_machine_that_wants_nothing_sends_nothing_more():
    _, times = run(lambda names: [])
    assert len(times) == 1


def test_a_later_word_takes_the_place_of_an_earlier_one_and_a_cancel_takes_it_back():
    words = iter([[padding(5.0), padding(1.0)], [padding(2.0), {"action": "cancel", "machine": 0, "timer": "action"}]])
    _, times = run(lambda names: next(words, []))
    assert [round(time) for time in times] == [0, 1]


def test_its_own_timer_comes_back_to_it():
    def wants(names):
        if "normal_sent" in names:
            return [{"action": "update_timer", "machine": 0, "duration": 3_000_000, "replace": False}]
        return [padding(1.0)] if "timer_end" in names else []

    script, times = run(wants)
    assert [round(time) for time in times] == [0, 4]
    assert [names for _, names in script.told] == [["normal_sent", "tunnel_sent"], ["timer_begin"], ["timer_end"], ["padding_sent", "tunnel_sent"]]


@pytest.mark.parametrize("bypass, at", [(False, 6), (True, 2)])
def test_blocking_holds_padding_back_but_for_what_may_bypass_it(bypass, at):
    def wants(names):
        if "normal_sent" in names:
            return [{"action": "block_outgoing", "machine": 0, "timeout": 1_000_000, "duration": 5_000_000, "bypass": True, "replace": False}]
        return [padding(1.0, bypass=bypass)] if "blocking_begin" in names else []

    script, times = run(wants)
    assert [round(time) for time in times] == [0, at]
    assert ["blocking_end"] in [names for _, names in script.told]


def test_what_comes_back_is_told():
    script = Script(lambda names: [])
    shape = Machined(script)
    shape.heard(1.0, 3)
    shape.heard(2.0, 100)
    shape.heard(3.0, 0)
    assert [len(names) for _, names in script.told] == [6, 16]


class WithMachines(FakeApi):
    """A node whose machines pad each 20 ms."""

    def _done(self, name: str, arguments: dict):
        if name == "maybenot.start":
            return {"first": 1, "count": arguments["count"]}, None
        if name == "maybenot.trigger":
            return [padding(0.02)] if {"event": "tunnel_sent"} in arguments["events"] else [], None
        return super()._done(name, arguments)


def test_circuits_follow_machines_within_the_budget():
    api = WithMachines()
    written = api.run(cover.send, circuits=2, shape="maybenot", machines=["02e"], seconds=1.0, traffic=MIB)
    last = json.loads(written[-cover.LINE_BYTES :])
    assert last["open"] == 2 and 20 < last["sent"] <= 102
    # Each frame passes twice, since it goes to itself.
    api = WithMachines()
    spare = cover.OVERHEAD_BYTES + 2 * cover.CIRCUIT_BYTES + cover.SERVICE_BYTES
    written = api.run(cover.send, circuits=2, shape="maybenot", machines=["02e"], seconds=30.0, traffic=spare + 20 * traffic.FRAME_BYTES)
    assert json.loads(written[-cover.LINE_BYTES :])["sent"] == 10
