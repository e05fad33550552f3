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
        self.digest = hashlib.sha256()

    def begin(self, size: int) -> None:
        """Announces the shard."""
        self._ask("begin", size=size, expires=EXPIRES_SECONDS)

    def put(self, offset: int, sealed: bytes) -> None:
        """Adds a piece."""
        told = self._ask("put", input=sealed, offset=offset)
        if json.loads(told)["offset"] != offset + len(sealed):
            raise RemoteFailed(121, f"{self.node} says that it has something else than it was sent")
        self.digest.update(sealed)

    def finish(self) -> None:
        """Has the node check the shard."""
        self.entry["sha256"] = self.digest.hexdigest()
        self._ask("finish", sha256=self.entry["sha256"])

    def get(self, offset: int, length: int) -> bytes:
        """A piece, as it is stored there."""
        return self._ask("get", offset=offset, length=length)

    def head(self) -> dict:
        """What the node says of the shard."""
        return json.loads(self._ask("head"))

    def end(self) -> None:
        """Ends the function, and with it the shard."""
        _patiently(self.remote.shutdown)

    def _ask(self, method: str, input: bytes = b"", **arguments: object) -> bytes:
        def once() -> bytes:
            with self.remote.invoke(method, input=input, drop=self.entry["drop"], **arguments) as result:
                return result.read()

        return _patiently(once)


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


def installed(api, addresses: list[str], numbers: list[int], size: int) -> list[Shelf]:
    """A shelf for each of these shards, each on a node of its own, with the shard announced. All of them, or none is left behind."""
    bundle = _bundle(size)
    left = list(addresses)
    turn = threading.Lock()
    refused: list[str] = []

    def shelve(number: int) -> Shelf | None:
        while True:
            with turn:
                if not left:
                    return None
                address = left.pop(0)
            shelf = Shelf(api, {"number": number, "node": address, "invocation": _token("invoke"), "shutdown": _token("shutdown"),
                                "drop": secrets.token_hex(16), "sha256": ""})
            try:
                _patiently(lambda: api.nodes.install(address, bundle, shelf.remote.invocation_token, shelf.remote.shutdown_token))
                shelf.begin(size)
                return shelf
            except TROUBLE as error:
                refused.append(f"{address}: {error}")
                # It may be there all the same: the answer can have been lost.
                ended([shelf])

    made = each(numbers, shelve)
    shelves = [shelf for shelf in made if isinstance(shelf, Shelf)]
    errors = [error for error in made if isinstance(error, BaseException)]
    if len(shelves) < len(numbers):
        ended(shelves)
        if errors:
            raise errors[0]
        reasons = "; ".join(refused) or "there are no more"
        raise NotEnoughNodes(f"{len(shelves)} of {len(numbers)} nodes took a shard, of {len(addresses)} that were there; {reasons}"[:900])
    return shelves


def ended(shelves: Iterable[Shelf]) -> list[tuple[Shelf, str]]:
    """Ends these, as far as their nodes can be reached; those that could not, and why."""

    def end(shelf: Shelf) -> str | None:
        try:
            shelf.end()
        except Refused:
            return None  # It is gone already.
        except TROUBLE as error:
            return str(error)
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


def _patiently(act: Callable) -> object:
    pause = PAUSE_SECONDS
    for _ in range(TRIES - 1):
        try:
            return act()
        except (ConnectionError, Timeout, Busy):
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
