"""The shape of a circuit that Maybenot machines decide: what they want is done here, at its time.

Of what the framework (maybenot.io) knows, cover traffic has one thing: padding. So the first event is one normal frame, which starts the machines, and a
frame that comes back counts as padding received. Blocking holds padding back that must not bypass it, until it ends.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bento.api import Call
    from bento.maybenot import Machines

MICROS = 1_000_000

EVENTS_MAX = 16
"""What a node takes at once."""

LATE_MAX = 1.0
"""Seconds of lateness that are made up for. What is done a little late counts as done in time, else each wait of a busy machine would add to the next
time, and a rate that machines are to have would be that of the processor. Of what is later the machines are moved."""


class Machined:
    """Times as machines want them."""

    def __init__(self, machines: "Machines") -> None:
        self._machines = machines
        self._begun = False
        # What each machine wants, and when: an action, and the end of its own timer.
        self._actions: dict[int, tuple[float, dict]] = {}
        self._timers: dict[int, float] = {}
        self._blocked_until: float | None = None
        self._bypassable = False
        self._held = 0
        # The machines' time, which never goes back.
        self._time = 0.0
        self._asked: tuple[float, Call] | None = None

    def due(self) -> float | None:
        """When something is to be done next, in seconds from the start; nothing while all wait for something to happen."""
        self._settle()
        if not self._begun or self._held and self._blocked_until is None:
            return 0.0
        times = [at for at, _ in self._actions.values()] + list(self._timers.values())
        if self._blocked_until is not None:
            times.append(self._blocked_until)
        return min(times, default=None)

    def fire(self, now: float) -> bool:
        """That time has come: whether a frame is to be sent. One thing at a time; what else is due comes next."""
        self._settle()
        if not self._begun:
            self._begun = True
            self._tell(now, {"event": "normal_sent"}, {"event": "tunnel_sent"})
            return True
        if self._blocked_until is not None and self._blocked_until <= now:
            at, self._blocked_until = self._blocked_until, None
            self._tell(self._as_due(at, now), {"event": "blocking_end"})
            return False
        if self._held and self._blocked_until is None:
            self._held -= 1
            self._tell(now, {"event": "tunnel_sent"})
            return True
        for machine, at in self._timers.items():
            if at <= now:
                del self._timers[machine]
                self._tell(self._as_due(at, now), {"event": "timer_end", "machine": machine})
                return False
        for machine, (at, action) in self._actions.items():
            if at <= now:
                del self._actions[machine]
                at = self._as_due(at, now)
                return self._pad(at, action) if action["action"] == "send_padding" else self._block(at, action)
        return False

    def heard(self, now: float, frames: int) -> None:
        """Frames came back."""
        pair = ({"event": "tunnel_recv"}, {"event": "padding_recv"})
        self._tell(now, *(pair * min(frames, EVENTS_MAX // 2)))

    @staticmethod
    def _as_due(at: float, now: float) -> float:
        return max(at, now - LATE_MAX)

    def _pad(self, now: float, action: dict) -> bool:
        sent = {"event": "padding_sent", "machine": action["machine"]}
        if self._blocked_until is not None and not (action["bypass"] and self._bypassable):
            # Queued, which counts as sent for the machine; the frame follows when the blocking ends.
            if not (action["replace"] and self._held):
                self._held += 1
            self._tell(now, sent)
            return False
        self._tell(now, sent, {"event": "tunnel_sent"})
        return True

    def _block(self, now: float, action: dict) -> bool:
        until = now + action["duration"] / MICROS
        if self._blocked_until is None or action["replace"] or until > self._blocked_until:
            self._blocked_until, self._bypassable = until, action["bypass"]
        self._tell(now, {"event": "blocking_begin", "machine": action["machine"]})
        return False

    def _tell(self, now: float, *events: dict) -> None:
        """Tells what happened. What is wanted then is waited for when it is needed, so that a frame goes out at once, and the node answers for all
        streams at the same time."""
        if not events:
            return
        self._settle()
        self._time = max(self._time, now)
        self._asked = self._time, self._machines.ask(int(self._time * MICROS), events)

    def _settle(self) -> None:
        """Takes up what is wanted."""
        if self._asked is None:
            return
        (now, call), self._asked = self._asked, None
        begun = []
        for action in call.result()[0]:
            machine, kind = action["machine"], action["action"]
            if kind == "cancel":
                if action["timer"] in ("action", "all"):
                    self._actions.pop(machine, None)
                if action["timer"] in ("internal", "all"):
                    self._timers.pop(machine, None)
            elif kind == "update_timer":
                until = now + action["duration"] / MICROS
                if action["replace"] or machine not in self._timers or until > self._timers[machine]:
                    self._timers[machine] = until
                    begun.append({"event": "timer_begin", "machine": machine})
            else:
                self._actions[machine] = (now + action["timeout"] / MICROS, action)
        # A machine whose timer restarts itself at once would go on for ever: of what follows, once is told.
        if begun:
            for action in self._machines.trigger(int(now * MICROS), begun):
                if action["action"] in ("send_padding", "block_outgoing"):
                    self._actions[action["machine"]] = (now + action["timeout"] / MICROS, action)
