"""Frames: of one size whatever they carry, and what they carry comes out whole."""

import json
import threading

import pytest
from hypothesis import given
from hypothesis import strategies as st

import flow
from conftest import answers


@given(st.dictionaries(st.integers(0, 2**32 - 1), st.binary(max_size=3000), max_size=5), st.integers(64, 700))
def test_whatever_is_carried_comes_out_whole_and_every_frame_is_full(data, size):
    outbox = flow.Outbox(size)
    for number, content in data.items():
        outbox.open(number)
        outbox.put(number, content)
        outbox.end(number)
    written = b""
    while outbox.count():
        frame = outbox.frame()
        assert len(frame) == size
        written += frame
    assert len(outbox.frame()) == size and not any(outbox.frame())
    assert answers(written, size) == {number: (content, {"outcome": "returned"}) for number, content in data.items()}


def test_answers_take_turns():
    outbox = flow.Outbox(107)
    for number in (1, 2, 3):
        outbox.open(number)
        outbox.put(number, bytes(100_000))
    turns = [next(flow.messages(outbox.frame()))[1] for _ in range(9)]
    assert turns == [1, 2, 3] * 3


def test_who_brings_too_much_waits_for_room_and_not_for_ever():
    outbox = flow.Outbox(5000)
    outbox.open(1)
    outbox.put(1, bytes(flow.WAITING_BYTES))
    put, told = threading.Event(), []

    def bring() -> None:
        try:
            outbox.put(1, b"one more")
            put.set()
            outbox.put(1, bytes(flow.WAITING_BYTES))
            outbox.put(1, b"never")
        except flow.GivenUp:
            told.append("given up")

    thread = threading.Thread(target=bring)
    thread.start()
    assert not put.wait(0.05)
    outbox.frame()
    assert put.wait(30)
    outbox.give_up(1)
    thread.join(30)
    assert told == ["given up"] and outbox.count() == 0
    with pytest.raises(flow.GivenUp):
        outbox.end(1)


def test_an_end_always_finds_room():
    outbox = flow.Outbox(flow.HEAD.size + 57)
    outbox.open(1)
    outbox.end(1, "ä\ud800" * 1000)
    assert [(kind, json.loads(data)["outcome"]) for kind, _, data in flow.messages(outbox.frame())] == [(flow.END, "failed")]
    assert outbox.count() == 0


@pytest.mark.parametrize("wrong", [b"\4" + bytes(63), flow.HEAD.pack(flow.DATA, 1, 58) + bytes(57), b"\xff" * 64])
def test_what_is_no_frame_is_refused(wrong):
    assert list(flow.messages(flow.HEAD.pack(flow.DATA, 1, 57) + bytes(57))) == [(flow.DATA, 1, bytes(57))]
    with pytest.raises(ValueError):
        list(flow.messages(wrong))
