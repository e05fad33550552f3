"""What goes wrong while a replica is being installed leaves none behind, and none that is waited for in vain."""

import json
import threading
import time

from conftest import World

import balancer
import fleet
from bento.api import Full, Refused


def there(world: World) -> int:
    return sum(len(node.functions) for node in world.nodes.values())


def test_one_whose_site_was_on_its_way_when_its_balancer_was_killed_is_given_it_again(world, monkeypatch):
    feed, begun, gone = fleet.Fleet._feed, threading.Event(), threading.Event()

    def never(self, replica):
        begun.set()
        gone.wait(30)
        raise ConnectionError("gone with its process")

    monkeypatch.setattr(fleet.Fleet, "_feed", never)
    world.up()
    # Not before: the call that installs it may not have returned where the function is there already, and would fail here, unlike in a kill.
    world.until(begun.is_set)
    monkeypatch.setattr(fleet.Fleet, "settle", lambda self, seconds: None)
    world.stop()
    monkeypatch.setattr(fleet.Fleet, "_feed", feed)
    world.start()
    world.until(lambda: world.serving(1))
    assert list(world.states()) == ["replica-1"]
    gone.set()


def test_one_that_could_not_be_written_down_is_no_phantom(world, monkeypatch):
    keep, once = fleet.Fleet.keep, [Full("no room")]

    def failing(self):
        if once and self.replicas:
            raise once.pop()
        keep(self)

    monkeypatch.setattr(fleet.Fleet, "keep", failing)
    world.up()
    world.until(lambda: world.serving(1))
    assert any("no replica could be begun: " in event["text"] for event in world.status()["events"]) and there(world) == 1


def test_a_node_that_takes_the_site_for_ever_is_left_for_another(world, monkeypatch):
    feed, first, on = fleet.Fleet._feed, [], threading.Event()

    def slow(self, replica):
        first.append(replica.name)
        if len(first) == 1:
            on.wait(30)
        feed(self, replica)

    monkeypatch.setattr(fleet.Fleet, "_feed", slow)
    monkeypatch.setattr(fleet, "INSTALL_SECONDS", 0.5)
    world.up()
    world.until(lambda: world.serving(1))
    assert list(world.states()) == ["replica-2"]
    on.set()
    world.until(lambda: there(world) == 1)


def test_one_that_never_serves_is_given_up(world, monkeypatch):
    monkeypatch.setattr(fleet, "START_SECONDS", 3.0)
    heard = fleet.Fleet._heard
    monkeypatch.setattr(fleet.Fleet, "_heard", lambda self, replica, report: heard(self, replica, report | ({"serving": False} if replica.name == "replica-1" else {})))
    world.up()
    world.until(lambda: world.serving(1))
    assert "replica-1" not in world.states()


def test_refusals_do_not_push_out_what_is_to_be_ended(world):
    api = world.first.next()
    api.store.put("owed", json.dumps([{"name": "replica-1", "node": "dead", "invocation": "i", "shutdown": "s"}]).encode())
    one = fleet.Fleet(api, balancer.Plan(), {"nodes": [f"node{number}" for number in range(20)], "origin": None}, lambda text: None)

    class Nodes:
        def install(self, *_: object) -> None:
            raise Refused(13, "it may have 4 functions elsewhere, and has them")

    class Api:
        nodes, store = Nodes(), api.store

    one._api = Api()
    one.deploy(1)
    one.settle(5)
    assert [record["name"] for record in one.owed] == ["replica-1"] and len(one.refused) == 20
    assert (one.deploying, one.seeking, one.all()) == (0, 0, [])


def test_who_stands_by_in_the_middle_of_it_leaves_nothing_that_nobody_knows_of(world):
    real, entered, on = world.first.next(), threading.Event(), threading.Event()

    class Nodes:
        def __getattr__(self, name: str) -> object:
            return getattr(real.nodes, name)

        def install(self, *given: object) -> None:
            entered.set()
            on.wait(20)
            real.nodes.install(*given)

    class Api:
        nodes, store = Nodes(), real.store

    setup = {"nodes": list(world.nodes), "origin": "x.onion:80", "address": "f.onion"}
    one = fleet.Fleet(Api(), balancer.Plan(), setup, lambda text: None)
    one.deploy(1)
    assert entered.wait(5)
    one.stop()
    # Who leads now looks for it, and finds nothing.
    other = fleet.Fleet(real, balancer.Plan(), setup, lambda text: None)
    assert other.all()
    end = time.monotonic() + 10
    while (other.all() or other.owed) and time.monotonic() < end:
        other.tend(time.monotonic())
        time.sleep(0.02)
    assert not other.all() and not other.owed
    on.set()
    one.settle(5)
    other.stop()
    assert there(world) == 0
