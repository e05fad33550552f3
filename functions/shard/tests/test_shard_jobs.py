"""A file that is left at Shard is spread while its client is away; whatever is broken off goes on, and leaves nothing behind."""

import hashlib
import json
import random
import secrets
import threading

import pytest
from conftest import World, keep_only

import filling
import jobs
import shelves
from bento.testing import FakeNode
from jobs import PartsMissing, Underway
from shard import CutOff, TooFewShards
from shelves import NotEnoughNodes

DATA = random.Random(11).randbytes(100_000)


class Killed(BaseException):
    """The node was ended."""


def staged(world: World, data: bytes = DATA) -> str:
    drop = secrets.token_hex(16)
    assert json.loads(world.run("stage", drop=drop, size=len(data), expires=1_000, gets=None, name=None)) == {"offset": 0}
    half = len(data) // 2
    world.run("add", data[:half], drop=drop, offset=0)
    assert json.loads(world.run("add", data[half:], drop=drop, offset=half)) == {"offset": len(data)}
    world.run("staged", drop=drop, sha256=hashlib.sha256(data).hexdigest())
    return drop


def spread(world: World, drop: str, order: "dict | None" = None, **arguments: object) -> dict:
    return json.loads(world.run("spread", order or b"", drop=drop, **({"n": 5, "k": 3} | arguments)).lstrip(b"."))


def kept(world: World, drop: str) -> list[str]:
    return [name for name in world.first.kept.objects if drop in name and not name.startswith("j/")]


def kill_at(monkeypatch, step: int) -> list:
    """Ends everything at this step: a question to another node, or something written down."""
    steps: list = []
    turn = threading.Lock()

    def counted(act):
        def act_or_die(*arguments, **named):
            with turn:
                steps.append(act.__qualname__)
                if len(steps) > step:
                    raise Killed
            return act(*arguments, **named)

        return act_or_die

    monkeypatch.setattr(shelves, "patiently", counted(shelves.patiently))
    monkeypatch.setattr(jobs.Job, "_write", counted(jobs.Job._write))
    return steps


def test_a_file_that_was_left_is_spread_and_removed(world, mode):
    drop = staged(world)
    output = world.run("spread", drop=drop, n=5, k=3, mode=mode, marks=True)
    assert output.startswith(b"." * 1_000 + b"{") and kept(world, drop) == []
    recipe = json.loads(output.lstrip(b"."))
    keep_only(world, recipe, [0, 2, 4])
    assert world.run("get", recipe) == DATA
    # Asked again it says the same, and does nothing.
    assert spread(world, drop, mode=mode) == recipe and world.functions() == 5


def test_a_file_that_is_not_all_here_is_not_spread(world):
    drop = secrets.token_hex(16)
    world.run("stage", drop=drop, size=len(DATA))
    world.run("add", DATA[:-1], drop=drop)
    with pytest.raises(CutOff, match="99999 of 100000"):
        spread(world, drop)
    assert world.functions() == 0
    world.run("add", DATA[-1:], drop=drop, offset=99_999)
    assert world.run("get", spread(world, drop)) == DATA


@pytest.mark.parametrize("step", [*range(0, 12), 15, 20, 25, 30, 35, 37, 38, 39, 40])
def test_a_kill_at_any_moment_costs_nothing_but_time(world, monkeypatch, step):
    drop = staged(world)
    with monkeypatch.context() as patch:
        steps = kill_at(patch, step)
        try:
            first = spread(world, drop)
        except Killed:
            first = None
        assert len(steps) > 30 or first is None
    recipe = spread(world, drop)
    assert first in (None, recipe) and world.functions() == 5 and kept(world, drop) == []
    assert world.run("get", recipe) == DATA
    assert world.ask("check", recipe, thorough=True)["good"] == 5


