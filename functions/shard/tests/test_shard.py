"""Any k of n shards rebuild the file; what is lost or changed is told; what fails leaves nothing behind."""

import hashlib
import itertools
import json
import random

import pytest
from conftest import ROOT, World, keep_only

import shard
import shelves
from bento.api import Unreachable
from bento.testing.answers import Failure
from shard import BadRecipe, CutOff, NotEnoughNodes, TooFewShards

DATA = random.Random(7).randbytes(100_000)


def test_any_k_of_n_rebuild_the_file(world, mode):
    recipe = world.put(DATA, n=5, k=3, mode=mode)
    assert len({entry["node"] for entry in recipe["shards"]}) == 5 and world.functions() == 5
    for numbers in itertools.combinations(range(5), 3):
        keep_only(world, recipe, numbers)
        assert world.run("get", recipe) == DATA, numbers
    for numbers in itertools.combinations(range(5), 2):
        keep_only(world, recipe, numbers)
        with pytest.raises(TooFewShards, match="3 are needed"):
            world.run("get", recipe)


@pytest.mark.parametrize("size", [0, 1, 2, 29_999, 30_000, 30_001, 60_000, 90_001])
@pytest.mark.parametrize(("n", "k"), [(1, 1), (3, 1), (4, 3), (8, 8)])
def test_files_of_all_sizes_come_back(world, mode, size, n, k):
    data = DATA[:size]
    recipe = world.put(data, n=n, k=k, mode=mode)
    keep_only(world, recipe, random.Random(size).sample(range(n), k))
    assert world.run("get", recipe) == data
    assert recipe["sha256"] == hashlib.sha256(data).hexdigest()


def test_shards_are_equal_in_size_and_tell_nothing_of_the_file(world, mode):
    text = b"the same words again and again, " * 3_000
    recipe = world.put(text, n=6, k=3, mode=mode)
    contents = []
    for number in range(6):
        _, function = world.shelf(recipe, number)
        contents.append(bytes(next(data for name, data in function.store.objects.items() if name.startswith("c/"))))
        everything = b"".join(bytes(data) for data in function.store.objects.values())
        assert recipe["key"].encode() not in everything and b"same words" not in everything
    assert len({len(content) for content in contents}) == 1
    # Sealed under keys of their own: no piece is like another.
    assert len({content[at : at + 16] for content in contents for at in range(0, len(content) - 16, 16)}) == sum(len(range(0, len(content) - 16, 16)) for content in contents)


def test_a_corrupt_shard_is_named_and_replaced_by_another(world, mode):
    recipe = world.put(DATA, n=5, k=3, mode=mode)
    for at in (5, 25_000):  # in the first stripe, and in a later one
        world.spoil(recipe, 1, at)
        assert world.run("get", recipe) == DATA
        node = recipe["shards"][1]["node"]
        assert f"shard 1 at {node}: corrupt: it is not what was stored" in world.logs
        assert not any("shard 0" in line for line in world.logs)
    world.spoil(recipe, 3)
    assert world.run("get", recipe) == DATA
    world.spoil(recipe, 4)
    with pytest.raises(TooFewShards, match="2 shards are good"):
        world.run("get", recipe)


def test_shards_cannot_be_swapped(world):
    recipe = world.put(DATA, n=4, k=2)
    for key in ("node", "invocation", "shutdown", "drop"):
        recipe["shards"][0][key], recipe["shards"][1][key] = recipe["shards"][1][key], recipe["shards"][0][key]
    assert world.run("get", recipe) == DATA
    assert sum("corrupt" in line for line in world.logs) == 2


def test_a_node_that_goes_in_the_middle_of_a_download_is_replaced(world, mode):
    recipe = world.put(DATA, n=5, k=3, mode=mode)
    entry = recipe["shards"][0]
    node = world.nodes[entry["node"]]
    asked = []

    def leave(method: str, arguments: dict) -> None:
        asked.append(method)
        if len(asked) == 2:
            node.down = True

    node.before = leave
    assert world.run("get", recipe) == DATA
    assert any(line.startswith(f"shard 0 at {entry['node']}: missing: ") for line in world.logs)


