"""Pieces on their way: made of a file's stripes and brought to their shards, or fetched from shards and made into stripes again."""

from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait

import erasure
from sealing import TAG_BYTES, Corrupt, Sealer
from shelves import THREADS, TROUBLE, NotEnoughNodes, Shelf, each

LATE_SECONDS = 10.0
"""How long a piece is waited for before another shard is asked as well: a node that is gone is noticed late."""


class TooFewShards(Exception):
    """Fewer are left than the file needs."""


def sealed_bytes(code) -> int:
    """Bytes of a piece as it is stored."""
    return code.piece + TAG_BYTES


def shard_bytes(code) -> int:
    """Bytes of a shard as it is stored."""
    return code.stripes * sealed_bytes(code)


def fill(
    code,
    key: bytes,
    shelves: list[Shelf],
    source: Callable[[int], bytes],
    other: "Callable[[Shelf, object], Shelf] | None" = None,
    told: Callable[[float], object] = lambda part: None,
) -> None:
    """Makes the pieces of these shards and stores them, each shard from where its node has it.

    `source` gives a stripe by its index; without `other` each once, in order. `other` gives another shelf in place of one that failed; without
    it that is the end. `told` hears which part of all is done.
    """
    sealers = {shelf.number: Sealer(key, shelf.number, code.stripes) for shelf in shelves}
    while open_ := [shelf for shelf in shelves if not shelf.is_whole]:
        index = min(shelf.pieces for shelf in open_)
        turn = [shelf for shelf in open_ if shelf.pieces == index]
        if index == code.stripes:
            results = each(turn, Shelf.finish)
        else:
            pieces = code.encode(source(index).ljust(code.stripe, b"\0"), [shelf.number for shelf in turn])
            sealed = [sealers[shelf.number].seal(index, piece) for shelf, piece in zip(turn, pieces)]
            results = each(zip(turn, sealed), lambda pair: pair[0].put(pair[1]))
        for shelf, result in zip(turn, results):
            if isinstance(result, TROUBLE) and other is not None:
                shelves[shelves.index(shelf)] = other(shelf, result)
            elif isinstance(result, TROUBLE):
                text = f"the node of shard {shelf.number} failed, and nothing was left behind where it can be reached: {result}"
                raise NotEnoughNodes(text) from result
            elif isinstance(result, Exception):
                raise result
        told(min(shelf.pieces for shelf in shelves) / code.stripes)


class Rebuilt:
    """The stripes of a file whose shards are stored. Shards that turn out to be bad are put among the lost.

    As many shards are asked as are needed, and others where one is bad or late.
    """

    def __init__(self, api, recipe: dict, code, key: bytes, lost: dict[int, str], first: int = 0) -> None:
        self._recipe = recipe
        self._code = code
        self._lost = lost
        # Those with parts of the file itself first: of them, nothing has to be computed.
        self._shelves = [Shelf(api, entry) for entry in sorted(recipe["shards"], key=lambda entry: entry["number"])]
        self._sealers = {shelf.number: Sealer(key, shelf.number, code.stripes) for shelf in self._shelves}
        self._late: set[int] = set()
        # Of earlier stripes, by number: what was not waited for.
        self._behind: dict[int, Future] = {}
        self._pool = ThreadPoolExecutor(min(THREADS, max(1, len(self._shelves))))
        self._next = first

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """All stripes that are left, with their indices."""
        while self._next < self._code.stripes:
            yield self._next, self(self._next)

    def __call__(self, index: int) -> bytes:
        """One stripe, as far as it is the file's."""
        stripe = self._stripe(index)
        self._next = index + 1
        return stripe[: max(0, self._recipe["size"] - index * self._code.stripe)]

    def close(self, blame: bool) -> None:
        """No more is wanted. With `blame`, a shard that has not answered yet counts as lost."""
        self._reap()
        for number in self._behind if blame else ():
            self._lost[number] = f"missing: its node did not answer within {LATE_SECONDS:.0f} s"
        self._pool.shutdown(wait=False, cancel_futures=True)

    def _stripe(self, index: int) -> bytes:
        pieces: dict[int, bytes] = {}
        needed = self._recipe["k"]
        asked: dict[Future, Shelf] = {}
        while True:
            if len(pieces) >= needed:
                try:
                    stripe = self._code.decode(pieces)
                except erasure.TooFew:
                    needed += 1  # Of a fountain's pieces, seldom one more is needed.
                    continue
                self._behind |= {shelf.number: future for future, shelf in asked.items()}
                return stripe
            self._reap()
            busy = {shelf.number for shelf in asked.values()} | self._behind.keys()
            free = [shelf for shelf in self._shelves if shelf.number not in pieces and shelf.number not in self._lost and shelf.number not in busy]
            free.sort(key=lambda shelf: shelf.number in self._late)
            awaited = sum(shelf.number not in self._late for shelf in asked.values())
            for shelf in free[: max(0, needed - len(pieces) - awaited)]:
                asked[self._pool.submit(self._piece, shelf, index)] = shelf
                self._late.discard(shelf.number)
                free.remove(shelf)
            if not asked and not self._behind:
                good = len(self._shelves) - len(self._lost)
                raise TooFewShards(f"{good} shards are good, and {needed} are needed; {reasons(self._recipe, self._lost)}"[:900])
            done, _ = wait([*asked, *self._behind.values()], LATE_SECONDS if free else None, FIRST_COMPLETED)
            if not done:
                self._late |= busy | {shelf.number for shelf in asked.values()}
            for future in done & asked.keys():
                shelf = asked.pop(future)
                error = future.exception()
                if error is None:
                    pieces[shelf.number] = future.result()
                    self._late.discard(shelf.number)
                else:
                    self._lost[shelf.number] = why(error)

    def _piece(self, shelf: Shelf, index: int) -> bytes:
        count = sealed_bytes(self._code)
        return self._sealers[shelf.number].open(index, shelf.get(index * count, count))

    def _reap(self) -> None:
        for number, future in list(self._behind.items()):
            if future.done():
                del self._behind[number]
                error = future.exception()
                if error is None:
                    self._late.discard(number)
                else:
                    self._lost[number] = why(error)


def why(error: BaseException) -> str:
    """What is wrong with a shard whose piece could not be had."""
    if isinstance(error, Corrupt):
        return f"corrupt: {error}"
    if isinstance(error, TROUBLE):
        # A node that says that what it has was changed on its disk, or that it has another file.
        kind = "corrupt" if "Damaged" in str(error) else "missing"
        # Without the number that an error of the system has before it.
        return f"{kind}: {error.strerror if isinstance(error, OSError) and error.strerror else error}"
    raise error


def reasons(recipe: dict, lost: dict[int, str]) -> str:
    """Which shards of a recipe are lost, and why, in words."""
    known = {entry["number"]: entry["node"] for entry in recipe["shards"]}
    return "; ".join(f"shard {number} at {known[number]}: {text}" for number, text in sorted(lost.items()) if number in known)
