"""LoadBalancer: one onion address whose clients are spread over replicas on other nodes, as many as the load needs.

The front is an address and its key, which stays here, in this function's sealed store. Each replica (`replica/`) has an onion service of its
own, and the front's descriptors name the replicas' introduction points (`api.tor.front`). What is decided is in `decide.py`, the replicas
are tended in `fleet.py`, which of two load balancers publishes is settled in `peer.py`; this is the loop over all, and what clients of this
function say and see.
"""

import collections
import dataclasses
import json
import threading
import time

from decide import Decision, Plan, Scaler, differ, weights
from fleet import END_SECONDS, TROUBLE, Fleet
from peer import BEAT_SECONDS, ORPHANS_SECONDS, Peer, kept

from bento.api import Missing

TICK_SECONDS = 0.5
"""Between two looks at everything."""

WEIGH_SECONDS = 30.0
"""Between two descriptors that differ in weights alone: clients keep what they have fetched anyway."""

RETRY_SECONDS = 2.0
"""Before a front that could not be published as it should be is published again."""

EVENTS_MAX = 50
"""What is told of the past."""


class AlreadyRunning(Exception):
    """It runs already."""


class Ended(Exception):
    """It was ended."""


class NotSetUp(Exception):
    """Nobody has said what to serve."""