def test_a_connection_that_breaks_once_is_made_again(world):
    def flaky(method: str, arguments: dict) -> None:
        if random.Random(len(hits)).random() < 0.3 and hits.append(method) is None:
            raise Unreachable(113, "the circuit broke")
        hits.append(None)

    hits: list = []
    for node in world.nodes.values():
        node.before = flaky
    shelves_tries, shelves.TRIES = shelves.TRIES, 20
    try:
        recipe = world.put(DATA, n=5, k=3)
        assert world.run("get", recipe) == DATA and sum(hit is not None for hit in hits) > 5
    finally:
        shelves.TRIES = shelves_tries


def test_a_download_can_be_resumed(world, mode):
    recipe = world.put(DATA, n=4, k=2, mode=mode)
    for offset in (0, 1, 19_999, 20_000, 50_000, len(DATA) - 1, len(DATA)):
        assert world.run("get", recipe, offset=offset) == DATA[offset:]
    with pytest.raises(ValueError):
        world.run("get", recipe, offset=len(DATA) + 1)


def test_lost_shards_are_made_up_elsewhere(world, mode):
    recipe = world.put(DATA, n=5, k=2, mode=mode)
    gone = [recipe["shards"][0]["node"], recipe["shards"][4]["node"]]
    for node in gone:
        world.nodes[node].down = True
    world.spoil(recipe, 2)
    mended = world.ask("repair", recipe, thorough=True)
    assert len(mended["shards"]) == 5 == len({entry["node"] for entry in mended["shards"]})
    assert not {entry["node"] for entry in mended["shards"]} & set(gone)
    assert {1, 3} < {entry["number"] for entry in mended["shards"]} and mended["next"] == 8
    # Any two of the new five, old and new ones together.
    for numbers in itertools.combinations([entry["number"] for entry in mended["shards"]], 2):
        keep_only(world, mended, numbers)
        assert world.run("get", mended) == DATA, numbers
    keep_only(world, mended, range(99))
    assert world.ask("check", mended, thorough=True)["good"] == 5
    assert world.ask("repair", mended) == mended  # nothing to do


def test_a_repair_that_meets_another_bad_shard_mends_it_as_well(world, mode):
    recipe = world.put(DATA, n=5, k=3, mode=mode)
    world.nodes[recipe["shards"][0]["node"]].down = True
    world.spoil(recipe, 1, 20_000)  # its node does not know
    assert world.ask("check", recipe)["good"] == 4
    mended = world.ask("repair", recipe)
    keep_only(world, mended, range(99))
    assert world.ask("check", mended, thorough=True)["good"] == 5
    assert {0, 1} & {entry["number"] for entry in mended["shards"]} == set()


def test_more_shards_can_be_made_later(world, mode):
    recipe = world.put(DATA, n=3, k=2, mode=mode)
    grown = world.ask("repair", recipe, more=3)
    assert [entry["number"] for entry in grown["shards"]] == [0, 1, 2, 3, 4, 5] and grown["n"] == 6
    keep_only(world, grown, [4, 5])
    assert world.run("get", grown) == DATA


def test_a_lost_shard_that_comes_back_is_still_good_with_the_old_recipe(world):
    recipe = world.put(DATA, n=3, k=2)
    node = world.nodes[recipe["shards"][0]["node"]]
    node.down = True
    world.ask("repair", recipe)
    node.down = False
    keep_only(world, recipe, [0, 1])
    assert world.run("get", recipe) == DATA


