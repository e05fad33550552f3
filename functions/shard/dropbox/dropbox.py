"""Dropbox: keeps files for whoever has the function's token, until they expire or were fetched often enough.

A file is a *drop*, named by a random id that the client makes. It comes in parts, each durable when its invocation returns, so that a
broken circuit costs a part and not the file. The function neither knows nor cares what the bytes are: clients encrypt them
(`FORMAT.md`), and a page that it can send decrypts them in the reader's browser.

In the store each drop is a few names, and a kill between any two steps leaves what the next invocation takes for what it is:

    d/ID              what is known of it, as JSON; the drop is there while this name is
    c/ID              its bytes; without `d/ID` they are rubbish
    x/SECONDS/ID      when to look whether it has expired, sorted by time; made before the other two, removed after them
"""

import _thread
import json
import time

from bento import pad as padding
from bento.api import Full, Missing

PART_BYTES = 4 * 1024 * 1024
"""How much of an upload becomes durable at once, and the most that one keeps in memory."""

RESERVE_BYTES = 8 * 1024 * 1024
"""Bytes of a download that are counted before they are sent: at most so many are counted in vain when the node is killed. They go from the
store to the reader, and are never here."""

META_BYTES_MAX = 4_096
"""Longest metadata. They are the client's, encrypted or not."""

NAME_CHARACTERS_MAX = 200
"""Longest name under which a browser saves a drop."""

GETS_MAX = 1_000
"""Largest limit of gets: who has fetched a drop is remembered, so that a download that is resumed counts once."""

DROPS_MAX = 1_000
"""Most drops at the same time."""

SIZE_MAX = 1 << 53
"""Largest size that every reader of JSON understands."""

EXPIRES_SECONDS = 7 * 24 * 3_600
"""How long a drop is kept if nothing else is said."""

ABSOLUTE_SECONDS = 1_000_000_000
"""From here on a time is one since 1970, and not from now on: 31 years."""

STORED_BYTES = 4 * 1_024
"""What the store counts for a drop's three names besides their content, and for a fourth while it is erased."""

_LOCKS = [_thread.allocate_lock() for _ in range(64)]
_BEGINNING = _thread.allocate_lock()

# SHA-256 so far of drops that come, and of how many bytes: what came in one life of this process is not read again at its end.
_digests: dict[str, tuple] = {}

# Bytes that running downloads may still send, by drop: promised to them, and not yet counted in the store.
_promised: dict[str, int] = {}


class NoSuchDrop(Exception):
    """It was never there, is deleted, or has expired."""


class DropExists(Exception):
    """There is a drop of this id already, and it is not the same."""


class WrongOffset(Exception):
    """The part does not fit where the drop ends."""


class WrongHash(Exception):
    """What has come is not what was sent."""


class TooLarge(Exception):
    """More than was announced."""


class NotFinished(Exception):
    """Not all of it is there, or nobody has said that it is right."""


class UsedUp(Exception):
    """It was fetched as often, or as much of it, as was allowed."""


def begin(
    api,
    drop: str,
    size: int,
    expires: float = EXPIRES_SECONDS,
    gets: int | None = None,
    bytes_out: int | None = None,
    meta: str = "",
    name: str | None = None,
) -> None:
    """Announces a drop of `size` bytes. Repeated, it tells how much is there: `{"offset": N}`.

    `expires`: seconds from now, or since 1970. `gets`: how often it can be fetched, `bytes_out`: how many bytes of it in all; without
    them, any number. `meta` is the client's. `name`: under which a browser saves it.
    """
    _sweep(api)
    _tell(api, {"offset": _begun(api, drop, size, expires, gets, bytes_out, meta, name)})


def put(api, drop: str, offset: int = 0) -> None:
    """Adds the input at `offset`, which is where the drop ends, or before: what is there already is passed over.

    Tells how much is there then: `{"offset": N}`, also when the part does not fit. All of that is durable.
    """
    _sweep(api)
    try:
        _tell(api, {"offset": _taken(api, drop, _whole(offset, "offset"))})
    except (WrongOffset, TooLarge):
        _tell(api, {"offset": _have(api, drop)})
        raise


