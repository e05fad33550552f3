"""Two load balancers of one front: one leads, the other takes over when it is gone, and whoever comes back stands by."""

import json
import secrets
import time

import pytest
from conftest import DEADLINE, HERE, SITE

from bento.testing import FakeApi, FakeNode, FakeTor

import peer
from peer import Lead, decide

LATE = 100.0


def test_the_first_leads_and_the_other_follows():
    assert decide(Lead(1, True), True, Lead(0, False), 0) == Lead(1, True)
    assert decide(Lead(0, False), False, Lead(1, True), 0) == Lead(1, False)
    # Nobody does: the first.
    assert decide(Lead(3, False), True, Lead(5, False), 0) == Lead(6, True)
    assert decide(Lead(5, False), False, Lead(3, False), 0) == Lead(5, False)


def test_silence_and_nothing_else_makes_the_other_lead_in_a_later_term():
    for heard in (Lead(4, True), Lead(4, False), None):
        assert decide(Lead(4, False), False, heard, LATE) == Lead(5, True)
    assert decide(Lead(4, False), False, Lead(4, True), peer.TAKEOVER_SECONDS - 0.1) == Lead(4, False)
    assert decide(Lead(4, False), False, None, peer.TAKEOVER_SECONDS - 0.1) == Lead(4, False), "it may only just have begun"
    assert decide(Lead(4, True), True, None, LATE) == Lead(4, True), "it needs nobody to lead on"


@pytest.mark.parametrize("one,other", [(1, 2), (7, 3), (4, 4)])
def test_of_two_that_lead_exactly_one_gives_way(one, other):
    first, second = Lead(one, True), Lead(other, True)
    after = decide(first, True, second, 0), decide(second, False, first, 0)
    assert [lead.leads for lead in after].count(True) == 1
    assert after[0].leads == (one >= other)
    assert min(lead.term for lead in after) >= min(one, other) and max(lead.term for lead in after) == max(one, other)


class Pair:
    """Two load balancers, each on a node of its own, and four nodes for replicas."""

    def __init__(self) -> None:
        self.tor = FakeTor()
        self.nodes = {f"node{number}.onion": FakeNode(f"Node {number}", tor=self.tor) for number in range(4)}
        self.hosts = {f"host{number}.onion": FakeNode(f"Host {number}", tor=self.tor) for number in range(2)}
        everywhere = self.nodes | self.hosts
        for host in self.hosts.values():
            host.nodes = everywhere
        self.person = FakeApi.from_manifest(HERE.parent / "manifest.toml", nodes=everywhere, tor=self.tor)
        self.remotes = [self.person.nodes.install(address, HERE.parent) for address in self.hosts]

    def up(self, **plan: object) -> dict:
        key = None
        for number, remote in enumerate(self.remotes):
            other = self.remotes[1 - number]
            where = {"node": other.node, "invocation": other.invocation_token}
            data = json.dumps({"key": key}).encode() + b"\n" + SITE
            with remote.invoke("setup", input=data, plan=plan, nodes=list(self.nodes), peer=where, first=number == 0) as result:
                made = json.loads(result.read())
            key = made["key"]
        for number in range(2):
            self.run(number)
        return made

    def run(self, number: int) -> None:
        with self.remotes[number].invoke("run", detach=secrets.token_hex(16)) as result:
            result.read()

    def ask(self, number: int, method: str, **arguments: object) -> dict:
        with self.remotes[number].invoke(method, **arguments) as result:
            return json.loads(result.read().splitlines()[-1])

    def status(self, number: int) -> dict:
        return self.ask(number, "status")

    def leads(self, number: int) -> bool:
        told = self.status(number)
        return told["running"] and told["leads"]

    def serving(self, number: int) -> list[str]:
        return sorted(one["name"] for one in self.status(number)["replicas"] if one["state"] == "serving")

    def function(self, number: int):
        return next(iter(self.hosts[f"host{number}.onion"].functions.values()))

    def die(self, number: int) -> None:
        """As `kill -9` of its node."""
        function = self.function(number)
        self.hosts[f"host{number}.onion"].down = True
        current = function.module._current
        current.stop.set()
        self.until(lambda: function.module._current is None)
        function.kill()

    def until(self, told: object) -> None:
        end = time.monotonic() + DEADLINE
        while not told():
            assert time.monotonic() < end
            time.sleep(0.02)

    def replicas(self) -> int:
        return sum(len(node.functions) for node in self.nodes.values())


