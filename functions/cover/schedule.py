"""When what is to be sent: fixed before the first byte, on a monotonic clock, by nothing that depends on data.

It knows nothing of streams or nodes; what is sent at each time is the caller's.
"""

import dataclasses
import math
import time

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable, Iterable, Iterator

BYTES_MIN, BYTES_MAX = 64, 65_536
"""Of one frame: the smallest has room for a head and some bytes, the largest is one write."""

INTERVAL_MIN, INTERVAL_MAX = 0.005, 60.0
"""Seconds between two frames. Python keeps no shorter ones, and a node takes long silence for the end."""

SECONDS_MAX = 30 * 86_400.0

LATE_MAX = 5.0
"""Seconds of lateness that are made up for. Of what is later the schedule is moved: a flood after a long standstill helps nobody."""


@dataclasses.dataclass(frozen=True)
class Plan:
    """So many frames of so many bytes, one each `interval` seconds; the rate rises from nothing over the first `ramp` seconds, and falls
    over the last."""

    frames: int
    bytes: int
    interval: float
    ramp: float = 0.0

    def __post_init__(self) -> None:
        for name, value, kinds in (
            ("frames", self.frames, int), ("bytes", self.bytes, int), ("interval", self.interval, (int, float)), ("ramp", self.ramp, (int, float)),
        ):  # fmt: skip
            if isinstance(value, bool) or not isinstance(value, kinds):
                raise ValueError(f"`{name}` of a plan is a number")
        if self.frames < 1:
            raise ValueError("a plan has at least one frame")
        if not BYTES_MIN <= self.bytes <= BYTES_MAX:
            raise ValueError(f"a frame has {BYTES_MIN} to {BYTES_MAX} bytes, and not {self.bytes}")
        if not INTERVAL_MIN <= self.interval <= INTERVAL_MAX:
            raise ValueError(f"the interval is {INTERVAL_MIN} to {INTERVAL_MAX} seconds, and not {self.interval}")
        if not 0 <= self.ramp <= self.frames * self.interval:
            raise ValueError("both ramps together must not be longer than the run")
        if self.frames * self.interval > SECONDS_MAX:
            raise ValueError(f"a run is at most {SECONDS_MAX:.0f} seconds long")

    @property
    def total(self) -> int:
        """All bytes."""
        return self.frames * self.bytes

    @property
    def seconds(self) -> float:
        """From the start to the end."""
        return self.frames * self.interval + self.ramp

    def due(self, number: int) -> float:
        """Seconds from the start to a frame, counted from 0; the `frames`-th is the end.

        >>> [Plan(4, 64, 1.0).due(number) for number in range(5)]
        [0.0, 1.0, 2.0, 3.0, 4.0]
        >>> [round(Plan(4, 64, 1.0, 2.0).due(number), 2) for number in range(5)]
        [0.0, 2.0, 3.0, 4.0, 6.0]
        """
        # While the rate rises evenly, half as many frames are sent as at the full rate; so is it while it falls.
        of_ramp = self.ramp / self.interval / 2
        if number < of_ramp:
            return math.sqrt(2 * self.ramp * number * self.interval)
        if number > self.frames - of_ramp:
            return self.seconds - math.sqrt(2 * self.ramp * (self.frames - number) * self.interval)
        return self.ramp + (number - of_ramp) * self.interval

    def times(self) -> "Iterator[float]":
        """When each frame is due."""
        return map(self.due, range(self.frames))


def paced(
    times: "Iterable[float]", shortest: float, clock: "Callable[[], float]" = time.monotonic, sleep: "Callable[[float], object]" = time.sleep
) -> "Iterator[float]":
    """Yields when each time has come, and how many seconds late that was.

    All are counted from the first `next`, so that lateness does not add up. After a delay, and whatever it was, times that are over come
    `shortest` seconds after what was done for the one before: what makes a stream late is its network, and how it catches up must say
    no more than that.
    """
    start = clock()
    free = start
    for at in times:
        while (left := max(start + at, free) - clock()) > 0:
            sleep(left)
        late = clock() - start - at
        if late > LATE_MAX:
            start += late - LATE_MAX
        yield late
        free = clock() + shortest


def poisson(rate: float, seconds: float, draw: "Callable[[], float]") -> "Iterator[float]":
    """Times at random, `rate` a second in the mean, independent of each other; `draw` gives numbers between 0 and 1."""
    at = 0.0
    while True:
        at -= math.log(1.0 - draw()) / rate
        if at >= seconds:
            return
        yield at
