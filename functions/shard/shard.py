"""Shard: splits a file into shards on other nodes, of which any few rebuild it.

The file comes as the input, stripe by stripe; each stripe becomes a piece for every shard (`erasure.py`), each piece is sealed (`sealing.py`) and
goes to its shard's node (`shelves.py`). What comes back is a recipe: where the shards are, how to get at them, and the key, which is nowhere
else. Memory does not grow with the file.
"""

import base64
import hashlib
import json
import secrets

import erasure
from sealing import KEY_BYTES, TAG_BYTES, Corrupt, Sealer
from shelves import TROUBLE, NotEnoughNodes, Shelf, candidates, each, ended, installed

VERSION = 1

SHARDS_MAX = 128
"""Most shards of one file: each is a node, and a function on it."""

RECIPE_BYTES_MAX = 256 * 1024
"""Longest recipe that is read."""

ROUNDS_MAX = 4
"""How often a repair begins again because it met another shard that is no good."""

__all__ = ["NotEnoughNodes", "check", "get", "put", "remove", "repair"]


class TooFewShards(Exception):
    """Fewer are left than the file needs."""


class CutOff(Exception):
    """The input was not as long as was announced."""


class BadRecipe(ValueError):
    """This is no recipe."""


def put(api, n: int, k: int, size: int, nodes: "list | None" = None, mode: str = "rs") -> None:
    """Spreads the input of `size` bytes over `n` nodes, any `k` of which rebuild it; sends the recipe.

    `nodes`: addresses to choose from, or objects with `address`, `operator` and `relay`; those that this node's operator lists, if it is not
    given. `mode`: `rs`, or `fountain`, of which more than 256 shards can be made in time.
    """
    for number, what, least, most in ((k, "k", 1, SHARDS_MAX), (n, "n", k, SHARDS_MAX), (size, "size", 0, 1 << 53)):
        if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
            raise ValueError(f"{what} is a whole number from {least} to {most}")
    code = erasure.make(mode, k, size, n)
    key = secrets.token_bytes(KEY_BYTES)
    shelves = installed(api, candidates(api, nodes), list(range(n)), _shard_bytes(code))
    try:
        digest = hashlib.sha256()
        _spread(code, key, shelves, _read(api, code, size, digest))
    except BaseException:
        ended(shelves)
        raise
    recipe = {
        "bento_shard": VERSION,
        "mode": mode,
        "n": n,
        "k": k,
        "size": size,
        "stripe": code.stripe,
        "sha256": digest.hexdigest(),
        "key": base64.urlsafe_b64encode(key).decode().rstrip("="),
        "next": n,
        "shards": [shelf.entry for shelf in shelves],
    }
    api.log(f"{n} shards of {_shard_bytes(code)} bytes on {n} nodes")
    _tell(api, recipe)


