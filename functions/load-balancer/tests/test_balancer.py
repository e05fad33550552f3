"""Replicas come and go with the load, none with a connection is ended, and one that dies is out at once."""

import contextlib
import socket
import threading
import time

import pytest
from conftest import SITE, World

import balancer
import fleet
from balancer import AlreadyRunning, NotSetUp
from bento.testing.answers import Failure
from bento.testing.nodes import FakeNode


def get(world: World, address: str, target: str = "/index.html", close: bool = True):
    stream = world.tor.visit(address, 80)
    stream.settimeout(10)
    connection = "close" if close else "keep-alive"
    stream.sendall(f"GET {target} HTTP/1.1\r\nHost: {address}\r\nConnection: {connection}\r\n\r\n".encode())
    return stream


def body(stream) -> bytes:
    data = b""
    while piece := stream.recv(65_536):
        data += piece
    stream.close()
    return data.partition(b"\r\n\r\n")[2]


def counts(world: World, key: str = "connections") -> dict[str, int]:
    return {one["name"]: one[key] for one in world.status()["replicas"]}


def test_the_site_is_reached_at_the_fronts_address_and_the_key_stays_here(world):
    made = world.up(least=2)
    world.until(lambda: world.serving(2))
    assert {body(get(world, made["address"])) for _ in range(4)} == {b"<h1>Hello</h1>"}
    world.until(lambda: counts(world, "accepted") == {"replica-1": 2, "replica-2": 2})
    for name in ("replica-1", "replica-2"):
        function = world.function(name)
        held = b"".join(bytes(data) for data in function.store.objects.values()) + b"".join(path.read_bytes() for path in function.directory.iterdir() if path.is_file())
        assert made["key"].encode() not in held and made["key"][11:40].encode() not in held
        assert function.manifest["needs"]["memory"] == "128 MiB" and function.manifest["needs"]["onion_services"] == 1
    # Another front's clients are not taken.
    other = world.first.next().tor.front(None, [(world.status()["replicas"][0]["address"], 1)])
    with pytest.raises(ConnectionRefusedError):
        world.tor.visit(other["address"], 80)


def test_load_brings_one_more_and_quiet_takes_it_away_but_none_that_has_a_connection(world):
    made = world.up(connections=2, up_seconds=0.2, down_seconds=0.3, most=2)
    world.until(lambda: world.serving(1))
    held = [get(world, made["address"], close=False) for _ in range(2)]
    world.until(lambda: world.serving(2))
    assert any("grow" in event["text"] and "above 80%" in event["text"] for event in world.status()["events"])
    # One connection is left, at the first: the second replica goes, and not the first.
    world.until(lambda: counts(world) == {"replica-1": 2, "replica-2": 0})
    held.pop().close()
    held.append(get(world, made["address"], close=False))
    world.until(lambda: counts(world) == {"replica-1": 1, "replica-2": 1})
    for stream in held:
        assert stream.recv(100)
    # Both have a connection, so whichever drains does not end.
    balancer._current.fleet.drain("replica-2")
    world.until(lambda: made["address"] in world.tor.fronts and len(world.tor.fronts[made["address"]]) == 1)
    draining = world.function("replica-2")
    with pytest.raises(AssertionError):
        world_deadline(world, lambda: "replica-2" not in world.states(), 3.5)
    assert draining.session.services, "it serves on"
    for stream in held:
        stream.close()
    world.until(lambda: len(world.states()) == 1)
    assert sum(len(node.functions) for node in world.nodes.values()) == 1


def test_a_burst_brings_several_at_once_each_on_a_node_of_its_own(world):
    made = world.up(connections=2, up_seconds=0.2, down_seconds=60, most=4)
    world.until(lambda: world.serving(1))
    held = [get(world, made["address"], close=False) for _ in range(6)]
    world.until(lambda: world.serving(4))
    grown = [event["text"] for event in world.status()["events"] if event["text"].startswith("grow")]
    assert grown[0].startswith("grow by 1: 0 of at least 1") and grown[1].startswith("grow by 3: mean load 300%") and len(grown) == 2
    assert len({one["node"] for one in world.status()["replicas"]}) == 4
    for stream in held:
        stream.close()