class Balancer:
    """A running load balancer."""

    def __init__(self, api) -> None:
        self._api = api
        self._setup = _setup(api)
        self.plan = Plan(**self._setup["plan"])
        self.events: collections.deque[tuple[float, str]] = collections.deque(maxlen=EVENTS_MAX)
        self.decision = Decision("hold", "it has just begun")
        self.stop = threading.Event()
        self.named: set[str] = set()
        self.published: dict = {}
        self._weights: dict[str, int] = {}
        self._weighed = float("-inf")
        self._again = float("-inf")
        self._publishing = False
        self._missing: dict[str, str] = {}
        self._scaler = Scaler(self.plan)
        self.leads = False
        self.orphans: list[dict] = []
        self._orphaned = float("-inf")
        self._adopted: set[str] = set()
        self._alone = True
        self.peer = Peer(api, self._setup["peer"], self._setup["first"], self.tell)
        self.fleet = self._fleet(follow=False)

    def tell(self, text: str) -> None:
        """Something has happened that people want to know."""
        if not self.events or self.events[-1][1] != text:
            self.events.append((time.time(), text))

    def run(self) -> None:
        """Until it is stopped."""
        try:
            while not self.stop.wait(TICK_SECONDS):
                self.tick(time.monotonic())
        finally:
            self.peer.stop()
            self.fleet.stop()
            # One that is being installed is somewhere, or nowhere, before this ends.
            self.fleet.settle(END_SECONDS)

    def tick(self, now: float) -> None:
        """One look at everything, and what follows from it."""
        if self.peer.ended:
            # Both were meant, and its order may not have come here.
            self._api.store.put("ended", b"")
            self.stop.set()
            return
        leads = self.peer.tick(now)
        if leads != self.leads:
            self._lead_on() if leads else self._stand_by(now)
        if not self.leads:
            self._learn()
            return
        self._take_over_orphans()
        self.fleet.tend(now)
        self._act(now, self._scaler.decide(now, self.fleet.seen(now, self.named)))
        self._front(now)

    def _fleet(self, follow: bool) -> Fleet:
        return Fleet(self._api, self.plan, self._setup, self.tell, follow)

    def _lead_on(self) -> None:
        self.leads = True
        self.orphans = []
        # What the directories have is not known here.
        self.named, self._weights = set(), {}
        self.fleet = self._fleet(follow=True)

    def _stand_by(self, now: float) -> None:
        self.leads = False
        self.orphans, self._orphaned = self.fleet.records(), now
        self.fleet.stop()
        self.fleet = self._fleet(follow=False)
        self.decision = Decision("hold", "the other load balancer leads")

    def _learn(self) -> None:
        """Keeps what the one that leads has told, so that it can be gone on with."""
        other = self.peer.other
        if other is not None and other.leads and self.peer.told != (self.fleet.records(), self.fleet.owed):
            self.fleet.learn(*self.peer.told)

    def _take_over_orphans(self) -> None:
        """Replicas of the other, which has led at the same time and gave way; and what it has published last is published over."""
        for record in self.peer.orphans:
            if record["invocation"] not in self._adopted:
                self._adopted.add(record["invocation"])
                self.fleet.adopt(record)
        other = self.peer.other
        alone = other is None or not other.leads
        if alone and not self._alone:
            self._weights = {}
        self._alone = alone

    def mirror(self, now: float) -> dict:
        """What the other load balancer needs to go on."""
        orphans = self.orphans if now - self._orphaned < ORPHANS_SECONDS else []
        return {"fleet": self.fleet.records(), "owed": self.fleet.owed, "orphans": orphans}

    def _act(self, now: float, decision: Decision) -> None:
        if decision.act == "grow":
            room = self.fleet.room(now)
            why = "as many as can be at a time are on their way" if self.fleet.deploying else "no node took one, and they are asked again in some seconds"
            decision = dataclasses.replace(decision, count=min(decision.count, room)) if room else Decision("hold", f"{decision.why}: {why}")
        self.decision = decision
        if decision.act == "hold":
            return
        what = f"{decision.act} by {decision.count}" if decision.act == "grow" else f"{decision.act} {decision.name}"
        self.tell(f"{what}: {decision.why}")
        if decision.act == "grow":
            self.fleet.deploy(decision.count)
        else:
            self.fleet.drain(decision.name, decision.act == "drain")

    def _front(self, now: float) -> None:
        """Publishes in the background when there is a reason: other backends, other weights, or time has gone by."""
        wanted = {one.address: one for one in self.fleet.all() if one.is_heard(now) and not one.record["draining"] and one.address}
        if self._publishing or not wanted:
            return
        # Those that serve already are weighed; one that is new is named as if it had nothing to do.
        seen = [dataclasses.replace(one.seen(now, self.plan, set(wanted)), name=address) for address, one in wanted.items()]
        parts = weights(seen)
        is_new = parts.keys() != self._weights.keys()
        is_due = now >= self._again or (now - self._weighed > WEIGH_SECONDS and differ(self._weights, parts))
        if is_new or is_due:
            self._publishing = True
            threading.Thread(target=self._publish, args=(parts,), daemon=True).start()

    def _publish(self, parts: dict[str, int]) -> None:
        begun = time.monotonic()
        try:
            answer = self._api.tor.front(self._setup["key"], list(parts.items()), self._setup["clients"])
        except TROUBLE as error:
            self.tell(f"the front is not published: {error}")
            self._again = time.monotonic() + RETRY_SECONDS
            # Nothing is known of what the directories have now.
            self._weights = {}
        else:
            taken = {one["address"] for one in answer["backends"] if one["points"]}
            missing = {one["address"]: one["missing"] for one in answer["backends"] if not one["points"]}
            stored = sum(len(one["took"]) for one in answer["periods"])
            complete = not missing and answer["fetched"] and all(one["took"] for one in answer["periods"])
            if taken != self.named or not complete:
                self.tell(f"the front names {len(taken)} of {len(parts)} replicas, stored by {stored} directories in {time.monotonic() - begun:.1f} s")
            self.named, self._weights, self._missing = taken, parts, missing
            self._weighed = time.monotonic()
            self._again = self._weighed + (answer["again"] if complete else RETRY_SECONDS)
            self.published = {"at": time.time(), "stored": stored, "fetched": answer["fetched"], "missing": missing}
        finally:
            self._publishing = False

    def status(self) -> dict:
        """All that is known, for people and programs."""
        now = time.monotonic()
        replicas = []
        for one in self.fleet.all() if self.leads else []:
            seen = one.seen(now, self.plan, self.named)
            replicas.append({
                "name": one.name, "node": one.record["node"], "address": one.address, "state": seen.state, "load": round(seen.load, 3),
                "connections": seen.connections, "accepted": one.report.get("accepted", 0), "bytes": one.report.get("bytes", 0),
                "rate": one.report.get("rate", 0), "weight": self._weights.get(one.address, 0), "silent": round(one.silent(now), 1),
                "trouble": one.trouble if seen.state in ("lost", "starting") else "",
            })  # fmt: skip
        return {
            "running": True, "address": self._setup["address"], "time": time.time(), "replicas": replicas, "front": self.published,
            "decision": dataclasses.asdict(self.decision), "events": [{"time": at, "text": text} for at, text in self.events],
            "refused": self.fleet.refused, "plan": self._setup["plan"], "leads": self.leads, "term": self.peer.own.term,
            "other": {"node": self._setup["peer"]["node"], "silent": round(self.peer.silent(now), 1)} if self._setup["peer"] else None,
        }  # fmt: skip


