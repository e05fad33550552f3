"""Where shards lie: a Dropbox on another node for each, installed, filled, read and ended from here."""

import base64
import hashlib
import json
import random
import re
import secrets
import threading
import time
import tomllib
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from bento.api import Busy, Refused, RemoteFailed, Timeout, Unreachable

HERE = Path(__file__).parent

THREADS = 8
"""Nodes that are spoken to at the same time."""

TRIES = 3
"""How often a request is made whose connection breaks."""

PATIENCE_SECONDS = 60.0
"""When so much time has passed since the first try, there is no other: a node that is gone is noticed late each time."""

PAUSE_SECONDS = 1.0
"""Before the second try; twice as long before each further one."""

EXPIRES_SECONDS = 300_000_000
"""A shard ends with its function, not before: some ten years."""

SPARE_BYTES = 16 * 1024
"""Storage of a Dropbox beside its one drop: its records, and what it keeps free for them."""

TROUBLE = (Refused, RemoteFailed, Unreachable, Timeout, Busy, OSError)
"""What a node can answer, or not."""


class NotEnoughNodes(Exception):
    """Too few nodes took a shard."""


class Shelf:
    """One shard's place."""

    def __init__(self, api, entry: dict) -> None:
        self.entry = entry
        self.number: int = entry["number"]
        self.node: str = entry["node"]
        self.remote = api.nodes.function(entry["node"], entry["invocation"], entry["shutdown"])
        self.pieces = 0
        """How many pieces went by so far."""
        self.is_whole = False
        self._digest = hashlib.sha256()
        self._have = 0

    def begin(self, size: int) -> None:
        """Announces the shard. Some of it may be there, of an earlier time."""
        self._have = json.loads(self._ask("begin", size=size, expires=EXPIRES_SECONDS))["offset"]

    def put(self, sealed: bytes) -> None:
        """Adds the next piece, if it is not there already."""
        offset = self.pieces * len(sealed)
        if offset + len(sealed) > self._have:
            told = self._ask("put", input=sealed, offset=offset)
            if json.loads(told)["offset"] != offset + len(sealed):
                raise RemoteFailed(121, f"{self.node} says that it has something else than it was sent")
        self._digest.update(sealed)
        self.pieces += 1

    def finish(self) -> None:
        """Has the node check the shard."""
        self.entry["sha256"] = self._digest.hexdigest()
        self._ask("finish", sha256=self.entry["sha256"])
        self.is_whole = True

    def get(self, offset: int, length: int) -> bytes:
        """A piece, as it is stored there."""
        return self._ask("get", offset=offset, length=length)

    def head(self) -> dict:
        """What the node says of the shard."""
        return json.loads(self._ask("head"))

    def end(self, tries: int | None = None) -> None:
        """Ends the function, and with it the shard."""
        patiently(self.remote.shutdown, tries)

    def _ask(self, method: str, input: bytes = b"", **arguments: object) -> bytes:
        def once() -> bytes:
            with self.remote.invoke(method, input=input, drop=self.entry["drop"], **arguments) as result:
                return result.read()

        return patiently(once)


def candidates(api, nodes: list | None, avoid: Iterable[str] = ()) -> list[str]:
    """Addresses in the order in which they are tried: in random order, but of each operator one before any has a second.

    `nodes`: addresses, or objects with `address` and, where they are known, `operator` and `relay`. Two with one address or one relay are
    one. Those to avoid come last.
    """
    known = [{"address": node.address} for node in api.nodes.list()] if nodes is None else nodes
    entries = [{"address": entry} if isinstance(entry, str) else dict(entry) for entry in known]
    random.SystemRandom().shuffle(entries)
    turn: dict[str, int] = {}
    seen: set[str] = set()
    found = []
    avoided = set(avoid)
    for entry in entries:
        address = entry["address"]
        marks = {f"address {address}", f"relay {entry.get('relay') or address}"}
        if marks & seen:
            continue
        seen |= marks
        operator = entry.get("operator") or f"of {address}"
        turn[operator] = turn.get(operator, -1) + 1
        found.append((address in avoided, turn[operator], address))
    # Sorting keeps the random order among equals.
    return [address for _, _, address in sorted(found, key=lambda one: one[:2])]