def finish(api, drop: str, sha256: str) -> None:
    """Checks that all of it is there and is what was sent; from now on it can be fetched."""
    _sweep(api)
    _tell(api, _finished(api, drop, sha256))


def drop(
    api,
    drop: str,
    size: int,
    expires: float = EXPIRES_SECONDS,
    gets: int | None = None,
    bytes_out: int | None = None,
    meta: str = "",
    name: str | None = None,
    sha256: str | None = None,
) -> None:
    """Begins, puts and finishes a drop in one: the input is all of it. Without `sha256` the sender compares the one that it is told."""
    _sweep(api)
    have = _begun(api, drop, size, expires, gets, bytes_out, meta, name)
    if have < size:
        _taken(api, drop, 0)
    _tell(api, _finished(api, drop, sha256))


def get(
    api, drop: str, offset: int = 0, length: int | None = None, pad: "int | list[int] | None" = None, reader: str | None = None
) -> None:
    """Sends a drop, or `length` bytes of it from `offset` on.

    `pad`: padded to a multiple of so many bytes, or to one of these sizes (`bento.pad`); `offset` and `length` are then those of the
    padded file. `reader`: any id that the client makes for one download; all requests of one reader count as one get.
    """
    _sweep(api)
    _sent(api, drop, _whole(offset, "offset"), None if length is None else _whole(length, "length"), pad, reader)


def head(api, drop: str) -> None:
    """Tells what is known of a drop."""
    _sweep(api)
    _tell(api, _told(api, _id(drop), _record(api, drop)))


def list(api) -> None:
    """Tells what is known of all drops."""
    _sweep(api)
    found = []
    for entry in api.store.list("d/"):
        known = entry.name.removeprefix("d/")
        try:
            found.append(_told(api, known, _record(api, known)))
        except NoSuchDrop:
            pass  # Deleted meanwhile.
    _tell(api, {"drops": found})


def delete(api, drop: str) -> None:
    """Erases a drop."""
    _sweep(api)
    with _lock(drop):
        _tell(api, {"existed": _erase(api, _id(drop))})


def link(api, drop: str, seconds: float, page: bool = False) -> None:
    """Makes a link for browsers: `{"path": "/l/…"}`, to follow the node's address. Each download through it counts as a get.

    With `page` it shows a page that decrypts the drop with the key in the link's fragment (`FORMAT.md`); without, it saves the drop as it is.
    """
    _sweep(api)
    record = _record(api, drop)
    left = min(float(seconds), record["expires"] - time.time())
    path = api.link.make("visit", {"drop": _id(drop), "page": bool(page)}, seconds=max(1.0, left))
    _tell(api, {"path": path})


def visit(api, drop: str, page: bool = False, path: str = "") -> None:
    """What a link does. `path` is what follows in the address: nothing, or `raw` for the drop itself.

    `raw/READER/OFFSET` is the drop from that byte on, as a program asks that goes on with a download: all requests of one reader,
    an id that it makes for one download, count as one get.
    """
    _sweep(api)
    wanted = path.strip("/")
    kind, reader, offset = (*wanted.split("/"), None, None)[:3]
    if kind not in ("", "raw") or wanted.count("/") not in (0, 2):
        raise NoSuchDrop("there is nothing at this address")
    record = _record(api, drop)
    _check_ready(record)
    if page and not wanted:
        from page import html

        content = html()
        api.output.type("text/html; charset=utf-8")
        api.output.length(len(content))
        api.output.write(content)
        return
    if offset is None:
        _sent(api, drop, 0, None, None, None, record["name"] or drop)
        return
    if not (offset.isascii() and offset.isdigit() and len(offset) <= 16):
        raise ValueError("an offset is a whole number")
    _sent(api, drop, int(offset), None, None, reader, record["name"] or drop)


