"""Shard: splits a file into shards on other nodes, of which any few rebuild it.

The file comes as the input, or was left here before, and is taken stripe by stripe; each stripe becomes a piece for every shard (`erasure.py`),
each piece is sealed (`sealing.py`) and goes to its shard's node (`filling.py`, `shelves.py`). What comes back is a recipe: where the shards
are, how to get at them, and the key, which is nowhere else. Memory does not grow with the file.
"""

import base64
import hashlib
import json
import secrets

import erasure
from dropbox import dropbox
from filling import Rebuilt, TooFewShards, fill, reasons, sealed_bytes, shard_bytes, why
from jobs import Job, Marks, PartsMissing, Underway, gathered, given_back
from sealing import KEY_BYTES, Corrupt, Sealer
from shelves import NotEnoughNodes, Places, Shelf, candidates, each, ended

VERSION = 1

SHARDS_MAX = 128
"""Most shards of one file: each is a node, and a function on it."""

RECIPE_BYTES_MAX = 256 * 1024
"""Longest recipe that is read."""

ORDER_BYTES_MAX = 4 * 1024 * 1024
"""Longest list of a file's parts that is read."""

ROUNDS_MAX = 4
"""How often a repair begins again because it met another shard that is no good."""

GATHERED = 0.3
"""The part of a job that gathering a file counts as."""

__all__ = ["NotEnoughNodes", "PartsMissing", "TooFewShards", "Underway", "add", "check", "get", "put", "remove", "repair", "spread", "stage", "staged"]


class CutOff(Exception):
    """The input was not as long as was announced."""


class BadRecipe(ValueError):
    """This is no recipe."""


def put(api, n: int, k: int, size: int, nodes: "list | None" = None, mode: str = "rs", conclave: str | None = None) -> None:
    """Spreads the input of `size` bytes over `n` nodes, any `k` of which rebuild it; sends the recipe.

    `nodes`: addresses to choose from, or objects with `address`, `operator` and `relay`; those that this node's operator lists, if it is not
    given. `mode`: `rs`, or `fountain`, of which more than 256 shards can be made in time. `conclave`: where nodes are conclaves, which are accepted.
    """
    api.nodes.accept(conclave)
    code = _code(n, k, size, mode)
    key = secrets.token_bytes(KEY_BYTES)
    shelves = Places(api, candidates(api, nodes), shard_bytes(code)).shelves(list(range(n)))
    try:
        digest = hashlib.sha256()
        stripes = _read(api, code, size, digest)
        fill(code, key, shelves, lambda index: next(stripes))
    except BaseException:
        ended(shelves)
        raise
    _tell(api, _made(api, code, (n, k, size, mode), key, digest.hexdigest(), shelves))


def stage(api, drop: str, size: int, expires: float = dropbox.EXPIRES_SECONDS, gets: None = None, name: None = None) -> None:
    """Announces a file that is to be left here for `spread`, as `begin` of Dropbox does."""
    dropbox.begin(api, drop, size, expires)


def add(api, drop: str, offset: int = 0) -> None:
    """Adds the input to it, as `put` of Dropbox does."""
    dropbox.put(api, drop, offset)


def staged(api, drop: str, sha256: str) -> None:
    """Checks that all of it is here, as `finish` of Dropbox does."""
    dropbox.finish(api, drop, sha256)