def get(api, offset: int = 0) -> None:
    """Rebuilds the file, from `offset` on, of the recipe that is the input. The log says which shards were missing or corrupt."""
    recipe, code = _recipe(api)
    if not isinstance(offset, int) or not 0 <= offset <= recipe["size"]:
        raise ValueError(f"the offset is a whole number from 0 to {recipe['size']}")
    lost: dict[int, str] = {}
    api.output.length(recipe["size"] - offset)
    first = min(offset // code.stripe, code.stripes - 1)
    digest = hashlib.sha256()
    held = b""
    for index, stripe in _rebuilt(api, recipe, code, lost, first):
        # Each piece is authentic by itself. The digest of all is asked before the last of it leaves.
        api.output.write(held)
        digest.update(stripe)
        held = stripe[max(0, offset - index * code.stripe) :]
    if first == 0 and digest.hexdigest() != recipe["sha256"]:
        raise BadRecipe("the file is not the one that the recipe tells of")
    _report(api, recipe, lost)
    api.output.write(held)


def check(api, thorough: bool = False) -> None:
    """Tells of each shard of the recipe that is the input whether it is there. `thorough`: reads all of them; else their nodes are believed."""
    recipe, code = _recipe(api)
    lost = _lost(api, recipe, code, thorough)
    _report(api, recipe, lost)
    told = [
        {"number": entry["number"], "node": entry["node"], "good": entry["number"] not in lost, "why": lost.get(entry["number"])}
        for entry in recipe["shards"]
    ]
    _tell(api, {"k": recipe["k"], "good": len(told) - len(lost), "shards": told})


def repair(api, nodes: "list | None" = None, more: int = 0, thorough: bool = False) -> None:
    """Makes up the shards that are lost, and `more`, on other nodes; sends the new recipe. Until it is there, the old one holds."""
    recipe, code = _recipe(api)
    lost = _lost(api, recipe, code, thorough)
    for _ in range(ROUNDS_MAX):
        if not lost and not more:
            break
        before = dict(lost)
        recipe = _repaired(api, recipe, code, nodes, lost, more)
        more = 0
        # Those that turned out to be bad while the others were read.
        lost = {number: why for number, why in lost.items() if number not in before}
    _report(api, recipe, lost)
    _tell(api, recipe)


def remove(api) -> None:
    """Ends all shards of the recipe that is the input."""
    recipe, _ = _recipe(api)
    left = ended(Shelf(api, entry) for entry in recipe["shards"])
    _tell(api, {"ended": len(recipe["shards"]) - len(left), "left": [{"node": shelf.node, "why": why} for shelf, why in left]})


def _repaired(api, recipe: dict, code, nodes: "list | None", lost: dict[int, str], more: int) -> dict:
    good = [entry for entry in recipe["shards"] if entry["number"] not in lost]
    bad = [entry for entry in recipe["shards"] if entry["number"] in lost]
    numbers = _fresh(recipe, code, lost, len(bad) + more)
    taken = {entry["node"] for entry in good}
    where = [address for address in candidates(api, nodes, avoid=[entry["node"] for entry in bad]) if address not in taken]
    shelves = installed(api, where, numbers, _shard_bytes(code))
    try:
        _spread(code, _key(recipe), shelves, (stripe for _, stripe in _rebuilt(api, recipe, code, lost, 0)))
    except BaseException:
        ended(shelves)
        raise
    # Only now: until here the old recipe held.
    ended(Shelf(api, entry) for entry in bad)
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
        yield stripe
    if api.input.read(1):
        raise CutOff(f"more than the {size} bytes came that were announced")


def _spread(code, key: bytes, shelves: list[Shelf], stripes) -> None:
    """Makes the pieces of these shards and stores them."""
    sealers = [Sealer(key, shelf.number, code.stripes) for shelf in shelves]
    sealed_bytes = code.piece + TAG_BYTES
    numbers = [shelf.number for shelf in shelves]
    index = 0
    for stripe in stripes:
        pieces = code.encode(stripe.ljust(code.stripe, b"\0"), numbers)

        def store(at: int) -> None:
            shelves[at].put(index * sealed_bytes, sealers[at].seal(index, pieces[at]))

        _all_done(shelves, each(range(len(shelves)), store))
        index += 1
    _all_done(shelves, each(shelves, Shelf.finish))


def _all_done(shelves: list[Shelf], results: list) -> None:
    for shelf, result in zip(shelves, results):
        if isinstance(result, TROUBLE):
            raise NotEnoughNodes(f"the node of shard {shelf.number} failed, and nothing was left behind where it can be reached: {result}") from result
        if isinstance(result, Exception):
            raise result


def _rebuilt(api, recipe: dict, code, lost: dict[int, str], first: int):
    """The file's stripes from the first one on, each with its index; shards that turn out to be bad are put among the lost."""
    key = _key(recipe)
    # Those with parts of the file itself first: of them, nothing has to be computed.
    shelves = [Shelf(api, entry) for entry in sorted(recipe["shards"], key=lambda entry: entry["number"])]
    sealers = {shelf.number: Sealer(key, shelf.number, code.stripes) for shelf in shelves}
    sealed_bytes = code.piece + TAG_BYTES
    for index in range(first, code.stripes):
        pieces: dict[int, bytes] = {}
        needed = recipe["k"]

        def fetch(shelf: Shelf) -> bytes:
            sealed = shelf.get(index * sealed_bytes, sealed_bytes)
            return sealers[shelf.number].open(index, sealed)

        while True:
            rest = [shelf for shelf in shelves if shelf.number not in pieces and shelf.number not in lost]
            if len(pieces) < needed:
                chosen = rest[: needed - len(pieces)]
                if len(pieces) + len(chosen) < needed:
                    _report(api, recipe, lost)
                    raise TooFewShards(f"{len(rest) + len(pieces)} shards are good, and {needed} are needed; {_reasons(recipe, lost)}"[:900])
                for shelf, found in zip(chosen, each(chosen, fetch)):
                    if isinstance(found, bytes):
                        pieces[shelf.number] = found
                    else:
                        lost[shelf.number] = _why(found)
                continue
            try:
                stripe = code.decode(pieces)
                break
            except erasure.TooFew:
                needed += 1  # Of a fountain's pieces, seldom one more is needed.
        yield index, stripe[: max(0, recipe["size"] - index * code.stripe)]


def _lost(api, recipe: dict, code, thorough: bool) -> dict[int, str]:
    """Which shards are no good, and why."""
    key = _key(recipe)
    sealed_bytes = code.piece + TAG_BYTES

    def look(entry: dict) -> None:
        shelf = Shelf(api, entry)
        head = shelf.head()
        if head.get("sha256") != entry["sha256"] or head.get("size") != _shard_bytes(code):
            raise Corrupt("its node says that it has something else")
        if thorough:
            sealer = Sealer(key, shelf.number, code.stripes)
            for index in range(code.stripes):
                sealer.open(index, shelf.get(index * sealed_bytes, sealed_bytes))

    found = each(recipe["shards"], look)
    return {entry["number"]: _why(error) for entry, error in zip(recipe["shards"], found) if error is not None}


def _why(error: object) -> str:
    if isinstance(error, Corrupt):
        return f"corrupt: {error}"
    if isinstance(error, TROUBLE):
        # A node that says that what it has was changed on its disk, or that it has another file.
        kind = "corrupt" if "Damaged" in str(error) else "missing"
        return f"{kind}: {error}"
    raise error


def _report(api, recipe: dict, lost: dict[int, str]) -> None:
    good = sum(entry["number"] not in lost for entry in recipe["shards"])
    api.log(f"{good} of {len(recipe['shards'])} shards are good as far as was looked; {recipe['k']} are needed")
    for line in _reasons(recipe, lost).split("; ") if lost else ():
        api.log(line)


def _reasons(recipe: dict, lost: dict[int, str]) -> str:
    known = {entry["number"]: entry["node"] for entry in recipe["shards"]}
    return "; ".join(f"shard {number} at {known[number]}: {why}" for number, why in sorted(lost.items()) if number in known)


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


def _shard_bytes(code) -> int:
    return code.stripes * (code.piece + TAG_BYTES)


def _tell(api, value: dict) -> None:
    text = json.dumps(value).encode() + b"\n"
    api.output.type("application/json")
    api.output.length(len(text))
    api.output.write(text)
