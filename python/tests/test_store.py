"""`api.store`: what is put is kept as a whole or not at all, and a part is never taken for the whole."""

import io
import json
import socket
import subprocess
import threading

import pytest
from fake_node import HOME, PYTHON

from bento.api import BadCall, Busy, Damaged, Full, Missing, Refused
from bento.testing import FakeApi, FakeStore

LARGE = bytes(range(256)) * 1_000


def test_bytes_files_and_pieces_are_kept_small_and_large():
    store = FakeApi().store
    for data in (b"", b"small", bytes(8_192), bytes(8_193), LARGE):
        for given in (data, bytearray(data), io.BytesIO(data), iter([data[:3], b"", data[3:]])):
            assert store.put("name", given) == len(data)
            assert store.get("name") == data and store.size("name") == len(data)
    for wrong in ("text", 5, None):
        with pytest.raises(TypeError):
            store.put("name", wrong)
    assert store.get("name") == LARGE


def test_ranges_are_read_and_end_with_the_object():
    store = FakeApi().store
    store.put("name", LARGE)
    assert store.get("name", 10, 20) == LARGE[10:30]
    assert store.get("name", 1_000, 100_000) == LARGE[1_000:101_000]
    assert store.get("name", len(LARGE) - 5, 100) == LARGE[-5:]
    assert store.get("name", len(LARGE) + 5) == b""
    with store.open("name", 7) as file:
        assert file.size == len(LARGE) and file.read(3) == LARGE[7:10] and b"".join(file) == LARGE[10:]
    for wrong in (-1, 1.5, "1"):
        with pytest.raises(ValueError):
            store.open("name", wrong)


def test_what_is_appended_is_there_as_a_whole():
    store = FakeApi().store
    assert store.append("name", b"begun ") == 6
    assert store.append("name", io.BytesIO(LARGE)) == 6 + len(LARGE)
    assert store.get("name") == b"begun " + LARGE


@pytest.mark.parametrize("append", [False, True])
def test_a_writer_that_is_left_by_an_exception_changes_nothing(append):
    store = FakeApi().store
    store.put("name", b"before")
    with pytest.raises(KeyError):
        with store.writer("name", append) as out:
            out.write(LARGE)
            raise KeyError
    assert store.get("name") == b"before"
    with store.writer("name", append) as out:
        out.write(b"after")
    assert store.get("name") == (b"beforeafter" if append else b"after") and out.size == len(store.get("name"))
    with pytest.raises(ValueError):
        out.write(b"more")


def test_nothing_is_changed_by_a_source_that_fails():
    def pieces():
        yield LARGE
        raise ZeroDivisionError

    store = FakeApi().store
    for act in (store.put, store.append):
        with pytest.raises(ZeroDivisionError):
            act("name", pieces())
        assert "name" not in store
        store.put("other", b"")  # and the neighbour can be written
    assert store.append("name", b"x") == 1


def test_of_two_writers_of_one_name_the_second_is_busy():
    store = FakeApi().store
    with store.writer("one") as out:
        out.write(b"1")
        with pytest.raises(Busy):
            store.put("one", b"2")
        store.put("two", b"2")
    assert (store.get("one"), store.get("two")) == (b"1", b"2")


def test_names_are_listed_in_order_page_by_page():
    store = FakeApi().store
    for number in range(250):
        store.put(f"drop/{number:03}", b"x" * (number % 7))
    store.put("ä", b"")
    found = list(store.list("drop/"))
    assert [entry.name for entry in found] == [f"drop/{number:03}" for number in range(250)]
    assert all(entry.size == number % 7 for number, entry in enumerate(found))
    assert [name for name, _ in store.list()][-1] == "ä" and list(store.list("z")) == []


def test_deleting_tells_whether_it_was_there():
    store = FakeApi().store
    store.put("name", b"x")
    assert "name" in store and store.delete("name") is True
    assert "name" not in store and store.delete("name") is False
    for act in (store.get, store.size, store.open):
        with pytest.raises(Missing):
            act("name")


def test_what_is_too_much_is_refused_and_changes_nothing():
    api = FakeApi(storage=300_000)
    store = api.store
    store.put("kept", LARGE)
    assert store.usage() == (len(LARGE) + 1024, 300_000) and store.usage().used == len(LARGE) + 1024
    for act in (lambda: store.put("name", LARGE), lambda: store.append("kept", iter([LARGE] * 9)), lambda: store.put("kept", LARGE + bytes(60_000))):
        with pytest.raises(Full):
            act()
    assert store.get("kept") == LARGE and "name" not in store
    assert store.put("kept", LARGE + bytes(1_000)) == len(LARGE) + 1_000
    store.delete("kept")
    assert store.usage().used == 0 and store.put("name", LARGE) == len(LARGE)


def test_damage_is_told_and_never_served():
    api = FakeApi()
    for name, data in (("small", b"small"), ("large", LARGE)):
        api.store.put(name, data)
        assert api.store.get(name) == data
        api.kept.damage(name)
        with pytest.raises(Damaged):
            api.store.get(name)
        api.store.put(name, data)
        assert api.store.get(name) == data


def test_what_is_stored_goes_to_the_output_between_what_is_written():
    api = FakeApi()
    api.store.put("name", LARGE)
    api.output.write(b"before ")
    assert api.output.write_stored("name", 10, 20) == 20
    assert api.output.write_stored("name") == len(LARGE)
    assert api.output.write_stored("name", len(LARGE) - 5, 100) == 5
    assert api.output.write_stored("name", len(LARGE) + 5) == api.output.write_stored("name", 0, 0) == 0
    api.output.write(b" after")
    assert api.written == b"before " + LARGE[10:30] + LARGE + LARGE[-5:] + b" after"
    assert api.output.written == len(api.written)
    with pytest.raises(Missing):
        api.output.write_stored("another")
    for wrong in (-1, 1.5, "0"):
        with pytest.raises(ValueError):
            api.output.write_stored("name", wrong)
        with pytest.raises(ValueError):
            api.output.write_stored("name", 0, wrong)
    api.output.close()
    with pytest.raises(ValueError):
        api.output.write_stored("name")