class Places:
    """Nodes for shards of one size, each given out once.

    `keep(number, entry)` hears of each shard's shelf before its node does, so that whoever keeps that can go on with it, or end it; and that
    there is none any more (`None`).
    """

    def __init__(self, api, addresses: list[str], size: int, keep: Callable[[int, "dict | None"], object] = lambda number, entry: None) -> None:
        self._api = api
        self._bundle = _bundle(size)
        self._size = size
        self._left = list(addresses)
        self._count = len(addresses)
        self._keep = keep
        self._turn = threading.Lock()
        self._refused: list[str] = []

    def shelves(self, numbers: list[int], known: "dict[int, dict] | None" = None) -> list[Shelf]:
        """A shelf for each of these shards, each on a node of its own, with the shard announced. All of them, or none is left behind.

        `known`: shelves of an earlier time by number, which are taken again where their nodes still are.
        """
        known = known or {}
        made = each(numbers, lambda number: self._shelf(number, known.get(number)))
        shelves = [shelf for shelf in made if isinstance(shelf, Shelf)]
        errors = [error for error in made if isinstance(error, BaseException)]
        if len(shelves) < len(numbers):
            ended(shelves)
            if errors:
                raise errors[0]
            reasons = "; ".join(self._refused) or "there are no more"
            raise NotEnoughNodes(f"{len(shelves)} of {len(numbers)} nodes took a shard, of {self._count} that were there; {reasons}"[:900])
        return shelves

    def other(self, shelf: Shelf, why: object) -> Shelf:
        """A shelf for the same shard on another node; this one's has failed."""
        self._refused.append(f"{shelf.node}: {why}")
        ended([shelf], tries=1)
        self._keep(shelf.number, None)
        found = self._shelf(shelf.number)
        if found is None:
            raise NotEnoughNodes(f"the node of shard {shelf.number} failed, and there is no other; {'; '.join(self._refused)}"[:900])
        return found

    def _shelf(self, number: int, entry: "dict | None" = None) -> "Shelf | None":
        while True:
            if entry is None:
                with self._turn:
                    if not self._left:
                        return None
                    address = self._left.pop(0)
                tokens = {"invocation": _token("invoke"), "shutdown": _token("shutdown")}
                entry = {"number": number, "node": address, **tokens, "drop": secrets.token_hex(16), "sha256": ""}
                self._keep(number, entry)
            shelf = Shelf(self._api, entry)
            try:
                remote = shelf.remote
                patiently(lambda: self._api.nodes.install(shelf.node, self._bundle, remote.invocation_token, remote.shutdown_token))
                shelf.begin(self._size)
                return shelf
            except TROUBLE as error:
                self._refused.append(f"{shelf.node}: {error}")
                # It may be there all the same: the answer can have been lost.
                ended([shelf], tries=1)
                self._keep(number, None)
                entry = None


def ended(shelves: Iterable[Shelf], tries: int | None = None) -> list[tuple[Shelf, str]]:
    """Ends these, as far as their nodes can be reached; those that could not, and why."""

    def end(shelf: Shelf) -> str | None:
        try:
            shelf.end(tries)
        except TROUBLE as error:
            # It may be gone already. Any other refusal is no answer of its node's: a conclave that is not accepted was asked nothing.
            return None if isinstance(error, Refused) and error.code == "unknown-token" else str(error)
        return None

    shelves = list(shelves)
    return [(shelf, str(why)) for shelf, why in zip(shelves, each(shelves, end)) if why is not None]


def each(items: Iterable, act: Callable) -> list:
    """Does it with each, some at the same time; what it gave, or what it raised."""
    items = list(items)
    if len(items) < 2:
        return [_caught(act, item) for item in items]
    with ThreadPoolExecutor(min(THREADS, len(items))) as pool:
        return list(pool.map(lambda item: _caught(act, item), items))


def _caught(act: Callable, item: object) -> object:
    try:
        return act(item)
    except Exception as error:
        return error


def patiently(act: Callable, tries: int | None = None) -> object:
    """Does it, again where the connection broke."""
    pause = PAUSE_SECONDS
    end = time.monotonic() + PATIENCE_SECONDS
    for _ in range((TRIES if tries is None else tries) - 1):
        try:
            return act()
        except (ConnectionError, Timeout, Busy):
            if time.monotonic() + pause > end:
                raise
            time.sleep(pause)
            pause *= 2
    return act()


def _bundle(size: int) -> dict[str, bytes]:
    """The Dropbox for a shard of this size. It asks for as much as this function was granted, and for the storage that it takes."""
    needs = tomllib.loads((HERE / "manifest.toml").read_text())["needs"]
    storage = -(-(size + SPARE_BYTES) // 1024)
    granted = _kibibytes(needs["storage"])
    if storage > granted:
        raise ValueError(f"each shard takes {storage} KiB of storage, and the manifest has {granted}; install Shard with more, or take a larger k")
    manifest = (HERE / "dropbox" / "manifest.toml").read_text()
    for key, value in {"storage": f"{storage} KiB", **{key: needs[key] for key in ("traffic", "rate", "lifetime")}}.items():
        manifest = re.sub(rf"(?m)^{key} = .*$", f'{key} = "{value}"', manifest)
    return {"manifest.toml": manifest.encode(), "dropbox.py": (HERE / "dropbox" / "dropbox.py").read_bytes()}


def _kibibytes(text: str) -> int:
    number, unit = re.fullmatch(r"(\d+) ?(B|KiB|MiB|GiB|TiB)", text).groups()
    return int(number) * 1024 ** ["B", "KiB", "MiB", "GiB", "TiB"].index(unit) // 1024


def _token(kind: str) -> str:
    return f"bento-{kind}-{base64.b32encode(secrets.token_bytes(32)).decode().rstrip('=').lower()}"
