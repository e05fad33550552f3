"""Which of two load balancers publishes a front: it leads, and the other stands by with all that it needs to go on.

Each reads what the other tells (`mirror`): who leads in which term, and which replicas there are. When nothing is heard of the one that leads, the
other does in the next term. One that was away and comes back hears of that term before it does anything, and stands by. When both have
led because they did not hear each other, the later term counts, and the one that gives way tells which replicas it has made meanwhile.
"""

import dataclasses
import json
import secrets
import threading
import time
from collections.abc import Callable

from fleet import TROUBLE, lines_of

from bento.api import Missing, Refused

BEAT_SECONDS = 2.0
"""Between two words of each to the other."""

TAKEOVER_SECONDS = 15.0
"""After so long without a word of the one that leads, the other does: seven words are missing."""

START_SECONDS = 15.0
"""How long one that led before waits for the other's answer, when it starts, before it leads on."""

PAUSE_SECONDS = 1.0
"""Before the other is asked again."""

REFUSED_SECONDS = 30.0
"""The same where the other's node knows it no more."""

WAKE_SECONDS = 20.0
"""Between two orders to run, to one that answers and does not run: its node was started again."""

ORPHANS_SECONDS = 60.0
"""For how long one that has given way tells which replicas it had."""

LISTENERS_MAX = 2
"""Threads that may listen to the other: the second where the first hangs in a connection that says nothing."""


@dataclasses.dataclass(frozen=True)
class Lead:
    """Whether one leads, and since which term."""

    term: int = 0
    leads: bool = False


def decide(own: Lead, first: bool, other: "Lead | None", silent: float) -> Lead:
    """Who leads. `first`: whether this is the one that leads where nothing else decides; `other`: what was heard last of the other; `silent`: for how
    many seconds nothing was heard of it, or since this has begun."""
    if other is not None and silent <= TAKEOVER_SECONDS:
        if other.leads:
            stays = own.leads and (own.term, first) > (other.term, not first)
            return own if stays else Lead(max(own.term, other.term), False)
        if own.leads:
            return own
        return Lead(max(own.term, other.term) + 1, True) if first else own
    if own.leads or silent <= TAKEOVER_SECONDS:
        return own
    return Lead(own.term + 1, True)


class Peer:
    """The other one, as it is heard."""

    def __init__(self, api, where: "dict | None", first: bool, tell: Callable[[str], None]) -> None:
        self._api = api
        self._where = where
        self._first = first
        self._tell = tell
        self._turn = threading.Lock()
        self.own = kept(api)
        self.begun = time.monotonic()
        self.heard: float | None = None
        self.answered = self.ended = False
        self.other: Lead | None = None
        self.told: tuple[list[dict], list[dict]] = ([], [])
        self.orphans: list[dict] = []
        self._woken = float("-inf")
        self._listeners = 0
        self.stopping = False
        self.trouble = ""
        if where is None:
            self.own = Lead(max(1, self.own.term), True)

    def tick(self, now: float) -> bool:
        """Tells whether this one leads now."""
        if self._where is None:
            return True
        silent = now - (self.heard if self.heard is not None else self.begun)
        if not self._listeners or (silent > TAKEOVER_SECONDS / 2 and self._listeners < LISTENERS_MAX):
            self._listen()
        if self.own.leads and not self.answered and now - self.begun < START_SECONDS:
            return False
        lead = decide(self.own, self._first, self.other, silent)
        if lead != self.own:
            if lead.leads and not self.own.leads:
                why = "nobody does" if self.other is not None and silent <= TAKEOVER_SECONDS else f"nothing was heard of the other for {silent:.0f} s"
                self._tell(f"it leads, in term {lead.term}: {why}")
            elif self.own.leads and not lead.leads:
                self._tell(f"it stands by: the other leads, in term {lead.term}")
            self._api.store.put("lead", json.dumps(dataclasses.asdict(lead)).encode())
            self.own = lead
        return lead.leads

    def silent(self, now: float) -> "float | None":
        """For how long nothing was heard of the other; nothing where there is none."""
        if self._where is None:
            return None
        return now - (self.heard if self.heard is not None else self.begun)

    def stop(self) -> None:
        """Listens no more."""
        self.stopping = True

    def _listen(self) -> None:
        with self._turn:
            self._listeners += 1
        threading.Thread(target=self._listened, daemon=True).start()

    def _listened(self) -> None:
        try:
            remote = self._api.nodes.function(self._where["node"], self._where["invocation"])
            while not self.stopping:
                pause = PAUSE_SECONDS
                try:
                    with remote.invoke("mirror") as result:
                        for line in lines_of(result):
                            self._hear(remote, json.loads(line))
                            if self.stopping:
                                return
                except Refused as error:
                    self.trouble, pause = str(error), REFUSED_SECONDS
                except TROUBLE as error:
                    self.trouble = str(error)
                with self._turn:
                    if self._listeners > 1:
                        return  # There is another that listens, or tries to.
                time.sleep(pause)
        finally:
            with self._turn:
                self._listeners -= 1

    def _hear(self, remote, told: dict) -> None:
        now = time.monotonic()
        if told["running"]:
            if "fleet" in told:
                self.told, self.orphans = (told["fleet"], told["owed"]), told["orphans"]
            self.other = Lead(told["term"], told["leads"])
            self.heard = now
        elif not told["ended"] and now - self._woken > WAKE_SECONDS:
            self._woken = now
            self._tell("the other answers and does not run: it is told to")
            with remote.invoke("run", detach=secrets.token_hex(16)) as result:
                result.read()
        self.ended = self.ended or told["ended"]
        self.answered = True


def kept(api) -> Lead:
    """What was written down."""
    try:
        return Lead(**json.loads(api.store.get("lead")))
    except Missing:
        return Lead()
