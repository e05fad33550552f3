"""Work that can be broken off and gone on with: what is to be spread or repaired is written down in the function's store as it goes.

What a kill between any two steps leaves is what the next invocation of the same job goes on with: the file that was left here, and the
shelves that were taken for its shards, each written down before its node heard of it.
"""

import json
import threading

from bento.api import Missing
from dropbox import dropbox
from shelves import TROUBLE, Shelf, ended, patiently

MARKS = 1_000
"""Bytes that tell how far a job is, before what it sends at last."""

PART_BYTES_MAX = 16 * 1024 * 1024
"""Longest part of a file that is gathered. One of them is in memory."""

_running: set[str] = set()
_turn = threading.Lock()


class Underway(Exception):
    """Another invocation does this already."""


class PartsMissing(Exception):
    """Some parts of a file are not where they were said to be; the text is their indices and why."""


class Job:
    """One job, by the name that its client made; without a name, one that is not written down. Used as a context: no other invocation does it."""

    def __init__(self, api, name: str | None) -> None:
        self._api = api
        self._name = None if name is None else f"j/{dropbox._id(name)}"
        self._turn = threading.Lock()
        self.record: dict = {}
        """What is known of it."""

    def __enter__(self) -> "Job":
        if self._name is not None:
            with _turn:
                if self._name in _running:
                    raise Underway("another invocation is doing this; wait for it")
                _running.add(self._name)
            try:
                self.record = json.loads(self._api.store.get(self._name))
            except Missing:
                pass
            except BaseException:
                self.__exit__()
                raise
        return self

    def __exit__(self, *_: object) -> None:
        with _turn:
            _running.discard(self._name)

    def keep(self, **known: object) -> None:
        """Adds to what is known."""
        with self._turn:
            self.record |= known
            self._write()

    def shelve(self, number: int, entry: "dict | None") -> None:
        """Keeps the shelf of a shard that is about to be taken, or that it has none any more."""
        with self._turn:
            shelves = self.record.setdefault("shelves", {})
            shelves.pop(str(number), None)
            if entry is not None:
                shelves[str(number)] = entry
            self._write()

    @property
    def shelves(self) -> dict[int, dict]:
        """Those that were taken, by number."""
        return {int(number): entry for number, entry in self.record.get("shelves", {}).items()}

    def _write(self) -> None:
        if self._name is not None:
            self._api.store.put(self._name, json.dumps(self.record, separators=(",", ":")).encode())


class Marks:
    """Tells how far a job is, while it goes on, by bytes of its output."""

    def __init__(self, api, wanted: bool) -> None:
        self._output = api.output if wanted else None
        self._written = 0

    def at(self, part: float) -> None:
        """So much of all is done; less than was said before is passed over."""
        count = int(min(1.0, part) * MARKS) - self._written
        if count > 0 and self._output is not None:
            self._output.write(b"." * count)
            self._written += count


def gathered(api, drop: str, order: dict, told) -> None:
    """Makes a file that is here of parts that lie in Dropboxes elsewhere, in their order.

    The order: `{"size": 9, "places": [{"node", "invocation", "shutdown"}], "parts": [{"place": 0, "drop", "size", "sha256"}]}`. What is there
    already, of an earlier time, is not fetched again.
    """
    import hashlib

    places, parts = order["places"], order["parts"]
    if sum(part["size"] for part in parts) != order["size"] or any(not 0 < part["size"] <= PART_BYTES_MAX for part in parts):
        raise ValueError("the parts do not make the size")
    have = dropbox._begun(api, drop, order["size"], dropbox.EXPIRES_SECONDS, None, None, "", None)
    remotes = [api.nodes.function(place["node"], place["invocation"], place["shutdown"]) for place in places]
    lost: dict[int, str] = {}
    begin = 0
    for index, part in enumerate(parts):
        end = begin + part["size"]
        if end > have:

            def once() -> bytes:
                with remotes[part["place"]].invoke("get", drop=part["drop"]) as result:
                    return result.read(part["size"] + 1)

            try:
                data = patiently(once)
                if hashlib.sha256(data).hexdigest() != part["sha256"]:
                    lost[index] = "it is not what was left there"
            except TROUBLE as error:
                lost[index] = str(error)
            # With one part missing, those behind it are looked at and not kept.
            if not lost:
                api.store.append(f"c/{drop}", memoryview(data)[max(0, have - begin):])
        begin = end
        told(begin / order["size"])
    if lost:
        raise PartsMissing(f"{','.join(map(str, lost))}; {next(iter(lost.values()))}"[:900])


def given_back(api, order: dict) -> None:
    """Ends the Dropboxes that the parts lay in, as far as they can be reached."""
    ended((Shelf(api, {"number": 0, **place}) for place in order["places"]), tries=1)