def _begun(api, drop: str, size: int, expires: float, gets: int | None, bytes_out: int | None, meta: str, name: str | None) -> int:
    record = {
        "size": _whole(size, "size"),
        "expires": _when(expires),
        "gets": None if gets is None else _whole(gets, "gets", 1, GETS_MAX),
        "bytes_out": None if bytes_out is None else _whole(bytes_out, "bytes_out"),
        "meta": _text(meta, "meta", META_BYTES_MAX),
        "name": None if name is None else _text(name, "name", 4 * NAME_CHARACTERS_MAX)[:NAME_CHARACTERS_MAX],
        "sha256": None,
        "readers": [],
        "taken": 0,
        "sent": 0,
    }
    # One at a time: the room that one finds must not be another's as well.
    with _BEGINNING, _lock(drop):
        try:
            known = _record(api, drop)
        except NoSuchDrop:
            pass
        else:
            if any(known[key] != record[key] for key in ("size", "gets", "bytes_out", "meta", "name")):
                raise DropExists("there is another drop of this id; ids are random, and made for each drop")
            return _have(api, drop)
        _check_room(api, record["size"] + _grown(record) + len(_encoded(record)))
        # Of an earlier drop of this id that was not erased to its end.
        api.store.delete(f"c/{drop}")
        api.store.put(f"x/{record['expires']:011}/{drop}", b"")
        _write(api, drop, record)
        return 0


def _check_room(api, size: int) -> None:
    """Raises `Full` if this does not fit beside what is there and what was announced."""
    awaited = count = 0
    for entry in api.store.list("d/"):
        count += 1
        known = entry.name.removeprefix("d/")
        try:
            record = _record(api, known)
            awaited += record["size"] - _have(api, known) + _grown(record)
        except NoSuchDrop:
            pass  # It has expired meanwhile.
    if count >= DROPS_MAX:
        raise Full(122, f"there are {DROPS_MAX} drops, and no more can be kept")
    usage = api.store.usage()
    room = usage.limit - usage.used - awaited - STORED_BYTES
    if size > room:
        raise Full(122, f"the drop has {size} bytes, and there is room for {max(0, room)}; install Dropbox with more `storage`")


def _grown(record: dict) -> int:
    """By how much its record may still grow: by the readers that are to come, and by digits."""
    return (record["gets"] or 0) * 35 - len(record["readers"]) * 35 + 200


def _taken(api, drop: str, position: int) -> int:
    """Adds the input at this position; how much is there then."""
    size = _record(api, drop)["size"]
    part = bytearray()
    while True:
        more = _read(api, part)
        if part or not more:
            with _lock(drop):
                record = _record(api, drop)
                have = _have(api, drop)
                if position > have:
                    raise WrongOffset(f"{have} bytes are there; the next part begins at {have}")
                if position + len(part) > size:
                    raise TooLarge(f"the drop was announced with {size} bytes, and more have come")
                fresh = memoryview(part)[min(len(part), have - position):]
                if fresh.nbytes and record["sha256"] is None:
                    begun = have
                    have = api.store.append(f"c/{drop}", fresh)
                    _digest(drop, begun, fresh)
                position += len(part)
            part = bytearray()
        if not more:
            return have


def _digest(drop: str, at: int, part: memoryview) -> None:
    """Goes on with the digest of a drop whose lock is held, with what was added at this byte; or gives it up, if what was before is unknown."""
    import hashlib

    known, digest = (0, hashlib.sha256()) if at == 0 else _digests.pop(drop, (None, None))
    if known == at:
        digest.update(part)
        _digests[drop] = (at + part.nbytes, digest)


def _read(api, part: bytearray) -> bool:
    """Fills the part from the input; whether there may be more."""
    while len(part) < PART_BYTES:
        try:
            chunk = api.input.read1(min(65_536, PART_BYTES - len(part)))
        except ConnectionError:
            return False  # The client has left; what has come is right as far as it goes.
        if not chunk:
            return False
        part += chunk
    return True


def _finished(api, drop: str, sha256: str | None) -> dict:
    import hashlib

    wanted = None if sha256 is None else _text(sha256, "sha256", 64)
    with _lock(drop):
        record = _record(api, drop)
        have = _have(api, drop)
        if have != record["size"]:
            raise NotFinished(f"{have} of {record['size']} bytes are there; go on from {have}")
        known, digest = _digests.get(drop, (0, hashlib.sha256()))
    found = record["sha256"]
    if found is None:
        # Without the lock: a drop of some gigabytes takes a while, and nothing is added to one that is whole.
        if known != have:
            digest = hashlib.sha256()
            with api.store.open(f"c/{drop}") as file:
                for chunk in file:
                    digest.update(chunk)
        found = digest.hexdigest()
    if wanted not in (None, found):
        raise WrongHash("what is there is not what was sent; delete the drop and send it again")
    with _lock(drop):
        record = _record(api, drop)
        if record["sha256"] is None:
            record["sha256"] = found
            _write(api, drop, record)
        _digests.pop(drop, None)
    return {"size": record["size"], "sha256": found, "expires": record["expires"]}