_running = threading.Lock()
_current: Balancer | None = None


def setup(
    api,
    plan: "dict | None" = None,
    nodes: "list[str] | None" = None,
    origin: str | None = None,
    clients: "list[str] | None" = None,
    peer: "dict | None" = None,
    first: bool = True,
) -> None:
    """Says what to serve. The input is a line of JSON, `{"key": "ED25519-V3:…"}` or `{"key": null}` for a new one, and then the site, a tar archive.

    `nodes`: addresses for replicas; those that this node's operator lists, if it is not given. `origin`: `ADDRESS.onion:PORT` in place of a
    site. `clients`: keys of those who alone may find the service. `peer`: another load balancer of the same key, as `{"node", "invocation"}`; the
    `first` of them leads, and the other takes over when nothing is heard of it. Sends `{"address", "key"}`.
    """
    if _current is not None:
        raise AlreadyRunning("what to serve is said before it runs")
    wanted = json.loads(api.input.readline(4_096) or b"{}")
    Plan(**(plan or {}))
    made = api.tor.front(wanted.get("key"), [], clients or [])
    if origin is None and not api.store.put("site", api.input):
        raise NotSetUp("neither a site came, nor an origin was named")
    said = {"plan": plan or {}, "nodes": nodes, "origin": origin, "clients": clients or [], "key": made["key"], "address": made["address"], "peer": peer, "first": first}
    # It asks the other before it does so: that may be ahead.
    api.store.put("lead", json.dumps({"term": int(first), "leads": first}).encode())
    api.store.put("setup", json.dumps(said).encode())
    _tell(api, {"address": made["address"], "key": made["key"]})


def run(api) -> None:
    """Runs until `end`; to be invoked detached. After its node has started again it is invoked again, and finds its replicas; one that has another
    load balancer beside it is invoked by that."""
    global _current
    if "ended" in api.store:
        raise Ended("it was ended, and serves no more")
    if not _running.acquire(blocking=False):
        raise AlreadyRunning("it runs already")
    try:
        _current = Balancer(api)
        _current.run()
    finally:
        _current = None
        _running.release()


def status(api, seconds: float = 0) -> None:
    """Tells all that is known, a line of JSON: once, or each second for so long."""
    end = time.monotonic() + seconds
    while True:
        current = _current
        _tell(api, current.status() if current is not None else {"running": False, "address": _setup(api)["address"], "replicas": []})
        if time.monotonic() >= end:
            return
        time.sleep(1)


def mirror(api) -> None:
    """Tells what another load balancer needs to go on, a line of JSON every two seconds: who leads, and which replicas there are when they change."""
    last = ""
    try:
        while (current := _current) is not None and not current.stop.is_set():
            told = current.mirror(time.monotonic())
            # Once a change: it is longer than all else.
            text = json.dumps(told)
            _tell(api, {"running": True, "ended": False, **dataclasses.asdict(current.peer.own)} | (told if text != last else {}))
            last = text
            current.stop.wait(BEAT_SECONDS)
    except ConnectionError:
        return
    _tell(api, {"running": False, "ended": "ended" in api.store, **dataclasses.asdict(kept(api))})


def end(api, replicas: bool = True) -> None:
    """Stops for good, and ends all replicas, or leaves that to the other load balancer. Sends `{"left": [...]}`: those that could not be reached."""
    # First of all, so that the other does not have it run again.
    api.store.put("ended", b"")
    current = _current
    if current is not None:
        current.stop.set()
    with _running:
        fleet = Fleet(api, Plan(), _setup(api), lambda text: None, follow=False)
        _tell(api, {"left": fleet.end_all() if replicas else []})


def _setup(api) -> dict:
    try:
        return json.loads(api.store.get("setup"))
    except Missing:
        raise NotSetUp("nobody has said what to serve; invoke `setup` first") from None


def _tell(api, value: dict) -> None:
    api.output.write(json.dumps(value).encode() + b"\n")