def test_a_node_that_fails_while_a_file_is_spread_is_replaced(world):
    drop = staged(world)
    asked = []
    gone = []

    def leave(node):
        def before(method: str, arguments: dict) -> None:
            asked.append(method)
            if len(asked) in (11, 17) and method == "put":
                node.down = True
                gone.append(node)

        return before

    for node in world.nodes.values():
        node.before = leave(node)
    recipe = spread(world, drop)
    assert gone and not {world.nodes[entry["node"]] for entry in recipe["shards"]} & set(gone)
    assert world.ask("check", recipe, thorough=True)["good"] == 5
    assert world.functions() == 5 + len(gone), "what was on a node that is gone cannot be ended"


def test_with_too_few_nodes_nothing_is_left_but_the_file_which_can_be_spread_later(world):
    drop = staged(world)
    down = list(world.nodes.values())[:4]
    for node in down:
        node.down = True
    with pytest.raises(NotEnoughNodes, match="4 of 5 nodes took a shard"):
        spread(world, drop)
    assert world.functions() == 0
    down[0].down = False
    assert world.run("get", spread(world, drop)) == DATA


def test_one_invocation_at_a_time_does_a_job(world):
    drop = staged(world)
    inside, go_on = threading.Event(), threading.Event()

    def wait(method: str, arguments: dict) -> None:
        inside.set()
        assert go_on.wait(30)

    for node in world.nodes.values():
        node.before = wait
    told: list = []
    other = threading.Thread(target=lambda: told.append(world.first.next().run(__import__("shard").spread, drop=drop, n=5, k=3)))
    other.start()
    assert inside.wait(30)
    with pytest.raises(Underway):
        spread(world, drop)
    go_on.set()
    other.join(60)
    assert json.loads(told[0]) == spread(world, drop)


def test_nodes_to_avoid_come_last(world):
    avoid = list(world.nodes)[:3]
    recipe = spread(world, staged(world), avoid=avoid)
    assert not {entry["node"] for entry in recipe["shards"]} & set(avoid)
    assert len({entry["node"] for entry in spread(world, staged(world), n=8, avoid=avoid)["shards"]} & set(avoid)) == 3


class Left:
    """The file's parts in Dropboxes on other nodes."""

    def __init__(self, world: World, part: int = 30_000) -> None:
        self.world = world
        self.order = {"size": len(DATA), "places": [], "parts": []}
        api = world.first.next()
        for number, (address, _) in enumerate(list(world.nodes.items())[:3]):
            bundle = shelves._bundle(200_000)
            remote = api.nodes.install(address, bundle)
            self.order["places"].append({"node": address, "invocation": remote.invocation_token, "shutdown": remote.shutdown_token})
        for index, begin in enumerate(range(0, len(DATA), part)):
            self.order["parts"].append(self.part(index % 3, DATA[begin : begin + part]))

    def part(self, place: int, data: bytes) -> dict:
        at = self.order["places"][place]
        drop = secrets.token_hex(16)
        remote = self.world.first.next().nodes.function(at["node"], at["invocation"])
        sha256 = hashlib.sha256(data).hexdigest()
        for method, content, arguments in (("begin", b"", {"size": len(data)}), ("put", data, {}), ("finish", b"", {"sha256": sha256})):
            with remote.invoke(method, input=content, drop=drop, **arguments) as result:
                result.read()
        return {"place": place, "drop": drop, "size": len(data), "sha256": sha256}

    def spoil(self, index: int) -> None:
        part = self.order["parts"][index]
        place = self.order["places"][part["place"]]
        function = self.world.nodes[place["node"]].functions[place["invocation"]]
        function.store.objects[f"c/{part['drop']}"][7] ^= 1


def test_a_file_is_gathered_from_parts_elsewhere_which_are_ended_then(world, mode):
    left = Left(world)
    drop = secrets.token_hex(16)
    assert world.functions() == 3
    recipe = spread(world, drop, left.order, mode=mode, marks=True)
    assert world.functions() == 5 and kept(world, drop) == []
    assert world.run("get", recipe) == DATA
    assert spread(world, drop, left.order, mode=mode) == recipe