def spread(
    api,
    drop: str,
    n: int,
    k: int,
    nodes: "list | None" = None,
    avoid: "list | tuple" = (),
    mode: str = "rs",
    marks: bool = False,
    conclave: str | None = None,
) -> None:
    """Spreads a file that was left here, as `put` does, and removes it; sends the recipe. Invoked again after it was broken off, it goes on.

    The input is empty, or the list of parts elsewhere that the file is first gathered from (`jobs.gathered`). `avoid`: addresses that are
    taken last. `marks`: before the recipe come 1,000 dots, which tell how much is done. `conclave` as in `put`.
    """
    api.nodes.accept(conclave)
    text = api.input.read(ORDER_BYTES_MAX + 1)
    if len(text) > ORDER_BYTES_MAX:
        raise ValueError("the list of parts is too long")
    order = json.loads(text) if text else None
    progress = Marks(api, marks)
    with Job(api, drop) as job:
        if "recipe" not in job.record:
            before = 0.0 if order is None else GATHERED
            if order is not None:
                gathered(api, drop, order, lambda part: progress.at(part * before))
            size = dropbox._record(api, drop)["size"]
            code = _code(n, k, size, mode)
            if dropbox._have(api, drop) != size:
                raise CutOff(f"{dropbox._have(api, drop)} of {size} bytes are here")
            recipe = _spread(api, job, drop, code, (n, k, size, mode), (nodes, avoid), lambda part: progress.at(before + part * (1 - before)))
            job.keep(recipe=recipe, shelves={})
        # After a kill it may still be here.
        with dropbox._lock(drop):
            dropbox._erase(api, drop)
        if order is not None and not job.record.get("gathered"):
            given_back(api, order)
            job.keep(gathered=True)
        progress.at(1.0)
        _tell(api, job.record["recipe"], marks)


