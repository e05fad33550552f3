"""What is sent when: exactly as planned, without drift, and late only as the network makes it."""

import itertools
import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

import schedule
from schedule import Plan, paced

plans = st.builds(
    lambda frames, interval, part: Plan(frames, 512, interval, part * frames * interval),
    st.integers(1, 500), st.floats(0.005, 60), st.floats(0, 1),
)  # fmt: skip


class Clock:
    """Time that passes only while something sleeps or works."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now

    def sleep(self, seconds: float) -> None:
        assert seconds > 0
        self.now += seconds


def sent(times, shortest, work) -> list[float]:
    """When each was sent, where sending the n-th takes `work(n)` seconds."""
    clock, at = Clock(), []
    begin = clock()
    for number, _ in enumerate(paced(times, shortest, clock, clock.sleep)):
        at.append(clock() - begin)
        clock.now += work(number)
    return at


@given(plans)
def test_a_plan_rises_and_falls_and_ends_when_it_says(plan):
    times = [plan.due(number) for number in range(plan.frames + 1)]
    assert times[0] == pytest.approx(0, abs=1e-6) and times[-1] == pytest.approx(plan.seconds)
    gaps = [after - before for before, after in itertools.pairwise(times)]
    # Never faster than the rate, at any place of either ramp.
    assert all(gap >= plan.interval * (1 - 1e-6) - 1e-9 for gap in gaps)
    # The fall is the rise read backwards.
    assert all(rise == pytest.approx(fall, rel=1e-6, abs=1e-6) for rise, fall in zip(gaps, reversed(gaps)))


def test_between_the_ramps_the_rate_is_exact():
    plan = Plan(1000, 498, 0.1, 10.0)
    times = list(plan.times())
    middle = [time for time in times if 10 <= time <= plan.seconds - 10]
    assert len(middle) >= 899
    assert all(after - before == pytest.approx(0.1) for before, after in itertools.pairwise(middle))
    first, second = sum(time < 5 for time in times), sum(5 <= time < 10 for time in times)
    assert (first, second) == (13, 37)


@pytest.mark.parametrize(
    "wrong",
    [
        {"frames": 0}, {"frames": True}, {"frames": 1.5}, {"bytes": 63}, {"bytes": 65_537}, {"interval": 0.004}, {"interval": 61},
        {"interval": math.nan}, {"ramp": -1}, {"ramp": 10.01}, {"ramp": math.nan}, {"frames": 10**9},
    ],
)  # fmt: skip
def test_a_plan_that_cannot_be_kept_is_none(wrong):
    right = {"frames": 100, "bytes": 512, "interval": 0.1, "ramp": 10}
    Plan(**right)
    with pytest.raises(ValueError):
        Plan(**right | wrong)


def test_lateness_does_not_add_up():
    rng = random.Random(7)
    at = sent(Plan(2000, 512, 0.1).times(), 0.05, lambda _: rng.uniform(0, 0.049))
    assert all(time == pytest.approx(number * 0.1) for number, time in enumerate(at))


def test_after_a_standstill_frames_come_at_twice_the_rate_until_all_is_made_up_for():
    at = sent(Plan(200, 512, 0.1).times(), 0.05, lambda number: 2.0 if number == 50 else 0.0)
    assert at[50] == pytest.approx(5.0) and at[51] == pytest.approx(7.05)
    gaps = [after - before for before, after in itertools.pairwise(at)]
    assert min(gaps) == pytest.approx(0.05)
    assert at[-1] == pytest.approx(19.9)


def test_a_long_standstill_moves_the_schedule():
    at = sent(Plan(400, 512, 0.1).times(), 0.05, lambda number: 60.0 if number == 50 else 0.0)
    # Sixty seconds late, of which five are made up for.
    assert at[-1] == pytest.approx(39.9 + 55.05, abs=0.1)
    assert min(after - before for before, after in itertools.pairwise(at)) == pytest.approx(0.05)


def test_poisson_times_have_the_rate_and_no_pattern():
    rng = random.Random(11)
    times = list(schedule.poisson(50.0, 200.0, rng.random))
    assert times == sorted(times) and times[-1] < 200
    # Of a Poisson number with mean 10,000 the deviation is 100.
    assert abs(len(times) - 10_000) < 500
    gaps = [after - before for before, after in itertools.pairwise(times)]
    mean = sum(gaps) / len(gaps)
    deviation = math.sqrt(sum((gap - mean) ** 2 for gap in gaps) / len(gaps))
    assert deviation == pytest.approx(mean, rel=0.1)