def test_a_replica_whose_site_takes_long_to_get_there_is_waited_for(world, monkeypatch):
    monkeypatch.setattr(fleet, "GONE_SECONDS", 0.2)
    there, feed = threading.Event(), fleet.Fleet._feed
    monkeypatch.setattr(fleet.Fleet, "_feed", lambda self, replica: (there.wait(10), feed(self, replica)))
    world.up()
    world.until(lambda: any(one["silent"] > 0.6 for one in world.status()["replicas"]))
    there.set()
    monkeypatch.setattr(fleet, "GONE_SECONDS", 4.0)
    world.until(lambda: world.serving(1))
    assert list(world.states()) == ["replica-1"]


def world_deadline(world: World, told, seconds: float) -> None:
    import conftest

    before, conftest.DEADLINE = conftest.DEADLINE, seconds
    try:
        world.until(told)
    finally:
        conftest.DEADLINE = before


def test_one_whose_process_is_killed_is_out_and_back_under_the_same_address(world):
    made = world.up(least=2)
    world.until(lambda: world.serving(2))
    addresses = {one["address"] for one in world.status()["replicas"]}
    world.function("replica-1").kill()
    world.until(lambda: any("replica-1 is lost" in event["text"] for event in world.status()["events"]))
    world.until(lambda: world.serving(2))
    assert {one["address"] for one in world.status()["replicas"]} == addresses
    assert {body(get(world, made["address"])) for _ in range(4)} == {b"<h1>Hello</h1>"}


def test_one_whose_node_is_gone_is_replaced_elsewhere(world):
    made = world.up(least=2)
    world.until(lambda: world.serving(2))
    record = balancer._current.fleet.replicas["replica-1"].record
    node = world.nodes[record["node"]]
    node.down = True
    node.functions[record["invocation"]].kill()
    world.until(lambda: len(world.tor.fronts[made["address"]]) == 1)
    world.until(lambda: world.serving(2) and "replica-1" not in world.states())
    assert all(one["node"] != record["node"] for one in world.status()["replicas"])


def test_nodes_that_refuse_are_passed_over_and_told(world):
    for node in list(world.nodes.values())[:5]:
        node.functions_max = 0
    world.up()
    world.until(lambda: world.serving(1))
    assert world.status()["replicas"][0]["node"] == "node5.onion"
    told = world.status()["refused"]
    assert all("takes 0 functions" in why for why in told.values())


def test_a_new_start_finds_its_replicas_and_the_end_leaves_none(world):
    made = world.up(least=2)
    world.until(lambda: world.serving(2))
    before = {one["name"]: one["address"] for one in world.status()["replicas"]}
    world.stop()
    assert world.status() == {"running": False, "address": made["address"], "replicas": []}
    world.start()
    world.until(lambda: world.serving(2))
    assert {one["name"]: one["address"] for one in world.status()["replicas"]} == before
    assert world.ask("end") == {"left": []}
    assert not any(node.functions for node in world.nodes.values())


def test_what_cannot_be_ended_is_named_within_a_bound_and_the_others_are_ended(world):
    world.up(least=3)
    world.until(lambda: world.serving(3))
    record = balancer._current.fleet.replicas["replica-2"].record
    world.nodes[record["node"]].down = True
    began = time.monotonic()
    assert world.ask("end") == {"left": ["replica-2"]}
    assert time.monotonic() - began < 10
    assert [node.name for node in world.nodes.values() if node.functions] == [world.nodes[record["node"]].name]
    # Its node is back: nothing is left.
    world.nodes[record["node"]].down = False
    assert world.ask("end") == {"left": []}
    assert not any(node.functions for node in world.nodes.values())


