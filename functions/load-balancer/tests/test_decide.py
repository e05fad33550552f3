"""When there is one more, and when one less."""

import pytest
from conftest import ROOT  # noqa: F401  (it sets the path)

from decide import Plan, Scaler, Seen, differ, weights

PLAN = Plan(least=1, most=4, connections=10, rate=1_000, high=0.8, low=0.3, up_seconds=3, down_seconds=60)


def serving(*loads: float) -> list[Seen]:
    return [Seen(f"replica-{number}", "serving", load, round(load * 10)) for number, load in enumerate(loads, 1)]


def acts(scaler: Scaler, replicas: list[Seen], seconds: int, begin: int = 0) -> list[tuple[int, str]]:
    decided = [(now, scaler.decide(float(now), replicas)) for now in range(begin, begin + seconds)]
    return [(now, one.act) for now, one in decided if one.act != "hold"]


def test_one_more_above_the_high_mark_and_not_at_once():
    assert acts(Scaler(PLAN), serving(0.9), 10)[0] == (3, "grow")
    assert acts(Scaler(PLAN), serving(0.8), 10) == []
    scaler = Scaler(PLAN)
    scaler.decide(0.0, serving(0.9))
    scaler.decide(2.0, serving(0.5))  # it went down between
    assert scaler.decide(3.0, serving(0.9)).act == "hold"


def test_as_many_more_as_the_load_needs():
    def grown(plan: Plan, *loads: float) -> int:
        scaler = Scaler(plan)
        scaler.decide(0.0, serving(*loads))
        return scaler.decide(3.0, serving(*loads)).count

    many = Plan(most=64)
    assert [grown(many, load) for load in (0.81, 1.6, 1.61, 3.2, 3.21, 8)] == [1, 1, 2, 3, 4, 9]
    assert grown(many, 2, 2) == 3, "4 / 0.8 = 5, and two are there"
    assert grown(PLAN, 2, 2) == 2, "no more than `most`"
    assert Scaler(Plan(least=3)).decide(0.0, [*serving(0.0), Seen("replica-2", "lost", silent=2)]).count == 1, "one may come back"


def test_no_more_than_the_most_and_none_for_what_those_that_are_starting_will_take():
    assert acts(Scaler(PLAN), serving(2, 2, 2, 2), 10) == []
    starting = [Seen(f"replica-{number}", "starting") for number in (3, 4)]
    assert acts(Scaler(PLAN), [*serving(1, 1), starting[0]], 10) == [], "2 / 0.8 = 2.5"
    assert "replica-3 is starting" in Scaler(PLAN).decide(0.0, [*serving(1, 1), starting[0]]).why
    # More have come meanwhile.
    assert acts(Scaler(PLAN), [*serving(1.5, 1), starting[0]], 4) == [(3, "grow")]
    assert acts(Scaler(PLAN), [*serving(1.5, 1), *starting], 10) == []


def test_none_in_the_place_of_one_that_may_come_back():
    returning = [Seen(f"replica-{number}", "lost", silent=5) for number in (2, 3, 4)]
    assert acts(Scaler(PLAN), [*serving(4), *returning], 10) == []
    assert "may come back" in Scaler(PLAN).decide(0.0, [*serving(4), *returning]).why
    assert acts(Scaler(PLAN), [*serving(4), *returning[:2]], 4) == [(3, "grow")]


def test_one_less_when_the_others_can_take_it_and_the_one_with_fewest_connections():
    scaler = Scaler(PLAN)
    decided = [scaler.decide(float(now), serving(0.2, 0.1, 0.25)) for now in range(61)]
    assert [one.act for one in decided[:-1]] == ["hold"] * 60
    assert (decided[-1].act, decided[-1].name) == ("drain", "replica-2")
    # Two are left with 0.55 in all: the one that stayed would have more than the low mark.
    assert acts(Scaler(PLAN), serving(0.25, 0.3), 200) == []
    assert acts(Scaler(PLAN), serving(0.0), 200) == []


def test_the_least_are_there_whatever_the_load():
    plan = Plan(least=2)
    assert Scaler(plan).decide(0.0, serving(0.0)).act == "grow"
    assert Scaler(plan).decide(0.0, [*serving(0.0), Seen("replica-2", "starting")]).act == "hold"
    assert Scaler(plan).decide(0.0, [*serving(0.0), Seen("replica-2", "lost", silent=60)]).act == "grow"
    assert Scaler(plan).decide(0.0, [*serving(0.0), Seen("replica-2", "lost", silent=2)]).act == "hold", "it may come back"


def test_one_that_drains_serves_on_before_another_is_installed():
    drains = Seen("replica-9", "draining", 0.1, 1)
    decided = Scaler(PLAN).decide(0.0, [drains])
    assert (decided.act, decided.name) == ("keep", "replica-9")
    scaler = Scaler(PLAN)
    found = [scaler.decide(float(now), [*serving(0.95), drains]).act for now in range(5)]
    assert found[3] == "keep"


def test_every_decision_says_why():
    for replicas in ([], serving(0.5), serving(0.9), serving(0.1, 0.1), [Seen("replica-1", "starting")]):
        assert Scaler(PLAN).decide(0.0, replicas).why


def test_weights_are_by_what_is_left_and_nobody_who_does_not_serve_has_one():
    seen = [*serving(0.0, 0.5, 3.0), Seen("replica-4", "lost"), Seen("replica-5", "draining"), Seen("replica-6", "starting")]
    assert weights(seen) == {"replica-1": 10, "replica-2": 5, "replica-3": 1}
    assert differ({"a": 10}, {"a": 10, "b": 10}) and not differ({"a": 10, "b": 10}, {"a": 9, "b": 10}) and differ({"a": 10, "b": 10}, {"a": 1, "b": 10})
    assert not differ({"a": 10}, {"a": 1}), "alone it has all, whatever its weight"


@pytest.mark.parametrize("wrong", [{"least": 0}, {"least": 5, "most": 4}, {"most": 65}, {"connections": 0}, {"rate": 0}, {"low": 0.9}, {"low": 0}])
def test_a_plan_that_cannot_be_is_refused(wrong):
    with pytest.raises(ValueError):
        Plan(**wrong)