def _sent(api, drop: str, offset: int, length: int | None, pad: "int | list[int] | None", reader: str | None, name: str | None = None) -> None:
    if reader is not None:
        reader = _id(reader)
    with _lock(drop):
        record = _record(api, drop)
        _check_ready(record)
        total = record["size"] if pad is None else padding.size(record["size"], pad)
        end = total if length is None else min(total, offset + length)
        if offset > total:
            raise ValueError(f"the drop ends at {total}, before this offset")
        count = end - offset
        promised = _promised.get(drop, 0)
        if record["bytes_out"] is not None and record["sent"] + promised + count > record["bytes_out"]:
            left = max(0, record["bytes_out"] - record["sent"] - promised)
            raise UsedUp(f"{left} bytes of this drop may still be sent, and {count} were asked for")
        if reader is None or reader not in record["readers"]:
            if record["gets"] is not None and record["taken"] >= record["gets"]:
                raise UsedUp(f"it was fetched {record['gets']} times, as often as was allowed")
            # Without a limit readers are not remembered; a resumed download is one that does not begin at the beginning.
            if record["gets"] is not None or offset == 0:
                record["taken"] += 1
            if record["gets"] is not None and reader is not None:
                record["readers"].append(reader)
        first = min(count, RESERVE_BYTES)
        record["sent"] += first
        _write(api, drop, record)
        _promise(drop, count - first)
    meter = _Meter(api, drop, first, count - first)
    try:
        api.output.type("application/octet-stream", name)
        api.output.length(count)
        for piece in _pieces(record, offset, end, None if pad is None else total):
            meter.before(len(piece))
            before = api.output.written
            try:
                if isinstance(piece, range):
                    api.output.write_stored(f"c/{drop}", piece.start, len(piece))
                else:
                    api.output.write(piece)
            finally:
                meter.after(api.output.written - before)
    finally:
        meter.close()


class _Meter:
    """Counts what is sent of a drop, before it is sent: after a kill there may be more counted than sent, and never less."""

    def __init__(self, api, drop: str, counted: int, promised: int) -> None:
        self._api = api
        self._drop = drop
        self._counted = counted
        self._promised = promised

    def before(self, count: int) -> None:
        """Makes sure that so many bytes are counted."""
        if count > self._counted:
            more = min(self._promised, max(RESERVE_BYTES, count))
            with _lock(self._drop):
                self._count(more)
                self._promised -= more
                _promise(self._drop, -more)

    def after(self, count: int) -> None:
        """So many bytes are sent."""
        self._counted -= count

    def close(self) -> None:
        """Gives back what was not sent."""
        with _lock(self._drop):
            _promise(self._drop, -self._promised)
            if self._counted:
                try:
                    self._count(-self._counted)
                except (NoSuchDrop, OSError):
                    pass  # It is gone, or the node is about to end this.

    def _count(self, count: int) -> None:
        record = _record(self._api, self._drop)
        record["sent"] += count
        _write(self._api, self._drop, record)
        self._counted += count


def _promise(drop: str, count: int) -> None:
    """Adds to what running downloads of a drop, whose lock is held, may still send."""
    total = _promised.pop(drop, 0) + count
    if total:
        _promised[drop] = total


def _pieces(record: dict, offset: int, end: int, padded: int | None):
    """What a drop has from offset to end: bytes, or a range of what is stored. `padded`: of its padded form, which has so many bytes."""
    start = 0
    if padded is not None:
        header = padding.header(record["size"], bytes.fromhex(record["sha256"]))
        start = len(header)
        if offset < min(start, end):
            yield header[offset:end]
    stored = range(max(offset, start) - start, min(end - start, record["size"]))
    for at in range(0, len(stored), RESERVE_BYTES):
        yield stored[at : at + RESERVE_BYTES]
    zeros = end - max(offset, start + record["size"])
    while zeros > 0:
        yield bytes(min(65_536, zeros))
        zeros -= 65_536