@pytest.mark.parametrize("step", [0, 1, 2, 4, 6, 10, 30, 38, 42, 44, 46, 47, 48, 49])
def test_gathering_goes_on_after_a_kill(world, monkeypatch, step):
    left, drop = Left(world), secrets.token_hex(16)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        patch.setattr(jobs, "patiently", shelves.patiently)
        try:
            spread(world, drop, left.order)
        except Killed:
            pass
    recipe = spread(world, drop, left.order)
    assert world.functions() == 5 and kept(world, drop) == []
    assert world.run("get", recipe) == DATA


def test_parts_that_are_missing_or_were_changed_are_named_and_may_come_again_elsewhere(world):
    left, drop = Left(world), secrets.token_hex(16)
    left.spoil(1)
    down = world.nodes[left.order["places"][2]["node"]]
    down.down = True
    with pytest.raises(PartsMissing, match="^1,2; it is not what was left there"):
        spread(world, drop, left.order, n=3, k=2)
    assert world.functions() == 3
    down.down = False
    left.order["parts"][1] = left.part(0, DATA[30_000:60_000])
    recipe = spread(world, drop, left.order, n=3, k=2)
    assert world.run("get", recipe) == DATA


@pytest.mark.parametrize("change", [{"size": 99_999}, {"size": 100_001}])
def test_parts_that_do_not_make_the_file_are_refused(world, change):
    left = Left(world)
    with pytest.raises(ValueError, match="do not make"):
        spread(world, secrets.token_hex(16), left.order | change)


@pytest.mark.parametrize("step", [0, 1, 3, 5, 8, 12, 16, 20, 24, 28])
def test_a_repair_goes_on_after_a_kill(world, monkeypatch, mode, step):
    recipe = world.put(DATA, n=5, k=2, mode=mode)
    for entry in recipe["shards"][:2]:
        world.nodes[entry["node"]].down = True
    job = secrets.token_hex(16)
    with monkeypatch.context() as patch:
        kill_at(patch, step)
        try:
            world.ask("repair", recipe, job=job)
        except Killed:
            pass
    mended = world.ask("repair", recipe, job=job)
    assert world.functions() == 5 + 2, "the two that are gone cannot be ended"
    keep_only(world, mended, range(99))
    assert world.ask("check", mended, thorough=True)["good"] == 5 and mended["next"] == 7
    assert world.ask("repair", recipe, job=job) == mended
    with pytest.raises(ValueError, match="another recipe"):
        begun = secrets.token_hex(16)
        with jobs.Job(world.first.next(), begun) as other:
            other.keep(of={"sha256": recipe["sha256"], "shelves": []})
        world.ask("repair", recipe, job=begun)


def test_a_shard_that_was_out_of_reach_is_ended_once_the_new_recipe_is_kept_and_not_before(world, monkeypatch):
    recipe = world.put(DATA, n=4, k=2)
    away = world.nodes[recipe["shards"][0]["node"]]
    away.down = True
    job = secrets.token_hex(16)
    keep = jobs.Job.keep

    def back(method: str, arguments: dict) -> None:
        if method == "finish":
            away.down = False

    def full(self, **known) -> None:
        if "recipe" in known:
            raise OSError(122, "the store is full")
        keep(self, **known)

    for node in world.nodes.values():
        node.before = back
    with monkeypatch.context() as patch:
        patch.setattr(jobs.Job, "keep", full)
        with pytest.raises(OSError, match="the store is full"):
            world.ask("repair", recipe, job=job)
    keep_only(world, recipe, [0, 1])
    assert world.run("get", recipe) == DATA
    keep_only(world, recipe, range(99))
    mended = world.ask("repair", recipe, job=job)
    assert recipe["shards"][0]["invocation"] not in away.functions and world.functions() == 4
    assert world.ask("check", mended, thorough=True)["good"] == 4


