"""The replicas: installed on other nodes, followed, drained and ended.

Each is a record that lasts (in the store) and what was last heard of it (in memory). A thread follows each: it reads the replica's reports, which
come every second, and has it serve when it does not.
"""

import base64
import json
import re
import secrets
import threading
import time
import tomllib
from collections.abc import Callable
from pathlib import Path

from decide import Plan, Seen

from bento.api import Busy, Refused, RemoteFailed, Timeout, Unreachable

HERE = Path(__file__).parent

LOST_SECONDS = 4.0
"""A replica of which nothing was heard for so long is out. It tells something every second."""

GONE_SECONDS = 60.0
"""One that was lost for so long is given up."""

SERVE_SECONDS = 15.0
"""Between two orders to serve: the onion service is made within it, or never."""

PAUSE_SECONDS = 1.0
"""Before a replica is asked again."""

DEPLOY_SECONDS = 10.0
"""Before another round of all nodes, after none took a replica."""

DEPLOYING_MAX = 4
"""Replicas that are installed at the same time: each takes a thread, and all share what goes out of this function."""

INSTALL_SECONDS = 900.0
"""A replica that is not installed and given its site within it is given up: 150 MB at 170 kB/s."""

START_SECONDS = 120.0
"""One that has never served is given up when it was told to for so long."""

END_SECONDS = 60.0
"""All replicas are ended at once; those that could not be reached within it are named. A circuit to where a node was before it started again may be tried for 40 s
before another is."""

ENDING_MAX = 8
"""Replicas that are ended at the same time: each takes a thread."""

OWED_SECONDS = 60.0
"""Between two tries to end what is left of a replica that was given up: its node may come back, and the replica with it."""

OWED_MAX = 16
"""Of so many that is tried; of older ones their lifetime is the end."""

FOLLOWERS_MAX = 2
"""Threads that may follow one replica: the second where the first hangs in a connection that says nothing."""

TROUBLE = (Refused, RemoteFailed, Unreachable, Timeout, Busy, OSError)
"""What a node can answer, or not."""

PASSED_ON = ("memory", "cpu", "traffic", "rate", "lifetime", "processes", "descriptors", "storage")
"""What a replica asks for as much of as this function was granted."""


class Replica:
    """One replica: its record, and what was heard."""

    def __init__(self, record: dict) -> None:
        self.record = record
        self.report: dict = {}
        self.heard: float | None = None
        self.serving_at: float | None = None
        self.begun = time.monotonic()
        self.drained: float | None = time.monotonic() if record.get("draining") else None
        self.gone = False
        self.installing = False
        self.trouble = ""
        self.followers = 0
        self.ordered: float | None = None

    @property
    def name(self) -> str:
        """Its name, for people."""
        return self.record["name"]

    @property
    def address(self) -> str | None:
        """Its own onion service, once that is known."""
        return self.report.get("address") or self.record.get("address")

    def is_heard(self, now: float) -> bool:
        """Has it told something lately, and that it serves?"""
        return self.heard is not None and now - self.heard <= LOST_SECONDS and bool(self.report.get("serving"))

    def is_lost(self, now: float) -> bool:
        """Was it there, and is not?"""
        return self.heard is not None and (now - self.heard > LOST_SECONDS or (self.serving_at is not None and not self.report.get("serving")))

    def silent(self, now: float) -> float:
        """For how long nothing was heard."""
        return now - (self.heard if self.heard is not None else self.begun)

    def away(self, now: float) -> float:
        """For how long it has not served, of one that did."""
        return now - self.serving_at if self.serving_at is not None else 0.0

    def seen(self, now: float, plan: Plan, named: "set[str]") -> Seen:
        """As the decisions see it. It serves when the front names it."""
        connections, rate = self.report.get("connections", 0), self.report.get("rate", 0)
        if self.record.get("draining"):
            state = "draining"
        elif self.is_lost(now):
            state = "lost"
        elif self.is_heard(now) and self.address in named:
            state = "serving"
        else:
            state = "starting"
        return Seen(self.name, state, plan.load(connections, rate), connections, self.away(now))


