"""Frames are JSON, as the standard library writes and reads it."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento import frames

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    max_leaves=20,
)


@given(st.dictionaries(st.text(), VALUES))
def test_frames_agree_with_json(frame):
    assert json.loads(frames.encode(frame)) == frame
    assert frames.decode(frames.encode(frame)) == frame
    assert frames.decode(json.dumps(frame).encode()) == frame
    assert frames.decode(json.dumps(frame, indent=2).encode() + b"\n") == frame


@pytest.mark.parametrize(
    "data",
    [b"", b"{", b"[1]", b"1", b'{"a":1} {}', b'{"a":NaN}', b'{"a":Infinity}', b"{'a':1}", b"\xff{}", b'{"a":"\n"}'],
)
def test_what_is_no_frame_is_refused(data):
    with pytest.raises(ValueError):
        frames.decode(data)


def test_what_json_does_not_have_is_not_sent():
    for value in (float("nan"), float("inf")):
        with pytest.raises(ValueError):
            frames.encode({"value": value})
    for value in (b"bytes", {1, 2}, object()):
        with pytest.raises(TypeError):
            frames.encode({"value": value})


@given(st.text(st.characters()), st.integers(1, 50))
def test_cleaned_text_fits_and_can_be_sent(text, characters):
    cleaned = frames.clean(text + "\ud800", characters)
    assert len(cleaned) <= characters
    cleaned.encode()
