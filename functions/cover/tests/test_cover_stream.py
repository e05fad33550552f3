"""The flow as a whole: always all of it, at its time, within its budget, whatever is asked for in it."""

import itertools
import time

import pytest

import pages
from bento.nodes import pack
from bento.testing import FakeApi
from conftest import NODE, Client

import cover

DOWN = {"frames": 60, "bytes": 498, "interval": 0.02}
UP = {"frames": 60, "bytes": 300, "interval": 0.02}


def test_pages_arrive_in_the_flow_and_the_flow_is_as_long_as_without(browser):
    idle, nothing = Client(DOWN, UP).run()
    assert nothing == {} and not any(idle.written)
    client = Client(DOWN, UP)
    client.page(7, url="one", bucket=4000)
    client.page(8, url="two", bucket=2000)
    api, got = client.run(nodes={NODE: browser}, browser=NODE)
    returned = {"outcome": "returned"}
    assert got == {7: (b"one".ljust(4000, b"."), returned), 8: (b"two".ljust(2000, b"."), returned)}
    assert len(api.written) == len(idle.written) == api.declared == idle.declared == 60 * 498
    # Each had a Browser of its own, and none is left.
    assert browser.invoked == {"page": 2} and not browser.functions


def test_what_goes_wrong_is_told_in_the_flow_and_the_flow_goes_on(browser):
    def failing(**options) -> dict:
        client = Client(DOWN, UP)
        client.page(1, url=options.pop("url", "one"))
        api, got = client.run(**options)
        assert len(api.written) == 60 * 498
        return got[1][1]

    assert failing(nodes={NODE: browser}, browser=NODE) == {"outcome": "returned"}
    assert "no such page" in failing(nodes={NODE: browser}, browser=NODE, url="raise")["text"]
    assert "without a node for Browser" in failing()["text"]
    browser.down = True
    assert "could not be reached" in failing(nodes={NODE: browser}, browser=NODE)["text"]
    assert not browser.functions


@pytest.mark.parametrize("question", [b"no JSON", [], {"method": "leave", "arguments": {}}, {"method": "page", "arguments": 1}])
def test_only_pages_can_be_asked_for(browser, question):
    client = Client(DOWN, UP)
    client.ask(1, question)
    _, got = client.run(nodes={NODE: browser}, browser=NODE)
    assert got[1][1]["outcome"] == "failed" and browser.invoked == {}


def test_the_flow_comes_first_in_the_budget_and_pages_never_take_of_it(browser, tmp_path):
    total = 60 * 498 + 60 * 300 + cover.OVERHEAD_BYTES
    Client(DOWN, UP).run(traffic=total, fetch=0)
    with pytest.raises(ValueError, match="traffic"):
        Client(DOWN, UP).run(traffic=total - 1, fetch=0)
    with pytest.raises(ValueError, match="traffic"):
        Client(DOWN, UP).run(traffic=total, fetch=1)
    # The bundle, what may be on its way, and the page: one byte less is one too few.
    needed = len(pack(tmp_path)) + pages.SPARE_BYTES + 4000
    for fetch, outcome in ((needed, "returned"), (needed - 1, "failed")):
        client = Client(DOWN, UP)
        client.page(1, url="one", bucket=4000)
        api, got = client.run(traffic=total + fetch, fetch=fetch, nodes={NODE: browser}, browser=NODE)
        assert got[1][1]["outcome"] == outcome and len(api.written) == 60 * 498


def test_more_requests_at_once_than_there_may_be_are_refused_one_by_one(browser):
    slow = {"frames": 120, "bytes": 498, "interval": 0.01}
    client = Client(slow, UP)
    for number in range(pages.REQUESTS_MAX + 2):
        client.page(number, url="long", bucket=50_000)
    api, got = client.run(nodes={NODE: browser}, browser=NODE)
    assert [end["outcome"] for _, end in got.values()] == ["failed"] * 2 and len(api.written) == 120 * 498


@pytest.mark.parametrize("frame", [b"\xff" * 300, bytes([1, 0, 0, 0, 1, 255, 255])])
def test_a_client_that_sends_no_frames_is_told_after_the_flow_and_not_by_its_end(frame):
    client = Client(DOWN, UP)
    client.waiting.append(frame)
    api = FakeApi(client._frames())
    with pytest.raises(ValueError, match="frame"):
        api.run(cover.stream, down=DOWN, up=UP, traffic=1 << 30)
    assert len(api.written) == 60 * 498


@pytest.mark.parametrize("wrong", [{}, {"frames": 1, "bytes": 64}, DOWN | {"ramp": 1}, DOWN | {"frames": -1}, DOWN | {"bytes": "498"}])
def test_a_wrong_plan_is_refused_before_a_byte_is_sent(wrong):
    for plans in ({"down": wrong, "up": UP}, {"down": DOWN, "up": wrong}):
        api = FakeApi()
        with pytest.raises(ValueError):
            api.run(cover.stream, traffic=1 << 30, **plans)
        assert not api.written and api.declared is None


def test_frames_are_sent_at_their_times_with_and_without_something_to_carry(browser):
    """The rule itself, and not the machine: no frame comes before its time, and the last one not before the end."""
    for asked in (False, True):
        client, times = Client(DOWN, UP), []
        if asked:
            client.page(1, url="long", bucket=20_000)
        api = FakeApi(client._frames(), nodes={NODE: browser})
        write = api.output.write
        api.output.write = lambda data: (times.append(time.monotonic()), write(data))[1]
        api.run(cover.stream, down=DOWN, up=UP, traffic=1 << 30, fetch=1 << 24, browser=NODE)
        assert len(times) == 60 and times[-1] - times[0] >= 59 * 0.02 - 0.005
        assert all(at - times[0] >= number * 0.02 - 0.005 for number, at in enumerate(times))
        assert all(after - before >= 0.01 - 0.001 for before, after in itertools.pairwise(times))