class Fleet:
    """All replicas of one front."""

    def __init__(self, api, plan: Plan, setup: dict, tell: Callable[[str], None], follow: bool = True) -> None:
        self._api = api
        self._plan = plan
        self._setup = setup
        self._tell = tell
        self._turn = threading.RLock()
        self._settled = threading.Condition(self._turn)
        self.stopping = not follow
        self._stopped = False
        self.refused: dict[str, str] = {}
        self.deploying = 0
        # Of these those that have no node yet.
        self.seeking = 0
        self.none_since: float | None = None
        self._number = 0
        self.replicas: dict[str, Replica] = {}
        self.owed: list[dict] = _kept(api, "owed")
        self._owed_at = time.monotonic()
        for record in _kept(api, "fleet"):
            self._add(Replica(record))
        self._number = max(self._number, *(_number(record) for record in self.owed), 0)

    def all(self) -> list[Replica]:
        """Those that are there, by name."""
        with self._turn:
            return sorted(self.replicas.values(), key=lambda one: one.name)

    def seen(self, now: float, named: "set[str]") -> list[Seen]:
        """All as the decisions see them, with those for which a node is being looked for."""
        with self._turn:
            return [one.seen(now, self._plan, named) for one in self.all()] + [Seen("another", "starting")] * self.seeking

    def room(self, now: float) -> int:
        """How many more may be begun. None at once after no node took one."""
        may = self.none_since is None or now - self.none_since > DEPLOY_SECONDS
        with self._turn:
            return DEPLOYING_MAX - self.seeking - sum(one.installing for one in self.all()) if may else 0

    def deploy(self, count: int) -> None:
        """Installs so many more, in the background, each on the first node that takes it."""
        for _ in range(count):
            with self._turn:
                _background(self._deploy)
                self.deploying += 1
                self.seeking += 1

    def drain(self, name: str, on: bool = True) -> None:
        """It is named no more, and ends when its connections have; or it serves on."""
        replica = self.replicas[name]
        replica.record["draining"] = on
        replica.drained = time.monotonic() if on else None
        self.keep()

    def retire(self, replica: Replica) -> None:
        """Ends it, if it has no connections; in the background."""
        replica.gone = True
        _background(lambda: self._retire(replica))

    def give_up(self, replica: Replica, why: str) -> None:
        """It is out for good; what can still be reached of it is ended."""
        replica.gone = True
        # Its node is the last that is asked for another.
        self.refused[replica.record["node"]] = why
        self._owe(replica)
        self._tell(f"{replica.name} is given up: {why}")

    def adopt(self, record: dict) -> None:
        """Takes one that another load balancer has installed. That none of it is left any more is found out by asking."""
        with self._turn:
            if any(record["invocation"] == one["invocation"] for one in [*self.records(), *self.owed]):
                return
            self._number += 1
            replica = Replica(record | {"name": f"replica-{self._number}"})
            self.replicas[replica.name] = replica
        self.keep()
        self._tell(f"{replica.name} was the other load balancer's")
        self._follow(replica)

    def learn(self, records: list[dict], owed: list[dict]) -> None:
        """Writes down what another has told, which does all with them."""
        with self._turn:
            self.replicas = {record["name"]: Replica(record) for record in records}
            self.owed = owed
        self.keep()

    def stop(self) -> None:
        """Follows none any more, and changes nothing. They serve on."""
        with self._turn:
            self.stopping = self._stopped = True

    def keep(self) -> None:
        """Writes down which there are."""
        with self._turn:
            if self._stopped:
                return  # Who comes after it writes now.
            self._api.store.put("fleet", json.dumps(self.records()).encode())
            self._api.store.put("owed", json.dumps(self.owed).encode())

    def records(self) -> list[dict]:
        """What is written down of them."""
        with self._turn:
            return [one.record for one in self.replicas.values()]

    def settle(self, seconds: float) -> None:
        """Waits until none is being installed any more, which after `stop` is soon."""
        end = time.monotonic() + seconds
        with self._settled:
            self._settled.wait_for(lambda: not self.deploying, end - time.monotonic())

    def tend(self, now: float) -> None:
        """What is to be done about single ones: followed again, given up, retired."""
        for replica in self.all():
            if replica.gone:
                continue
            if replica.installing:
                if now - replica.begun > INSTALL_SECONDS:
                    self.give_up(replica, f"it was not installed within {INSTALL_SECONDS:.0f} s")
                continue
            silent = replica.silent(now)
            if replica.serving_at is None and now - replica.begun > START_SECONDS:
                self.give_up(replica, replica.trouble or f"it did not begin to serve within {START_SECONDS:.0f} s")
            elif silent > GONE_SECONDS:
                self.give_up(replica, replica.trouble or f"nothing was heard of it for {silent:.0f} s")
            elif silent > LOST_SECONDS and replica.heard is not None and replica.followers < FOLLOWERS_MAX:
                self._follow(replica)
            elif replica.drained is not None and now - replica.drained > LOST_SECONDS and not replica.report.get("connections"):
                self.retire(replica)
        if self.owed and now - self._owed_at > OWED_SECONDS:
            self._owed_at = now
            _background(self._settle_owed)

    def _add(self, replica: Replica) -> None:
        with self._turn:
            self.replicas[replica.name] = replica
            self._number = max(self._number, _number(replica.record))
        self._follow(replica)

    def _remove(self, replica: Replica) -> None:
        with self._turn:
            self.replicas.pop(replica.name, None)
        self.keep()

    def _owe(self, replica: Replica) -> None:
        """It is none of ours any more, and what is left of it at its node is ended when that can be reached."""
        with self._turn:
            self.owed = [*self.owed, replica.record][-OWED_MAX:]
            self._owed_at = float("-inf")
        self._remove(replica)

    def _candidates(self, nodes: list[str]) -> list[str]:
        """Of these nodes those without a replica: first those that have not refused, each in random order."""
        taken = {one.record["node"] for one in self.all()}
        free = [node for node in nodes if node not in taken]
        secrets.SystemRandom().shuffle(free)
        return sorted(free, key=lambda node: node in self.refused)

    def _deploy(self) -> None:
        asked: set[str] = set()
        is_seeking, replica = True, None
        try:
            nodes = self._setup["nodes"] or [node.address for node in self._api.nodes.list()]
            while True:
                with self._turn:
                    if self.stopping:
                        return
                    # Others are being installed at the same time.
                    node = next((node for node in self._candidates(nodes) if node not in asked), None)
                    if node is None:
                        if not asked:
                            self._tell("there is no further node for a replica")
                        self.none_since = time.monotonic()
                        return
                    asked.add(node)
                    self._number += 1
                    record = {"name": f"replica-{self._number}", "node": node, "invocation": _token("invoke"), "shutdown": _token("shutdown"), "address": None, "draining": False, "fed": False}  # fmt: skip
                    replica = Replica(record)
                    replica.installing = True
                    # Known before it is there, so that none is left where nobody knows of it.
                    self.replicas[replica.name] = replica
                    self.seeking, is_seeking = self.seeking - 1, False
                    self.keep()
                if self._installed(replica):
                    return
                with self._turn:
                    self.seeking, is_seeking, replica = self.seeking + 1, True, None
        except TROUBLE as error:
            self._tell(f"no replica could be begun: {error}")
        finally:
            with self._settled:
                if replica is not None:
                    # Whatever went wrong: from here on it is looked at like any other.
                    replica.installing = False
                self.deploying -= 1
                self.seeking -= is_seeking
                self._settled.notify_all()

    def _installed(self, replica: Replica) -> bool:
        """Installs it, and gives it what it is to serve. False: its node does not take it, and another is asked."""
        node, record = replica.record["node"], replica.record
        is_there = False
        try:
            self._api.nodes.install(node, _bundle(), record["invocation"], record["shutdown"])
            is_there = True
            self._feed(replica)
        except TROUBLE as error:
            if replica.gone:
                return True
            self.refused[node] = str(error)
            self._tell(f"{node[:12]}… takes no replica: {error}")
            if isinstance(error, Refused) and not is_there:
                self._remove(replica)
            else:
                self._owe(replica)
            return False
        if self.stopping or replica.gone:
            # Who comes after this has looked for it already, and found nothing.
            self._ended(replica)
            return True
        self.refused.pop(node, None)
        self.none_since = None
        self._tell(f"{replica.name} is installed at {node[:12]}…")
        replica.begun = time.monotonic()
        replica.installing = False
        self._follow(replica)
        return True

    def _feed(self, replica: Replica) -> None:
        """Gives it what it is to serve, and writes down that it has it."""
        if not self._setup["origin"]:
            with self._api.store.open("site") as site, self._remote(replica).invoke("site", input=site) as result:
                result.read()
        replica.record["fed"] = True
        self.keep()

    def _remote(self, replica: Replica):
        record = replica.record
        return self._api.nodes.function(record["node"], record["invocation"], record["shutdown"])

    def _follow(self, replica: Replica) -> None:
        if self.stopping:
            return
        with self._turn:
            replica.followers += 1
        _background(lambda: self._followed(replica))

    def _followed(self, replica: Replica) -> None:
        try:
            while not self.stopping and not replica.gone:
                try:
                    with self._remote(replica).invoke("watch") as result:
                        for line in lines_of(result):
                            self._heard(replica, json.loads(line))
                            if self.stopping or replica.gone:
                                return
                except TROUBLE as error:
                    if _is_gone(error):
                        if not replica.gone:
                            self.give_up(replica, str(error))
                        return
                    # Also what is refused for now, where its node is busy: if it does not pass, it is lost as any other.
                    replica.trouble = str(error)
                if not replica.gone:
                    self._fallen(replica)
                    time.sleep(PAUSE_SECONDS)
        finally:
            with self._turn:
                replica.followers -= 1

    def _heard(self, replica: Replica, report: dict) -> None:
        now = time.monotonic()
        replica.report, replica.heard = report, now
        if report["serving"]:
            replica.serving_at = now
            if replica.record["address"] != report["address"]:
                replica.record["address"] = report["address"]
                self.keep()
        elif replica.drained is None and (replica.ordered is None or now - replica.ordered > SERVE_SECONDS):
            if not replica.record.get("fed", True):
                # Who began to install it ended in the middle of it.
                replica.installing = True
                try:
                    self._feed(replica)
                finally:
                    replica.installing = False
                replica.begun = time.monotonic()
            replica.ordered = now
            arguments = {"front": self._setup["address"], "origin": self._setup["origin"]}
            # It serves on when this function ends; how it ended is told by its reports.
            with self._remote(replica).invoke("serve", detach=secrets.token_hex(16), **arguments) as result:
                result.read()

    def _fallen(self, replica: Replica) -> None:
        """Its reports have ended: it is out until it tells something again."""
        if replica.report.get("serving"):
            replica.report = replica.report | {"serving": False, "connections": 0, "rate": 0}
            # A process that has ended has to be told to serve.
            replica.ordered = None
            self._tell(f"{replica.name} is lost: {replica.trouble or 'its reports have ended'}")

    def _retire(self, replica: Replica) -> None:
        try:
            with self._remote(replica).invoke("retire") as result:
                answer = json.loads(result.read())
            if not answer["retired"]:
                # Somebody came at the last moment.
                replica.report = answer
                replica.gone = False
                self._follow(replica)
                return
        except TROUBLE:
            pass  # It has ended in its own way.
        if self._ended(replica):
            self._remove(replica)
        else:
            self._owe(replica)
        self._tell(f"{replica.name} is retired")

    def _ended(self, replica: Replica) -> bool:
        try:
            self._remote(replica).shutdown()
        except TROUBLE as error:
            if not _is_gone(error):
                replica.trouble = str(error)
                return False
        return True

    def _settle_owed(self) -> None:
        for record in list(self.owed):
            if self.stopping or not self._ended(Replica(record)):
                continue
            self._tell(f"{record['name']}, which was given up, is ended")
            with self._turn:
                self.owed = [one for one in self.owed if one is not record]
            self.keep()

    def end_all(self) -> list[str]:
        """Ends all at once, whatever they do, and those that were given up; names those that could not be reached in time."""
        end = time.monotonic() + END_SECONDS
        left = {one.record["invocation"]: one for one in [*self.all(), *map(Replica, self.owed)]}
        waiting = list(left.values())

        def work() -> None:
            while time.monotonic() < end:
                with self._turn:
                    if not waiting:
                        return
                    replica = waiting.pop(0)
                replica.gone = True
                # Tried again and again: a node may be slow, or a circuit break.
                while not (ended := self._ended(replica)) and time.monotonic() < end:
                    time.sleep(PAUSE_SECONDS)
                with self._settled:
                    if ended:
                        left.pop(replica.record["invocation"], None)
                    self._settled.notify_all()

        for _ in range(min(ENDING_MAX, len(waiting))):
            _background(work)
        with self._settled:
            self._settled.wait_for(lambda: not left, END_SECONDS)
            names = [one.name for one in left.values()]
            self.owed = [one for one in self.owed if one["invocation"] in left]
            self.replicas = {name: one for name, one in self.replicas.items() if one.record["invocation"] in left}
            self.keep()
        return sorted(names)