def test_too_few_nodes_leave_nothing_behind(world):
    for address in list(world.nodes)[:5]:
        world.nodes[address].down = True
    with pytest.raises(NotEnoughNodes, match="3 of 4 nodes took a shard, of 8 that were there"):
        world.put(DATA, n=4, k=2)
    assert world.functions() == 0
    recipe = world.put(DATA, n=3, k=2)
    assert world.functions() == 3
    with pytest.raises(NotEnoughNodes):
        world.ask("repair", recipe, more=1)
    assert world.functions() == 3 and world.run("get", recipe) == DATA
    for node in world.nodes.values():
        node.functions_max = 0
    with pytest.raises(NotEnoughNodes, match="this node takes 0 functions"):
        world.put(DATA, n=1, k=1)


@pytest.mark.parametrize("when", range(0, 24, 3))
def test_a_node_that_fails_in_the_middle_of_an_upload_leaves_nothing_behind(world, when):
    asked = []
    failed = []

    def leave(node):
        def before(method: str, arguments: dict) -> None:
            asked.append(method)
            if len(asked) == when + 1:
                failed.append(node)
                node.down = True

        return before

    for node in world.nodes.values():
        node.before = leave(node)
    try:
        recipe = world.put(DATA, n=4, k=2)
    except NotEnoughNodes as error:
        assert "could not be reached" in str(error)
    else:
        # One that left while it was being set up was replaced.
        assert "begin" in asked[when] and world.functions() <= 5
        for node in world.nodes.values():
            node.before = None
        assert world.run("get", recipe) == DATA
        return
    # The one that is gone cannot be told; all others hold nothing.
    assert failed and [node for node in world.nodes.values() if node.functions and node not in failed] == []


def test_an_input_that_is_not_what_was_announced_leaves_nothing_behind(world):
    for size in (len(DATA) + 1, len(DATA) - 1):
        with pytest.raises(CutOff, match="announced"):
            world.run("put", DATA, n=3, k=2, size=size)
    assert world.functions() == 0


def test_a_repair_that_fails_leaves_the_old_recipe_good(world):
    recipe = world.put(DATA, n=4, k=2)
    world.nodes[recipe["shards"][0]["node"]].down = True
    taken = {entry["node"] for entry in recipe["shards"]}
    asked = []

    def fail(method: str, arguments: dict) -> None:
        asked.append(method)
        if method == "finish":
            raise ValueError("no")

    for address, node in world.nodes.items():
        if address not in taken:
            node.before = fail
    with pytest.raises(NotEnoughNodes, match="ValueError: no"):
        world.ask("repair", recipe)
    assert "put" in asked and world.functions() == 4
    assert world.run("get", recipe) == DATA


def test_a_repair_that_fails_in_a_later_round_has_ended_no_shard_of_the_old_recipe(world):
    recipe = world.put(DATA, n=5, k=3)
    away = world.nodes[recipe["shards"][0]["node"]]
    away.down = True
    world.spoil(recipe, 1, 20_000)  # its node does not know
    free, *_ = [node for address, node in world.nodes.items() if address not in {entry["node"] for entry in recipe["shards"]}]
    for node in world.nodes.values():
        node.functions_max = node.functions_max if node is free else 0
    back = []

    def finished(method: str, arguments: dict) -> None:
        if method == "finish":
            back.append(method)
            away.down = False

    free.before = finished
    with pytest.raises(NotEnoughNodes):
        world.ask("repair", recipe)
    assert back and world.functions() == 5
    keep_only(world, recipe, [0, 2, 3])
    assert world.run("get", recipe) == DATA


def test_nodes_of_one_operator_are_taken_last_and_of_one_relay_once(world):
    known = [{"address": f"node{number}.onion", "operator": "one" if number < 4 else f"of {number}", "relay": f"R{number}"} for number in range(7)]
    known.append({"address": "node7.onion", "relay": "R6"})
    for _ in range(20):
        order = shelves.candidates(world.first, known)
        assert len(order) == 7 and sum(order.index(f"node{number}.onion") < 4 for number in range(4)) == 1
        assert len({"node6.onion", "node7.onion"} & set(order)) == 1
    recipe = world.put(DATA, n=4, k=2, nodes=known)
    assert sum(int(entry["node"][4]) < 4 for entry in recipe["shards"]) == 1
    assert world.run("get", recipe) == DATA
    order = shelves.candidates(world.first, None, avoid=["node3.onion"])
    assert sorted(order) == sorted(world.nodes) and order[-1] == "node3.onion"
    with pytest.raises(NotEnoughNodes):
        world.put(DATA, n=2, k=1, nodes=["node0.onion", "node0.onion"])