@pytest.fixture
def pair():
    made = Pair()
    yield made
    for host in made.hosts.values():
        for function in host.functions.values():
            if function.module._current is not None:
                function.module._current.stop.set()


def test_the_standby_goes_on_with_the_same_replicas_and_who_comes_back_stands_by(pair):
    made = pair.up(least=2)
    pair.until(lambda: len(pair.serving(0)) == 2)
    assert pair.leads(0) and not pair.leads(1) and pair.status(1)["running"]
    assert pair.replicas() == 2, "one of them deploys"
    before = {one["address"] for one in pair.status(0)["replicas"]}
    pair.until(lambda: len(pair.function(1).module._current.fleet.records()) == 2)

    pair.die(0)
    pair.until(lambda: len(pair.serving(1)) == 2)
    assert pair.leads(1) and {one["address"] for one in pair.status(1)["replicas"]} == before and pair.replicas() == 2
    # It publishes what changes from now on.
    victim = pair.nodes[pair.status(1)["replicas"][0]["node"]]
    victim.down = True
    next(iter(victim.functions.values())).kill()
    pair.until(lambda: len(pair.tor.fronts[made["address"]]) == 1)
    pair.until(lambda: len(pair.serving(1)) == 2)

    # The node is back. Nobody tells it to run but the other, and it does not lead.
    pair.hosts["host0.onion"].down = False
    pair.until(lambda: pair.status(0)["running"])
    pair.until(lambda: pair.status(0)["term"] == 2)
    assert not pair.leads(0) and pair.leads(1)
    assert pair.ask(0, "end", replicas=False) == {"left": []} and pair.replicas() >= 2
    # The other hears of it, and neither goes on nor has it run again.
    pair.until(lambda: not pair.status(1)["running"])
    victim.down = False
    assert pair.ask(1, "end") == {"left": []}
    assert pair.replicas() == 0
    assert not pair.status(0)["running"] and not pair.status(1)["running"], "none of them has the other run again"


def test_two_that_did_not_hear_each_other_come_together_and_no_replica_is_lost(pair):
    made = pair.up(least=1)
    pair.until(lambda: len(pair.serving(0)) == 1)
    pair.until(lambda: len(pair.function(1).module._current.fleet.records()) == 1)
    for host in pair.hosts.values():
        host.before = lambda method, arguments: (_ for _ in ()).throw(ConnectionError("parted")) if method == "mirror" else None
    for number in range(2):
        # What they are connected by breaks.
        module = pair.function(number).module
        module._current.peer.other, module._current.peer.heard = None, float("-inf")
        for stream in list(pair.function(number).streams):
            try:
                stream.shutdown(2)
            except OSError:
                pass
    pair.until(lambda: all(pair.function(number).module._current is not None for number in range(2)) and pair.leads(0) and pair.leads(1))
    # Each makes one of its own.
    pair.function(0).module._current.fleet.deploy(1)
    pair.until(lambda: pair.replicas() == 2)
    for host in pair.hosts.values():
        host.before = None
    pair.until(lambda: not pair.leads(0) and pair.leads(1))
    # The one that gave way had one more, which is not forgotten.
    pair.until(lambda: len(pair.serving(1)) == 2)
    assert len(pair.tor.fronts[made["address"]]) == 2
    assert pair.ask(0, "end", replicas=False) == {"left": []} and pair.ask(1, "end") == {"left": []}
    assert pair.replicas() == 0