def get(api, offset: int = 0, report: int = 0, conclave: str | None = None) -> None:
    """Rebuilds the file, from `offset` on, of the recipe that is the input. The log says which shards were missing or corrupt.

    `report`: behind the file come so many bytes that say it too, as JSON, filled up with spaces: `{"k", "of", "good", "lost": [{"number", "node",
    "why"}]}`. `conclave` as in `put`.
    """
    api.nodes.accept(conclave)
    recipe, code = _recipe(api)
    if not isinstance(offset, int) or not 0 <= offset <= recipe["size"]:
        raise ValueError(f"the offset is a whole number from 0 to {recipe['size']}")
    if not isinstance(report, int) or not (report == 0 or 1_024 <= report <= RECIPE_BYTES_MAX):
        raise ValueError(f"a report has 1024 to {RECIPE_BYTES_MAX} bytes")
    lost: dict[int, str] = {}
    api.output.length(recipe["size"] - offset + report)
    first = min(offset // code.stripe, code.stripes - 1)
    digest = hashlib.sha256()
    held = b""
    stripes = Rebuilt(api, recipe, code, _key(recipe), lost, first)
    try:
        for index, stripe in stripes:
            # Each piece is authentic by itself. The digest of all is asked before the last of it leaves.
            api.output.write(held)
            digest.update(stripe)
            held = stripe[max(0, offset - index * code.stripe) :]
    except TooFewShards:
        _report(api, recipe, lost)
        raise
    finally:
        stripes.close(blame=True)
    if first == 0 and digest.hexdigest() != recipe["sha256"]:
        raise BadRecipe("the file is not the one that the recipe tells of")
    _report(api, recipe, lost)
    api.output.write(held + (_reported(recipe, lost, report) if report else b""))


def check(api, thorough: bool = False, conclave: str | None = None) -> None:
    """Tells of each shard of the recipe that is the input whether it is there. `thorough`: reads all of them; else their nodes are believed.

    `conclave` as in `put`.
    """
    api.nodes.accept(conclave)
    recipe, code = _recipe(api)
    lost = _lost(api, recipe, code, thorough)
    _report(api, recipe, lost)
    told = [
        {"number": entry["number"], "node": entry["node"], "good": entry["number"] not in lost, "why": lost.get(entry["number"])}
        for entry in recipe["shards"]
    ]
    _tell(api, {"k": recipe["k"], "good": len(told) - len(lost), "shards": told})


def repair(
    api,
    nodes: "list | None" = None,
    more: int = 0,
    thorough: bool = False,
    avoid: "list | tuple" = (),
    job: str | None = None,
    marks: bool = False,
    conclave: str | None = None,
) -> None:
    """Makes up the shards that are lost, and `more`, on other nodes; sends the new recipe. Until it is there, the old one holds.

    `job`: 32 hexadecimal digits; invoked again with the same and the same recipe after it was broken off, it goes on. `avoid`, `marks` and
    `conclave` as in `spread`.
    """
    api.nodes.accept(conclave)
    recipe, code = _recipe(api)
    progress = Marks(api, marks)
    with Job(api, job) as work:
        if "recipe" not in work.record:
            before = recipe["shards"]
            recipe, lost = _mended(api, work, recipe, code, (nodes, avoid), more, thorough, progress)
            _report(api, recipe, lost)
            left = {entry["drop"] for entry in recipe["shards"]}
            bad = [entry for entry in [*before, *work.shelves.values()] if entry["drop"] not in left]
            work.keep(recipe=recipe, shelves={}, bad=bad)
        # Only now: until here the old recipe held, and a node that could not be reached for a while may be back.
        if work.record.get("bad"):
            ended((Shelf(api, entry) for entry in work.record["bad"]), tries=1)
            work.keep(bad=[])
        progress.at(1.0)
        _tell(api, work.record["recipe"], marks)


def remove(api, conclave: str | None = None) -> None:
    """Ends all shards of the recipe that is the input. `conclave` as in `put`."""
    api.nodes.accept(conclave)
    recipe, _ = _recipe(api)
    left = ended(Shelf(api, entry) for entry in recipe["shards"])
    _tell(api, {"ended": len(recipe["shards"]) - len(left), "left": [{"node": shelf.node, "why": text} for shelf, text in left]})


def _code(n: int, k: int, size: int, mode: str) -> "erasure.Rs | erasure.Fountain":
    for number, what, least, most in ((k, "k", 1, SHARDS_MAX), (n, "n", k, SHARDS_MAX), (size, "size", 0, 1 << 53)):
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise ValueError(f"{what} is a whole number from {least} to {most}")
    return erasure.make(mode, k, size, n)


def _made(api, code, asked: tuple, key: bytes, sha256: str, shelves: list[Shelf]) -> dict:
    """The recipe of what was spread."""
    n, k, size, mode = asked
    api.log(f"{n} shards of {shard_bytes(code)} bytes on {n} nodes")
    return {
        "bento_shard": VERSION,
        "mode": mode,
        "n": n,
        "k": k,
        "size": size,
        "stripe": code.stripe,
        "sha256": sha256,
        "key": _text(key),
        "next": n,
        "shards": [shelf.entry for shelf in shelves],
    }


def _spread(api, job: Job, drop: str, code, asked: tuple, where: tuple, told) -> dict:
    """Spreads what was left here; its recipe."""
    n, k, size, mode = asked
    if job.record.get("asked", [n, k, mode]) != [n, k, mode]:
        raise ValueError("this file was begun to be spread in another way")
    if "key" not in job.record:
        job.keep(key=_text(secrets.token_bytes(KEY_BYTES)), asked=[n, k, mode])
    key = _key(job.record)
    nodes, avoid = where
    taken = {entry["node"] for entry in job.shelves.values()}
    free = [address for address in candidates(api, nodes, avoid) if address not in taken]
    places = Places(api, free, shard_bytes(code), job.shelve)

    def source(index: int) -> bytes:
        return api.store.get(f"c/{drop}", index * code.stripe, code.stripe)

    with _clean(api, job):
        shelves = places.shelves(list(range(n)), job.shelves)
        fill(code, key, shelves, source, places.other, told)
    digest = hashlib.sha256()
    for index in range(code.stripes):
        digest.update(source(index))
    return _made(api, code, asked, key, digest.hexdigest(), shelves)


class _clean:
    """Ends the shelves that a job took when it fails, but for the end of its invocation or its node, after which it goes on."""

    def __init__(self, api, job: Job) -> None:
        self._api = api
        self._job = job

    def __enter__(self) -> None:
        pass

    def __exit__(self, kind: "type | None", error: object, trace: object) -> None:
        if kind is not None and issubclass(kind, Exception):
            ended((Shelf(self._api, entry) for entry in self._job.shelves.values()), tries=1)
            self._job.keep(shelves={})


def _mended(api, job: Job, recipe: dict, code, where: tuple, more: int, thorough: bool, progress: Marks) -> tuple:
    """The recipe with what was lost made up, and what is still lost."""
    before = {"sha256": recipe["sha256"], "shelves": sorted(entry["drop"] for entry in recipe["shards"])}
    if job.record.get("of", before) != before:
        raise ValueError("this job was begun with another recipe")
    if "lost" not in job.record:
        found = _lost(api, recipe, code, thorough)
        job.keep(of=before, lost=sorted(found.items()), more=more)
    lost = dict(job.record["lost"])
    more = job.record["more"]
    for _ in range(ROUNDS_MAX):
        if not lost and not more:
            break
        known = dict(lost)
        recipe = _repaired(api, job, recipe, code, where, lost, more, progress)
        more = 0
        # Those that turned out to be bad while the others were read.
        lost = {number: text for number, text in lost.items() if number not in known}
    return recipe, lost


def _repaired(api, job: Job, recipe: dict, code, where: tuple, lost: dict[int, str], more: int, progress: Marks) -> dict:
    nodes, avoid = where
    good = [entry for entry in recipe["shards"] if entry["number"] not in lost]
    bad = [entry for entry in recipe["shards"] if entry["number"] in lost]
    numbers = _fresh(recipe, code, lost, len(bad) + more)
    known = {number: entry for number, entry in job.shelves.items() if number in numbers}
    taken = {entry["node"] for entry in [*good, *known.values()]}
    last = [*(entry["node"] for entry in bad), *avoid]
    places = Places(api, [address for address in candidates(api, nodes, last) if address not in taken], shard_bytes(code), job.shelve)
    stripes = Rebuilt(api, recipe, code, _key(recipe), lost)
    try:
        with _clean(api, job):
            shelves = places.shelves(numbers, known)
            fill(code, _key(recipe), shelves, stripes, places.other, progress.at)
    except TooFewShards:
        _report(api, recipe, lost)
        raise
    finally:
        stripes.close(blame=False)
    api.log(f"{len(shelves)} shards made, {len(good)} kept")
    shards = good + [shelf.entry for shelf in shelves]
    return recipe | {"n": len(shards), "next": max(recipe["next"], *(number + 1 for number in numbers)), "shards": shards}


def _fresh(recipe: dict, code, lost: dict[int, str], count: int) -> list[int]:
    """Numbers for new shards: such as never were, as long as there are any; a lost one that comes back is then one more."""
    numbers = list(range(recipe["next"], min(code.numbers, recipe["next"] + count)))
    numbers += sorted(number for number in lost)[: count - len(numbers)]
    if len(numbers) < count:
        raise ValueError(f"of this mode there are {code.numbers} shards, and all were made; put the file again")
    return numbers


def _read(api, code, size: int, digest):
    """The input in stripes."""
    left = size
    for _ in range(code.stripes):
        stripe = api.input.read(min(left, code.stripe))
        if len(stripe) < min(left, code.stripe):
            raise CutOff(f"{size - left + len(stripe)} bytes came, and {size} were announced")
        left -= len(stripe)
        digest.update(stripe)
        if left == 0 and api.input.read(1):
            raise CutOff(f"more than the {size} bytes came that were announced")
        yield stripe


def _lost(api, recipe: dict, code, thorough: bool) -> dict[int, str]:
    """Which shards are no good, and why."""
    key = _key(recipe)
    count = sealed_bytes(code)

    def look(entry: dict) -> None:
        shelf = Shelf(api, entry)
        head = shelf.head()
        if head.get("sha256") != entry["sha256"] or head.get("size") != shard_bytes(code):
            raise Corrupt("its node says that it has something else")
        if thorough:
            sealer = Sealer(key, shelf.number, code.stripes)
            for index in range(code.stripes):
                sealer.open(index, shelf.get(index * count, count))

    found = each(recipe["shards"], look)
    return {entry["number"]: why(error) for entry, error in zip(recipe["shards"], found) if error is not None}


def _report(api, recipe: dict, lost: dict[int, str]) -> None:
    good = sum(entry["number"] not in lost for entry in recipe["shards"])
    api.log(f"{good} of {len(recipe['shards'])} shards are good as far as was looked; {recipe['k']} are needed")
    for line in reasons(recipe, lost).split("; ") if lost else ():
        api.log(line)


def _reported(recipe: dict, lost: dict[int, str], count: int) -> bytes:
    """The same as JSON of exactly so many bytes; where it would be longer, reasons are cut."""
    known = {entry["number"]: entry["node"] for entry in recipe["shards"]}
    for characters in (300, 60, 0):
        told = [{"number": number, "node": known[number], "why": text[:characters]} for number, text in sorted(lost.items()) if number in known]
        text = json.dumps({"k": recipe["k"], "of": len(known), "good": len(known) - len(told), "lost": told}).encode()
        if len(text) <= count:
            break
    else:
        text = json.dumps({"k": recipe["k"], "of": len(known), "good": len(known) - len(told), "lost": []}).encode()
    return text.ljust(count)


def _recipe(api) -> tuple:
    """The recipe that is the input, and its code."""
    text = api.input.read(RECIPE_BYTES_MAX + 1)
    if len(text) > RECIPE_BYTES_MAX:
        raise BadRecipe("a recipe is not that long")
    try:
        recipe = json.loads(text)
        if recipe["bento_shard"] != VERSION:
            raise BadRecipe(f"a recipe of version {recipe['bento_shard']}, and not {VERSION}")
        if not isinstance(recipe["shards"], list):
            raise BadRecipe("the input is no recipe")
        numbers = [entry["number"] for entry in recipe["shards"]]
        wanted = {"number": int, "node": str, "invocation": str, "shutdown": str, "drop": str, "sha256": str}
        is_good = (
            all(isinstance(entry[key], kind) for entry in recipe["shards"] for key, kind in wanted.items())
            and all(isinstance(recipe[key], int) and recipe[key] >= least for key, least in (("k", 1), ("size", 0), ("stripe", 1), ("next", 0)))
            and isinstance(recipe["sha256"], str)
            and len(set(numbers)) == len(numbers)
            and len(_key(recipe)) == KEY_BYTES
        )
        if not is_good or recipe["k"] > SHARDS_MAX:
            raise BadRecipe("the input is no recipe")
        code = erasure.remake(recipe["mode"], recipe["k"], recipe["size"], recipe["stripe"])
        if code.stripe != recipe["stripe"] or not all(0 <= number < code.numbers for number in numbers):
            raise BadRecipe("the input is no recipe")
    except (KeyError, TypeError, UnicodeDecodeError) as error:
        raise BadRecipe("the input is no recipe") from error
    except ValueError as error:
        raise error if isinstance(error, BadRecipe) else BadRecipe(f"the input is no recipe: {error}") from error
    return recipe, code


def _key(recipe: dict) -> bytes:
    return base64.urlsafe_b64decode(recipe["key"] + "=" * (-len(recipe["key"]) % 4))


def _text(key: bytes) -> str:
    return base64.urlsafe_b64encode(key).decode().rstrip("=")


def _tell(api, value: dict, begun: bool = False) -> None:
    text = json.dumps(value).encode() + b"\n"
    if not begun:
        api.output.type("application/json")
        api.output.length(len(text))
    api.output.write(text)
