"""A drop comes in parts, is checked as a whole, and leaves as often as it may."""

import json
import random
import secrets
import threading
import time
from collections import Counter

import pytest
from conftest import Box, sha256

import dropbox
from bento import pad
from bento.api import Damaged, Full
from bento.testing import FakeStore
from dropbox import DropExists, NoSuchDrop, NotFinished, TooLarge, UsedUp, WrongHash, WrongOffset

ID = "0123456789abcdef" * 2
DATA = bytes(range(256)) * 1_000


def new() -> str:
    return secrets.token_hex(16)


def test_a_drop_is_kept_in_one_call_and_fetched(box):
    for data in (b"", b"x", DATA, random.Random(1).randbytes(9 << 20)):
        drop = new()
        told = box.keep(drop, data)
        assert (told["size"], told["sha256"]) == (len(data), sha256(data))
        assert box.get(drop) == box.get(drop) == data


def test_parts_come_one_after_the_other_and_again(box):
    assert box.ask("begin", drop=ID, size=len(DATA)) == {"offset": 0}
    assert box.ask("put", DATA[:1_000], drop=ID, offset=0) == {"offset": 1_000}
    assert box.ask("put", DATA[:1_000], drop=ID, offset=0) == {"offset": 1_000}  # again
    assert box.ask("put", DATA[500:90_000], drop=ID, offset=500) == {"offset": 90_000}  # partly again
    assert box.ask("begin", drop=ID, size=len(DATA)) == {"offset": 90_000}  # a client that does not know any more
    assert box.ask("put", [DATA[90_000:100_000], DATA[100_000:]], drop=ID, offset=90_000) == {"offset": len(DATA)}
    assert box.ask("finish", drop=ID, sha256=sha256(DATA))["sha256"] == sha256(DATA)
    assert box.ask("put", DATA[500:600], drop=ID, offset=500) == {"offset": len(DATA)}
    assert box.get(ID) == DATA


def test_a_part_that_does_not_fit_is_refused_with_the_right_offset(box):
    box.ask("begin", drop=ID, size=len(DATA))
    box.ask("put", DATA[:10], drop=ID)
    for part, offset, error in ((DATA[11:20], 11, WrongOffset), (DATA + b"x", 0, TooLarge), (b"", 11, WrongOffset)):
        api = box.api(part)
        with pytest.raises(error):
            api.run(dropbox.put, drop=ID, offset=offset)
        assert json.loads(api.written) == {"offset": 10}
    for wrong in (-1, 1.5, "0", True, None):
        with pytest.raises(ValueError):
            box.ask("put", b"x", drop=ID, offset=wrong)
    assert box.ask("put", DATA[10:], drop=ID, offset=10) == {"offset": len(DATA)}


def test_what_came_before_the_circuit_broke_is_kept(box):
    def broken():
        yield DATA[:100_000]
        yield DATA[100_000:150_000]
        raise ConnectionResetError

    box.ask("begin", drop=ID, size=len(DATA))
    assert box.ask("put", broken(), drop=ID) == {"offset": 150_000}
    assert box.ask("put", DATA[150_000:], drop=ID, offset=150_000) == {"offset": len(DATA)}
    box.ask("finish", drop=ID, sha256=sha256(DATA))
    assert box.get(ID) == DATA


