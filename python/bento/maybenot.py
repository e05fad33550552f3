"""`api.maybenot`: state machines of traffic analysis defences (maybenot.io), run by the node for streams of the function's own.

A function says what happened on a stream, and is told what its machines want done, and when. It does that itself, or not.
"""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterable, Sequence

    from bento.api import Ask, Call


class Machines:
    """The machines of one stream."""

    def __init__(self, ask: "Ask", stream: int) -> None:
        self._ask = ask
        self.stream = stream

    def trigger(self, at: int, events: "Iterable[dict]") -> list[dict]:
        """What the machines want after these events at this time, in microseconds of whatever clock: `{"action": "send_padding", "machine": 0,
        "timeout": 1000, "bypass": False, "replace": False}`, `block_outgoing`, `update_timer` or `cancel`."""
        return self.ask(at, events).result()[0]

    def ask(self, at: int, events: "Iterable[dict]") -> "Call":
        """The same, not waited for: `result()[0]` of what it gives does. So that those of several streams are asked at the same time."""
        return self._ask("maybenot.trigger", {"stream": self.stream, "at": at, "events": list(events)})


class Set:
    """The same machines, each stream with a state of its own. Used as a list of `Machines`; close it when it is needed no longer."""

    def __init__(self, ask: "Ask", first: int, count: int) -> None:
        self._ask = ask
        self._first = first
        self._streams = [Machines(ask, first + number) for number in range(count)]

    def __len__(self) -> int:
        return len(self._streams)

    def __getitem__(self, number: int) -> Machines:
        return self._streams[number]

    def close(self) -> None:
        """Gives them back."""
        self._ask("maybenot.end", {"first": self._first}).result()

    def __enter__(self) -> "Set":
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


class Maybenot:
    """Machines, as far as the function's grant goes."""

    def __init__(self, ask: "Ask") -> None:
        self._ask = ask

    def start(self, machines: "Sequence[str]", count: int = 1, *, padding: float = 0.0, blocking: float = 0.0) -> Set:
        """Starts these machines, as Maybenot writes them (`02eN…`), for so many streams. `padding`, `blocking`: the largest part of a stream's frames,
        and of its time, that all its machines together may pad and block; 0 sets no bound."""
        answer, _ = self._ask("maybenot.start", {"machines": list(machines), "count": count, "padding": padding, "blocking": blocking}).result()
        return Set(self._ask, answer["first"], answer["count"])