def lines_of(result):
    """The lines of a running invocation, each as soon as it has come."""
    rest = b""
    while piece := result.read1(65_536):
        *whole, rest = (rest + piece).split(b"\n")
        yield from whole


def _is_gone(error: OSError) -> bool:
    """Does its node say that it has no such function? It was shut down there, or its lifetime is over. What is refused otherwise, for now or by this node, is there still."""
    return isinstance(error, Refused) and error.code == "unknown-token"


def _number(record: dict) -> int:
    return int(record["name"].rpartition("-")[2])


def _kept(api, name: str) -> list[dict]:
    return json.loads(api.store.get(name)) if name in api.store else []


def _bundle() -> dict[str, bytes]:
    """The replica. It asks for as much as this function was granted."""
    needs = tomllib.loads((HERE / "manifest.toml").read_text())["needs"]
    files = {path.name: path.read_bytes() for path in (HERE / "replica").iterdir() if path.suffix in (".py", ".toml")}
    manifest = files["manifest.toml"].decode()
    for key in PASSED_ON:
        value = needs[key] if isinstance(needs[key], int) else f'"{needs[key]}"'
        manifest = re.sub(rf"(?m)^{key} = .*$", f"{key} = {value}", manifest)
    return files | {"manifest.toml": manifest.encode()}


def _token(kind: str) -> str:
    return f"bento-{kind}-{base64.b32encode(secrets.token_bytes(32)).decode().rstrip('=').lower()}"


def _background(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()
