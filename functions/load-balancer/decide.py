"""When there is one replica more, and when one less: decisions alone, of what is seen and for how long.

Nothing here waits, asks or has a clock.
"""

import dataclasses
import math

PARTS = 10
"""Into how many parts a weight divides a replica's capacity: finer is not seen by a client, which takes one of a few introduction points."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """What the operator of the service wants."""

    least: int = 1
    """Replicas, whatever the load."""
    most: int = 4
    """Replicas, whatever the load."""
    connections: int = 8
    """What one replica is meant for: open connections."""
    rate: int = 1_000_000
    """What one replica is meant for: bytes each second, both ways."""
    high: float = 0.8
    """Mean load from which there is one more."""
    low: float = 0.3
    """Mean load below which, were there one less, there is one less."""
    up_seconds: float = 3.0
    """How long it must be above."""
    down_seconds: float = 60.0
    """How long it must be below."""
    return_seconds: float = 10.0
    """How long a lost replica may take to come back before another counts in its place."""

    def __post_init__(self) -> None:
        if not 1 <= self.least <= self.most <= 64:
            raise ValueError("`least` and `most` are numbers of replicas, 1 to 64")
        if self.connections < 1 or self.rate < 1:
            raise ValueError("a replica is meant for at least one connection and one byte a second")
        if not 0 < self.low < self.high:
            raise ValueError("`low` lies between nothing and `high`")

    def load(self, connections: int, rate: float) -> float:
        """A replica's load: 1 is what it is meant for."""
        return max(connections / self.connections, rate / self.rate)


@dataclasses.dataclass(frozen=True)
class Seen:
    """A replica, as it is seen now."""

    name: str
    state: str
    """`starting`, `serving`, `draining`, `lost` or `ending`."""
    load: float = 0.0
    connections: int = 0
    silent: float = 0.0
    """For how many seconds one that is lost has not served."""


@dataclasses.dataclass(frozen=True)
class Decision:
    """What is done, to whom, and why: for people to read as well."""

    act: str
    """`hold`, `grow`, `keep` (one that drains serves on) or `drain`."""
    why: str
    name: str | None = None
    count: int = 1
    """How many, of `grow`."""


class Scaler:
    """Decides, and remembers since when it has been too much or too little."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self._above: float | None = None
        self._below: float | None = None

    def decide(self, now: float, replicas: "list[Seen]") -> Decision:
        """What to do about these replicas, at this time."""
        plan = self.plan
        serving = [one for one in replicas if one.state == "serving"]
        coming = [one for one in replicas if one.state == "starting"]
        draining = [one for one in replicas if one.state == "draining"]
        returning = [one for one in replicas if one.state == "lost" and one.silent < plan.return_seconds]
        count = len(serving) + len(coming)
        if count + len(returning) < plan.least:
            return self._more(draining, f"{count} of at least {plan.least} replicas are there", plan.least - count - len(returning))
        if not serving:
            return Decision("hold", "no replica serves yet" if coming else "the lost ones may come back")
        total = sum(one.load for one in serving)
        mean = total / len(serving)
        told = f"mean load {mean:.0%} over {len(serving)}"
        # As many as bring the mean below; those that are coming will have their part of it.
        wanted = min(math.ceil(total / plan.high), plan.most)
        expected = count + len(returning)
        self._above = (self._above if self._above is not None else now) if wanted > expected else None
        # What is left after one has gone must be well within what the others are meant for, or it would come back at once.
        after = total / (len(serving) - 1) if len(serving) > 1 else float("inf")
        idle = len(serving) > plan.least and not coming and after < plan.low
        self._below = (self._below if self._below is not None else now) if idle else None
        if mean > plan.high:
            above = f"{told}, above {plan.high:.0%}"
            if self._above is None:
                waited = f"{coming[0].name} is starting" if coming else f"{returning[0].name} may come back" if returning else ""
                return Decision("hold", f"{above}: {waited or f'there are {plan.most} replicas, and no more are wanted'}")
            lasted = now - self._above
            if lasted < plan.up_seconds:
                return Decision("hold", f"{above} for {lasted:.0f} s of {plan.up_seconds:.0f}")
            self._above = None
            return self._more(draining, f"{above} for {lasted:.0f} s", wanted - expected)
        if self._below is not None:
            lasted = now - self._below
            why = f"{told}; {len(serving) - 1} would have {after:.0%}, below {plan.low:.0%}"
            if lasted < plan.down_seconds:
                return Decision("hold", f"{why}, for {lasted:.0f} s of {plan.down_seconds:.0f}")
            self._below = None
            least = min(serving, key=lambda one: (one.connections, one.load, one.name))
            return Decision("drain", f"{why}, for {lasted:.0f} s", least.name)
        return Decision("hold", told)

    @staticmethod
    def _more(draining: "list[Seen]", why: str, count: int) -> Decision:
        if draining:
            # It is there already, and has clients.
            best = max(draining, key=lambda one: (one.connections, one.name))
            return Decision("keep", f"{why}; {best.name} is draining and serves on", best.name)
        return Decision("grow", why, count=count)


def weights(replicas: "list[Seen]") -> dict[str, int]:
    """How often each is to be named in the front's descriptors: by what it has left, and those that do not serve not at all."""
    serving = [one for one in replicas if one.state == "serving"]
    return {one.name: max(1, round(PARTS * (1 - min(one.load, 1.0)))) for one in serving}


def differ(before: "dict[str, int]", after: "dict[str, int]") -> bool:
    """Whether it is worth publishing again: another set, or a part that has changed by a fifth of all and more."""
    if before.keys() != after.keys():
        return True
    one, other = sum(before.values()) or 1, sum(after.values()) or 1
    return any(abs(before[name] / one - after[name] / other) > 0.2 for name in before)