def test_what_is_refused_for_now_is_no_end_of_a_replica(world, monkeypatch):
    world.up(least=1)
    world.until(lambda: world.serving(1))
    replica, invoke, refused = balancer._current.fleet.replicas["replica-1"], FakeNode.invoke, []

    def busy(self, token, method, arguments, stream):
        if method == "watch" and len(refused) < 2:
            refused.append(method)
            return {"outcome": "refused", "code": "busy", "text": "too many at once"}
        return invoke(self, token, method, arguments, stream)

    monkeypatch.setattr(FakeNode, "invoke", busy)
    # Its reports break off, and for a moment there are none.
    for stream in world.function("replica-1").streams:
        with contextlib.suppress(OSError):
            stream.shutdown(socket.SHUT_RDWR)
    world.until(lambda: len(refused) == 2 and world.serving(1))
    assert list(world.states()) == ["replica-1"] and not replica.gone

    # So is an end that is refused for now: it is named, and tried again.
    end, stopping = FakeNode.end, [True]

    def ended(self, shutdown):
        if stopping:
            raise Failure("refused", "the node is stopping", "stopping")
        end(self, shutdown)

    monkeypatch.setattr(FakeNode, "end", ended)
    assert world.ask("end") == {"left": ["replica-1"]}
    stopping.clear()
    assert world.ask("end") == {"left": []}
    assert not any(node.functions for node in world.nodes.values())


def test_what_is_left_at_a_node_that_comes_back_is_ended(world):
    world.up(least=2)
    world.until(lambda: world.serving(2))
    record = balancer._current.fleet.replicas["replica-1"].record
    node = world.nodes[record["node"]]
    node.down = True
    node.functions[record["invocation"]].kill()
    world.until(lambda: world.serving(2) and "replica-1" not in world.states())
    assert record["invocation"] in node.functions
    node.down = False
    world.until(lambda: record["invocation"] not in node.functions)
    world.until(lambda: sum(len(node.functions) for node in world.nodes.values()) == 2)


def test_a_key_that_is_there_already_is_kept_and_a_second_run_is_refused(world):
    first = world.ask("setup", b'{"key": null}\n' + SITE)
    again = world.up(key=first["key"])
    assert again == first
    with pytest.raises(AlreadyRunning):
        world.ask("run")
    with pytest.raises(AlreadyRunning):
        world.ask("setup", b'{"key": null}\n' + SITE)


def test_without_anything_to_serve_nothing_begins(world):
    with pytest.raises(NotSetUp):
        world.ask("run")
    with pytest.raises(NotSetUp):
        world.ask("setup", b'{"key": null}\n')
    with pytest.raises(ValueError):
        world.ask("setup", b'{"key": null}\n' + SITE, plan={"least": 0})


def test_connections_are_forwarded_to_an_origin(world):
    origin = world.first.next()
    service = origin.tor.onion_service(80)
    made = world.ask("setup", b'{"key": null}\n', origin=f"{service.address}:80")
    world.start()
    world.until(lambda: world.serving(1))
    client = world.tor.visit(made["address"], 80)
    client.settimeout(10)
    client.sendall(b"a question")
    stream, _ = service.accept(timeout=10)
    assert stream.recv(100) == b"a question"
    stream.sendall(b"an answer")
    stream.shutdown(1)
    assert client.recv(100) == b"an answer" and client.recv(100) == b""
    stream.close()
    client.close()
    world.until(lambda: world.status()["replicas"][0]["bytes"] == 19)
    world.until(lambda: world.status()["replicas"][0]["connections"] == 0)


def test_a_front_that_is_not_published_is_told_and_tried_again(world):
    world.up()
    world.until(lambda: world.serving(1))
    world.tor.down = True
    balancer._current._again = 0.0
    world.until(lambda: any("the front is not published" in event["text"] for event in world.status()["events"]))
    world.tor.down = False
    at = world.status()["front"]["at"]
    world.until(lambda: world.status()["front"]["at"] > at)
