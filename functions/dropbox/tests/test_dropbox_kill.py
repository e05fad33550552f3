"""A kill at any point: what was acknowledged is there, what was not can be done again, and nothing is left over."""

import time

import pytest
from conftest import Box, sha256

import dropbox
from bento.testing import FakeStore
from dropbox import NoSuchDrop, UsedUp

ID = "0123456789abcdef" * 2
OTHER = "fedcba9876543210" * 2
DATA = bytes(range(256)) * 400


class Killed(BaseException):
    """The process is no more."""


class Fuse(FakeStore):
    """A store whose function is killed at its n-th change: just before it happens, or just after, unacknowledged."""

    def __init__(self) -> None:
        super().__init__(1 << 20)
        self.left: int | None = None
        self.after = False

    def answer(self, name: str, arguments: dict):
        is_change = name in ("store.commit", "store.delete") or name == "store.put" and "value" in arguments
        if self.left is None or not is_change:
            if self.left == -1:
                raise Killed
            return super().answer(name, arguments)
        if self.left == 0:
            self.left = -1
            if self.after:
                super().answer(name, arguments)
        if self.left == -1:
            raise Killed
        self.left -= 1
        return super().answer(name, arguments)

    def revive(self) -> None:
        self.left = None
        self._writers.clear()
        dropbox._promised.clear()  # the new process knows nothing
        dropbox._digests.clear()


def upload(box: Box, known: list) -> None:
    """As a client does it, from wherever it stands; `known` is what was acknowledged to it."""
    offset = box.ask("begin", drop=ID, size=len(DATA), gets=2, meta="m", expires=100)["offset"]
    known.append(("offset", offset))
    while offset < len(DATA):
        offset = box.ask("put", DATA[offset : offset + 30_000], drop=ID, offset=offset)["offset"]
        known.append(("offset", offset))
    box.ask("finish", drop=ID, sha256=sha256(DATA))
    known.append(("finished", True))


def life(box: Box, known: list) -> None:
    upload(box, known)
    assert box.get(ID, reader=OTHER) == DATA
    known.append(("got", True))
    assert box.ask("delete", drop=ID)["existed"]
    known.append(("deleted", True))


def changes() -> int:
    """How many changes a whole life makes."""
    store = Fuse()
    store.left = 1_000
    life(Box(store), [])
    return 1_000 - store.left


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_kill_at_any_change_loses_nothing_that_was_acknowledged(after, monkeypatch):
    count = changes()
    assert count >= 14
    for kill in range(count):
        store = Fuse()
        store.left, store.after = kill, after
        box, known = Box(store), []
        with pytest.raises(Killed):
            life(box, known)
        store.revive()
        told = dict(known)
        if "deleted" in told:
            continue
        if "finished" in told and "got" not in told:
            assert box.get(ID, reader=OTHER) == DATA
        elif "got" not in told:
            if "offset" in told:
                assert box.ask("head", drop=ID)["offset"] >= told["offset"]
            # The client goes on where it stands; all it knows is how to ask.
            upload(box, [])
            assert box.get(ID, reader=OTHER) == DATA
        try:
            assert box.ask("head", drop=ID)["taken"] <= 2
            box.get(ID)  # the second of two, if the first was not counted in vain
        except (NoSuchDrop, UsedUp):
            pass
        # Whatever was left where, it is gone when the drop has expired.
        now = time.time()
        with monkeypatch.context() as patch:
            patch.setattr(time, "time", lambda: now + 200)
            box.ask("list")
        assert not store.objects, kill


@pytest.mark.parametrize("after", [False, True], ids=["before", "after"])
def test_a_deletion_that_was_cut_short_is_finished_by_the_next_invocation(after):
    for kill in range(7):
        store = Fuse()
        box = Box(store)
        box.keep(ID, DATA, expires=100)
        box.keep(OTHER, b"other")
        store.left, store.after = kill, after
        try:
            box.ask("delete", drop=ID)
        except Killed:
            pass
        store.revive()
        box.ask("list")
        if f"d/{ID}" in store.objects or f"c/{ID}" in store.objects:
            # Then it is there as a whole.
            assert box.get(ID) == DATA and kill <= 1
        assert box.get(OTHER) == b"other"


def test_a_kill_during_a_download_counts_too_much_by_what_is_counted_at_once_and_never_too_little(monkeypatch):
    monkeypatch.setattr(dropbox, "RESERVE_BYTES", 70_000)
    for kill in range(1, 4):
        store = Fuse()
        box = Box(store)
        box.keep(ID, DATA, bytes_out=3 * len(DATA))
        store.left = kill
        api = box.api()
        try:
            dropbox.get(api, ID)
        except Killed:
            pass
        store.revive()
        counted = box.ask("head", drop=ID)["sent"]
        assert len(api.written) <= counted <= len(api.written) + 70_000