def _check_ready(record: dict) -> None:
    if record["sha256"] is None:
        raise NotFinished("the drop is still on its way here")


def _record(api, drop: str) -> dict:
    """What is known of a drop."""
    try:
        record = json.loads(api.store.get(f"d/{_id(drop)}"))
    except Missing:
        raise NoSuchDrop("there is no such drop, or no more") from None
    if record["expires"] <= time.time():
        raise NoSuchDrop("there is no such drop, or no more")
    return record


def _write(api, drop: str, record: dict) -> None:
    api.store.put(f"d/{drop}", _encoded(record))


def _encoded(record: dict) -> bytes:
    return json.dumps(record, ensure_ascii=False, separators=(",", ":")).encode()


def _have(api, drop: str) -> int:
    """How many bytes of a drop are there."""
    try:
        return api.store.size(f"c/{drop}")
    except Missing:
        return 0


def _told(api, drop: str, record: dict) -> dict:
    told = {key: value for key, value in record.items() if key != "readers"}
    return {"drop": drop, "offset": _have(api, drop), **told}


def _erase(api, drop: str) -> bool:
    """Erases a drop whose lock is held. Its record goes first: without it the drop is no more, whatever is left of it."""
    try:
        expires = json.loads(api.store.get(f"d/{drop}"))["expires"]
    except Missing:
        return False
    # Due at once: so the next invocation goes on where a kill cuts this short.
    due = f"x/{0:011}/{drop}"
    api.store.put(due, b"")
    _digests.pop(drop, None)
    for name in (f"d/{drop}", f"c/{drop}", f"x/{expires:011}/{drop}", due):
        api.store.delete(name)
    return True


def _sweep(api) -> None:
    """Erases what has expired, and what a kill left of a drop that was being erased."""
    now = time.time()
    due = []
    for entry in api.store.list("x/"):
        _, seconds, drop = entry.name.split("/")
        if int(seconds) > now:
            break
        due.append((entry.name, drop))
    for marker, drop in due:
        with _lock(drop):
            try:
                expires = json.loads(api.store.get(f"d/{drop}"))["expires"]
            except Missing:
                expires = 0
            # A marker may be older than the drop: of an announcement that was cut short and made again.
            if expires <= now:
                _digests.pop(drop, None)
                api.store.delete(f"d/{drop}")
                api.store.delete(f"c/{drop}")
            api.store.delete(marker)


def _lock(drop: str):
    return _LOCKS[int(_id(drop)[:2], 16) % len(_LOCKS)]


def _tell(api, value: dict) -> None:
    text = json.dumps(value, ensure_ascii=False).encode() + b"\n"
    api.output.type("application/json")
    api.output.length(len(text))
    api.output.write(text)


def _id(text: str) -> str:
    if not isinstance(text, str) or len(text) != 32 or not set(text) <= set("0123456789abcdef"):
        raise ValueError("an id is 32 hexadecimal digits in lower case")
    return text


def _whole(number: int, what: str, least: int = 0, most: int = SIZE_MAX) -> int:
    if not isinstance(number, int) or isinstance(number, bool) or not least <= number <= most:
        raise ValueError(f"{what} is a whole number from {least} to {most}")
    return number


def _when(expires: float) -> int:
    if not isinstance(expires, (int, float)) or isinstance(expires, bool) or not 0 < expires < 10 * ABSOLUTE_SECONDS:
        raise ValueError("expires is a number of seconds, from now on or since 1970")
    return int(expires if expires >= ABSOLUTE_SECONDS else time.time() + expires) + 1


def _text(text: str, what: str, bytes_max: int) -> str:
    # What cannot be encoded is a `ValueError` as well.
    if not isinstance(text, str) or len(text.encode()) > bytes_max:
        raise ValueError(f"{what} is a text of at most {bytes_max} bytes")
    return text