def test_all_shards_are_ended(world):
    recipe = world.put(DATA, n=4, k=2)
    world.nodes[recipe["shards"][1]["node"]].down = True
    told = world.ask("remove", recipe)
    assert told["ended"] == 3 and [left["node"] for left in told["left"]] == [recipe["shards"][1]["node"]]
    assert world.functions() == 1
    assert world.ask("remove", recipe)["ended"] == 3  # again


def test_only_a_node_that_knows_no_such_function_has_ended_its_shard(world):
    recipe = world.put(DATA, n=3, k=2)
    gone, full = (world.shelf(recipe, number)[0] for number in (0, 1))
    gone.functions.clear()

    def refuses(shutdown: str) -> None:
        # Whatever the words are, and also where they are the same.
        raise Failure("refused", "no function answers to this token", "busy")

    full.end = refuses
    told = world.ask("remove", recipe)
    assert told["ended"] == 2 and [left["node"] for left in told["left"]] == [recipe["shards"][1]["node"]]


def test_what_is_no_recipe_is_refused(world):
    recipe = world.put(DATA, n=3, k=2)
    wrong = [b"", b"{}", b"[]", b"\xff", b"null", b"{" * 5_000, b" " * 300_000]
    for key, value in (("bento_shard", 2), ("key", "short"), ("mode", "raid"), ("k", 0), ("k", "2"), ("stripe", 0), ("stripe", 12_345), ("shards", {}), ("shards", [{}]), ("size", -1)):
        wrong.append(json.dumps(recipe | {key: value}).encode())
    wrong.append(json.dumps(recipe | {"shards": recipe["shards"] + recipe["shards"][:1]}).encode())
    for text in wrong:
        with pytest.raises(BadRecipe):
            world.run("get", text)
    another = world.put(DATA[::-1], n=3, k=2)
    with pytest.raises(TooFewShards):
        world.run("get", recipe | {"key": another["key"]})
    with pytest.raises(BadRecipe, match="not the one"):
        world.run("get", recipe | {"sha256": another["sha256"]})


def test_what_cannot_be_is_refused_before_anything_is_installed(world):
    for wrong in ({"n": 2, "k": 3}, {"n": 0, "k": 0}, {"n": 129, "k": 2}, {"n": True, "k": 1}, {"n": 3, "k": 2, "mode": "raid"}):
        with pytest.raises(ValueError):
            world.put(DATA, **wrong)
    with pytest.raises(ValueError, match="granted|manifest has"):
        world.run("put", b"", n=2, k=1, size=65 << 20)
    assert world.functions() == 0


def test_its_dropbox_is_the_dropbox():
    ours, theirs = (ROOT / "functions" / place / "dropbox.py" for place in ("shard/dropbox", "dropbox"))
    assert ours.read_bytes() == theirs.read_bytes(), f"copy {theirs} to {ours}"


def test_a_recipe_is_small(world):
    recipe = world.put(DATA, n=8, k=5)
    assert len(json.dumps(recipe)) < 500 + 8 * 420


def test_keys_are_derived_as_rfc_5869_has_it():
    from sealing import _derived

    from cryptography.hazmat.primitives.hashes import SHA256
    from cryptography.hazmat.primitives.kdf.hkdf import HKDF

    for key, info in ((bytes(32), b""), (bytes(range(32)), b"bento shard 1 7")):
        assert _derived(key, info) == HKDF(algorithm=SHA256(), length=32, salt=None, info=info).derive(key)