def test_a_shard_that_does_not_answer_holds_nobody_up_and_is_told(world, mode, monkeypatch):
    monkeypatch.setattr(filling, "LATE_SECONDS", 0.2)
    recipe = world.put(DATA, n=5, k=3, mode=mode)
    answer = threading.Event()
    silent = recipe["shards"][1]["node"]
    world.nodes[silent].before = lambda method, arguments: answer.wait(60)
    try:
        output = world.run("get", recipe, report=4_096)
    finally:
        answer.set()
    assert output[: len(DATA)] == DATA and len(output) == len(DATA) + 4_096
    report = json.loads(output[len(DATA) :])
    assert (report["k"], report["of"], report["good"]) == (3, 5, 4)
    assert [(one["number"], one["node"]) for one in report["lost"]] == [(1, silent)] and "did not answer within" in report["lost"][0]["why"]
    # One that answers late after all is no worse than others.
    assert json.loads(world.run("get", recipe, report=4_096)[len(DATA) :])["lost"] == []


def test_a_report_has_the_size_that_was_asked_for_whatever_is_in_it(world):
    recipe = world.put(DATA, n=6, k=2)
    world.spoil(recipe, 0, -100)  # in the last stripe
    world.nodes[recipe["shards"][1]["node"]].down = True
    for offset, size in ((0, 1_024), (50_000, 1_024), (len(DATA), 200_000)):
        output = world.run("get", recipe, offset=offset, report=size)
        assert output[: len(DATA) - offset] == DATA[offset:] and len(output) == len(DATA) - offset + size
        assert json.loads(output[len(DATA) - offset :])["good"] == 4
    for wrong in (-1, 1, 1_023, 1 << 30):
        with pytest.raises(ValueError, match="a report has"):
            world.run("get", recipe, report=wrong)


def test_what_is_gathered_is_never_more_than_there_is_room_for():
    world = World(4)
    world.nodes |= {"more.onion": FakeNode()}
    left = Left(world)
    left.order["parts"] *= 800
    left.order["size"] = sum(part["size"] for part in left.order["parts"])
    with pytest.raises(OSError, match="there is room for"):
        spread(world, secrets.token_hex(16), left.order, n=2, k=1)


def test_shards_go_into_conclaves_only_where_it_is_said_which_are_accepted(world):
    conclaves = {f"conclave{number}.onion/conclave": FakeNode(f"Conclave {number}") for number in range(6)}
    world.nodes |= conclaves
    nodes, which = list(conclaves), {"conclave": "which are accepted"}
    drop = staged(world)
    with pytest.raises(NotEnoughNodes, match="goes with a demand"):
        spread(world, drop, nodes=nodes)
    assert world.functions() == 0
    recipe = spread(world, drop, nodes=nodes, **which)
    assert {entry["node"] for entry in recipe["shards"]} < set(conclaves) and world.functions() == 5
    # The demand is the client's, and neither in the recipe nor kept by the function.
    assert "accepted" not in json.dumps(recipe) and not any(b"accepted" in bytes(data) for data in world.first.kept.objects.values())

    assert world.run("get", recipe, **which) == DATA
    with pytest.raises(TooFewShards, match="goes with a demand"):
        world.run("get", recipe)
    assert world.ask("check", recipe, thorough=True, **which)["good"] == 5 and world.ask("check", recipe)["good"] == 0
    world.nodes[recipe["shards"][0]["node"]].functions.clear()
    repaired = world.ask("repair", recipe, nodes=nodes, **which)
    assert len(repaired["shards"]) == 5 and {entry["node"] for entry in repaired["shards"]} < set(conclaves)
    assert len(world.ask("remove", repaired)["left"]) == 5 and world.functions() == 5
    assert world.ask("remove", repaired, **which) == {"ended": 5, "left": []} and world.functions() == 0


def test_parts_are_gathered_from_conclaves_and_these_ended(world):
    left, drop = Left(world), secrets.token_hex(16)
    for place in left.order["places"]:
        world.nodes[place["node"] + "/conclave"] = world.nodes.pop(place["node"])
        place["node"] += "/conclave"
    which = {"conclave": "which are accepted"}
    with pytest.raises(PartsMissing, match="goes with a demand"):
        spread(world, drop, left.order, n=3, k=2)
    recipe = spread(world, drop, left.order, n=3, k=2, **which)
    assert world.run("get", recipe, **which) == DATA and world.functions() == 3