def test_what_is_stored_does_not_exceed_the_declared_length():
    api = FakeApi()
    api.store.put("name", b"0123456789")
    api.output.length(15)
    assert api.output.write_stored("name") == 10
    with pytest.raises(ValueError, match="declared length of 15"):
        api.output.write_stored("name")
    assert api.written == b"012345678901234"
    with pytest.raises(ValueError):
        api.output.write_stored("name", 3, 1)
    assert api.output.write_stored("name", 10) == api.output.write_stored("name", 0, 0) == 0


def test_damage_and_a_client_that_left_end_what_goes_to_the_output():
    api = FakeApi()
    api.store.put("name", LARGE)
    api.kept.damage("name")
    with pytest.raises(Damaged):
        api.output.write_stored("name")
    near, far = socket.socketpair()
    far.close()
    api.store.put("name", LARGE)
    with near, pytest.raises(BrokenPipeError):
        FakeApi(store=api.kept, stream=near).output.write_stored("name")


def test_names_that_cannot_be_are_refused():
    store = FakeApi().store
    for wrong in ("", "n" * 513, "ä" * 257):
        with pytest.raises(BadCall):
            store.put(wrong, b"")
    with pytest.raises(ValueError):
        store.put("\ud800", b"")
    with pytest.raises(TypeError):
        store.put(b"name", b"")
    # The longest, whose characters JSON escapes, with the longest value: their frame is not too long (`FakeApi` looks).
    assert store.put("\x01" * 512, bytes(8_192)) == 8_192


def test_the_next_invocation_finds_what_the_last_one_stored():
    api = FakeApi()
    api.store.put("name", b"kept")
    assert api.next().store.get("name") == b"kept"
    assert FakeApi(store=api.kept).store.get("name") == b"kept"
    assert "name" not in FakeApi().store


def test_a_manifest_that_does_not_ask_gets_nothing(tmp_path):
    manifest = tmp_path / "manifest.toml"
    manifest.write_text('name = "x"\nmethods = ["m"]\n[needs]\ncalls = ["store.put", "store.get"]\nstorage = "3 KiB"\n')
    store = FakeApi.from_manifest(manifest).store
    store.put("name", b"x")
    with store.writer("name") as out:
        out.write(b"y")
    assert store.get("name") == b"y"
    for act in (lambda: store.delete("name"), lambda: list(store.list()), lambda: store.append("name", b""), store.usage):
        with pytest.raises(Refused):
            act()
    with pytest.raises(Full):
        store.put("name", bytes(4_000))


METHODS = """
import hashlib

def keep(api, name):
    api.output.write(str(api.store.put(name, api.input)).encode())

def tell(api, name):
    api.output.type("application/octet-stream", name)
    for chunk in api.store.open(name):
        api.output.write(chunk)

def add(api, name):
    with api.store.writer(name, append=True) as out:
        out.write(b"one")
        if name == "fails":
            raise ValueError("no")

def names(api):
    api.output.write(repr([tuple(entry) for entry in api.store.list()]).encode())
"""


def test_the_runtime_stores_through_frames_and_streams(start):
    node = start(METHODS, "keep", "tell", "add", "names")
    running = node.invoke("keep", name="large")
    threading.Thread(target=lambda: (running.stream.sendall(LARGE * 4), running.stream.shutdown(1))).start()
    assert running.done() == {"outcome": "returned"}
    told = node.invoke("tell", name="large")
    assert told.read() == LARGE * 4 and told.done() == {"outcome": "returned"}
    assert told.kind == ("application/octet-stream", "large")
    assert node.run("add", name="small")[1] == node.run("add", name="small")[1] == {"outcome": "returned"}
    assert node.run("add", name="fails")[1]["outcome"] == "failed"
    assert node.run("names")[0] == repr([("large", len(LARGE) * 4), ("small", 6)]).encode()
    missing = node.run("tell", name="nothing")[1]
    assert missing["outcome"] == "failed" and missing["error"].startswith("Missing: ")
    node.world.kept.damage("large")
    damaged = node.run("tell", name="large")[1]
    assert damaged["outcome"] == "failed" and damaged["error"].startswith("Damaged: ")


def test_using_the_store_imports_nothing_that_is_slow():
    code = f"""import sys; sys.path.insert(0, {str(HOME)!r})
from bento import runtime
at_start = set(sys.modules)
import bento.store, bento.nodes, bento.links
import json
print(json.dumps([sorted(at_start), sorted(set(sys.modules) - at_start)]))"""
    found = subprocess.run([PYTHON, "-I", "-S", "-B", "-c", code], capture_output=True, text=True, check=True).stdout
    at_start, later = map(set, json.loads(found))
    assert not {"bento.store", "bento.nodes", "bento.streams", "bento.links"} & at_start
    later -= {name for name in later if name == "json" or name.startswith(("json.", "re", "enum", "functools", "collections", "types", "operator", "keyword", "reprlib", "copyreg", "_"))}
    assert later <= {"bento.store", "bento.nodes", "bento.streams", "bento.links", "binascii", "select"}


def test_a_store_of_ones_own_counts_as_a_node_does():
    store = FakeStore(10_000)
    api = FakeApi(store=store)
    api.store.put("a", bytes(10_000 - 1_024))
    assert store.used == 10_000
    with pytest.raises(Full):
        api.store.put("b", b"")