def test_two_uploads_of_one_drop_do_not_mix(box):
    box.ask("begin", drop=ID, size=len(DATA))
    threads = [threading.Thread(target=box.ask, args=("put", [DATA[at : at + 7_000] for at in range(0, len(DATA), 7_000)]), kwargs={"drop": ID}) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert box.ask("finish", drop=ID, sha256=sha256(DATA))["size"] == len(DATA)


def test_only_what_is_whole_and_right_can_be_fetched(box):
    box.ask("begin", drop=ID, size=10)
    box.ask("put", b"012345678", drop=ID)
    with pytest.raises(NotFinished, match="go on from 9"):
        box.ask("finish", drop=ID, sha256=sha256(b"0123456789"))
    box.ask("put", b"X", drop=ID, offset=9)
    with pytest.raises(WrongHash):
        box.ask("finish", drop=ID, sha256=sha256(b"0123456789"))
    for act in (lambda: box.get(ID), lambda: box.ask("visit", drop=ID)):
        with pytest.raises(NotFinished):
            act()
    assert box.ask("finish", drop=ID, sha256=sha256(b"012345678X")) == box.ask("finish", drop=ID, sha256=sha256(b"012345678X"))
    with pytest.raises(WrongHash):
        box.ask("finish", drop=ID, sha256=sha256(b"another"))
    assert box.get(ID) == b"012345678X"
    with pytest.raises(WrongHash):
        box.ask("drop", b"short", drop=new(), size=5, sha256=sha256(b"other"))
    with pytest.raises(NotFinished):
        box.ask("drop", b"shor", drop=new(), size=5)


def test_what_comes_in_one_go_is_not_read_again_and_anything_else_is(box):
    for parts, restarts, reads in (
        ([DATA], False, False),
        ([DATA[:9], b"", DATA[9:70_000], DATA[70_000:]], False, False),
        ([DATA[:9], DATA[9:]], True, True),
    ):
        drop, at = new(), 0
        box.ask("begin", drop=drop, size=len(DATA))
        for part in parts:
            if at and restarts:
                dropbox._digests.clear()  # As a new process has it.
            at = box.ask("put", part, drop=drop, offset=at)["offset"]
        with pytest.raises(WrongHash):
            box.ask("finish", drop=drop, sha256=sha256(b"another"))
        # Whoever reads it fails.
        box.store.damage(f"c/{drop}")
        if reads:
            with pytest.raises(Damaged):
                box.ask("finish", drop=drop, sha256=sha256(DATA))
        else:
            assert box.ask("finish", drop=drop, sha256=sha256(DATA))["sha256"] == sha256(DATA)
        box.ask("delete", drop=drop)
        assert drop not in dropbox._digests


def test_an_id_belongs_to_one_drop(box):
    box.keep(ID, b"mine", meta="m")
    for other in ({"size": 5}, {"size": 4, "meta": "n"}, {"size": 4, "meta": "m", "gets": 3}):
        with pytest.raises(DropExists):
            box.ask("begin", drop=ID, **other)
    for wrong in ("", "x" * 32, ID.upper(), ID + "0", "../" + ID[3:], None, 5):
        for method in ("begin", "head", "get"):
            with pytest.raises(ValueError):
                box.ask(method, drop=wrong, **({"size": 1} if method == "begin" else {}))


def test_ranges_resume_a_download(box):
    box.keep(ID, DATA)
    assert box.get(ID, offset=1_000) == DATA[1_000:]
    assert box.get(ID, offset=1_000, length=50) == DATA[1_000:1_050]
    assert box.get(ID, offset=len(DATA)) == b"" and box.get(ID, offset=len(DATA) - 1, length=9) == DATA[-1:]
    with pytest.raises(ValueError):
        box.get(ID, offset=len(DATA) + 1)
    with pytest.raises(ValueError):
        box.get(ID, offset=-1)


@pytest.mark.parametrize("buckets", [100_000, [64, 300_000]])
def test_padded_drops_have_their_size_and_can_be_resumed(box, buckets):
    box.keep(ID, DATA)
    api = box.api()
    padded = api.run(dropbox.get, drop=ID, pad=buckets)
    assert padded == pad.pad(DATA, buckets) and len(padded) == api.declared == 300_000
    for offset in (0, 1, 47, 48, 49, 256_047, 256_048, 256_049, 299_999, 300_000):
        assert box.get(ID, offset=offset, pad=buckets) == padded[offset:]
        assert box.get(ID, offset=offset, length=3, pad=buckets) == padded[offset : offset + 3]
    small = new()
    box.keep(small, b"")
    assert pad.unpad(box.get(small, pad=64)) == b""
    with pytest.raises(ValueError):
        box.get(ID, pad=10)


def test_a_resumed_download_counts_once_and_a_new_one_again(box):
    box.keep(ID, DATA, gets=2)
    one, two, three = new(), new(), new()
    for _ in range(5):
        assert box.get(ID, reader=one, length=1_000) == DATA[:1_000]
    assert box.get(ID, reader=two) == DATA
    for late in (three, None):
        with pytest.raises(UsedUp, match="2 times"):
            box.get(ID, reader=late)
    assert box.get(ID, reader=one, offset=1_000) == DATA[1_000:]
    assert (box.ask("head", drop=ID)["taken"], box.ask("head", drop=ID)["gets"]) == (2, 2)


def test_of_a_thousand_gets_exactly_ten_succeed(box):
    box.keep(ID, DATA, gets=10)
    found: list = []  # appending is atomic, where adding to a counter is not
    ready = threading.Barrier(100)

    def fetch() -> None:
        ready.wait()
        for number in range(10):
            try:
                # Directly: `run` redirects what the whole process prints.
                api = box.api()
                dropbox.get(api, ID, reader=new() if number % 2 else None)
                found.append(api.written == DATA)
            except UsedUp:
                found.append("refused")

    threads = [threading.Thread(target=fetch) for _ in range(100)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(found) == {True: 10, "refused": 990}


def test_bytes_out_are_a_bound_and_what_was_not_sent_is_given_back(box):
    box.keep(ID, DATA, bytes_out=2 * len(DATA) + 10)
    assert box.get(ID) == DATA

    class Leaves(Exception):
        pass

    api = box.api()
    sent = []

    def leave(data: memoryview) -> None:
        sent.append(len(data))
        if sum(sent) > 100_000:
            raise BrokenPipeError

    api._memory.sendall = leave
    with pytest.raises(BrokenPipeError):
        dropbox.get(api, ID)
    counted = box.ask("head", drop=ID)["sent"]
    assert len(DATA) + 60_000 < counted <= len(DATA) + sum(sent)
    left = 2 * len(DATA) + 10 - counted
    with pytest.raises(UsedUp):
        box.get(ID)
    assert box.get(ID, length=left) == DATA[:left]
    with pytest.raises(UsedUp, match="^0 bytes"):
        box.get(ID, length=1)
    assert not dropbox._promised


def test_bytes_out_hold_among_many_at_once(box):
    data = bytes(20 << 20)  # more than is counted at once
    big = Box(FakeStore(64 << 20))
    big.keep(ID, data, bytes_out=2 * len(data))
    found: list = []  # appending is atomic, where adding to a counter is not

    def fetch() -> None:
        try:
            api = big.api()
            dropbox.get(api, ID)
            found.append(api.written == data)
        except UsedUp:
            found.append("refused")

    threads = [threading.Thread(target=fetch) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert Counter(found) == {True: 2, "refused": 6} and big.ask("head", drop=ID)["sent"] == 2 * len(data)


def test_expired_drops_are_erased_and_others_are_not(box, monkeypatch):
    now = time.time()
    box.keep(ID, DATA, expires=100)
    box.keep(other := new(), DATA, expires=now + 5_000)
    assert box.ask("head", drop=ID)["expires"] == pytest.approx(now + 100, abs=3)
    monkeypatch.setattr(time, "time", lambda: now + 200)
    for act in (lambda: box.get(ID), lambda: box.ask("head", drop=ID), lambda: box.ask("put", b"", drop=ID)):
        with pytest.raises(NoSuchDrop):
            act()
    assert not any(ID in name for name in box.store.objects) and box.get(other) == DATA
    assert [drop["drop"] for drop in box.ask("list")["drops"]] == [other]
    assert box.keep(ID, b"again")["size"] == 5  # its name is free
    for wrong in (0, -5, "1", None, float("inf")):
        with pytest.raises(ValueError):
            box.ask("begin", drop=new(), size=1, expires=wrong)


def test_deleting_leaves_nothing(box):
    box.keep(ID, DATA)
    box.ask("begin", drop=(open_one := new()), size=5)
    box.ask("put", b"xx", drop=open_one)
    assert box.ask("delete", drop=ID) == box.ask("delete", drop=open_one) == {"existed": True}
    assert box.ask("delete", drop=ID) == {"existed": False}
    assert not box.store.objects
    with pytest.raises(NoSuchDrop):
        box.get(ID)


def test_what_there_is_no_room_for_is_refused_before_it_comes():
    box = Box(FakeStore(100_000))
    with pytest.raises(Full, match="room for"):
        box.ask("begin", drop=ID, size=100_000)
    assert not box.store.objects
    box.ask("begin", drop=ID, size=60_000)
    with pytest.raises(Full):
        box.ask("begin", drop=new(), size=60_000)  # what was announced is kept free
    box.ask("put", bytes(60_000), drop=ID)
    box.ask("finish", drop=ID, sha256=sha256(bytes(60_000)))
    with pytest.raises(Full):
        box.ask("begin", drop=new(), size=60_000)
    box.ask("delete", drop=ID)
    box.keep(new(), bytes(60_000))


def test_a_full_store_does_not_hinder_the_gets_that_were_promised():
    box = Box(FakeStore(60_000))
    size = 60_000 - dropbox.STORED_BYTES - 1_000 - 35 * 100
    box.keep(ID, bytes(size), gets=100, meta="m" * 300)
    for _ in range(100):
        assert len(box.get(ID, reader=new())) == size
    with pytest.raises(UsedUp):
        box.get(ID, reader=new())
    assert box.ask("delete", drop=ID) == {"existed": True} and box.store.used == 0


def test_metadata_are_the_clients(box):
    meta = json.dumps({"name": "Übersicht", "quote": '"\\'}, ensure_ascii=False)
    box.keep(ID, b"x", meta=meta)
    assert box.ask("head", drop=ID)["meta"] == meta
    box.keep(new(), b"x", meta="ä" * 2_048)
    for wrong in ("m" * 4_097, "ä" * 2_049, 5, None, "\ud800"):
        with pytest.raises(ValueError):
            box.ask("begin", drop=new(), size=1, meta=wrong)
    assert len(box.ask("list")["drops"]) == 2


def test_a_link_sends_the_drop_under_its_name_and_counts(box):
    box.keep(ID, DATA, gets=2, name="Übersicht.pdf", expires=50)
    path = box.ask("link", drop=ID, seconds=3_600)["path"]
    link = box.first.links[path]
    assert link.method == "visit" and link.until <= time.time() + 51  # not longer than the drop
    api = box.api()
    assert api.run(dropbox.visit, **link.arguments) == DATA
    assert (api.kind, api.name) == ("application/octet-stream", "Übersicht.pdf")
    assert box.api().run(dropbox.visit, **link.arguments, path="/raw") == DATA
    with pytest.raises(UsedUp):
        box.api().run(dropbox.visit, **link.arguments)
    with pytest.raises(NoSuchDrop):
        box.api().run(dropbox.visit, **link.arguments, path="/../raw")
    with pytest.raises(NoSuchDrop):
        box.ask("link", drop=new(), seconds=10)


def test_a_download_through_a_link_goes_on_and_counts_once(box):
    box.keep(ID, DATA, gets=1)
    api = box.api()
    api.run(dropbox.link, drop=ID, seconds=60, page=True)
    (link,) = api.links.values()

    def visit(path: str) -> bytes:
        return box.api().run(dropbox.visit, **link.arguments, path=path)

    reader = new()
    assert visit(f"/raw/{reader}/0") == DATA
    for offset in (1, 65_536, len(DATA) - 1, len(DATA)):
        assert visit(f"/raw/{reader}/{offset}") == DATA[offset:]
    for path in (f"/raw/{new()}/0", f"/raw/{new()}/9", "/raw"):
        with pytest.raises(UsedUp):
            visit(path)
    for path in (f"/raw/{reader}", f"/raw/{reader}/", f"/raw/{reader}/0/0", f"/page/{reader}/0"):
        with pytest.raises(NoSuchDrop):
            visit(path)
    for path in (f"/raw/{reader}/-1", f"/raw/{reader}/٣", "/raw/reader/0", f"/raw/{reader}/{len(DATA) + 1}"):
        with pytest.raises(ValueError):
            visit(path)


def test_the_page_of_a_link_costs_no_get(box):
    box.keep(ID, DATA, gets=1)
    link = box.first.links[box.ask("link", drop=ID, seconds=60, page=True)["path"]]
    for path in ({}, {"path": ""}, {"path": "/"}):
        api = box.api()
        page = api.run(dropbox.visit, **link.arguments, **path)
        assert api.kind == "text/html; charset=utf-8" and page.startswith(b"<!DOCTYPE html>") and b"Content-Security-Policy" in page
    assert box.api().run(dropbox.visit, **link.arguments, path="raw") == DATA
    with pytest.raises(UsedUp):
        box.api().run(dropbox.visit, **link.arguments, path="/raw")
