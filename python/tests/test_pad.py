"""Padded results have exactly the promised size, whatever the payload."""

import doctest
import hashlib
import io

import pytest
from hypothesis import given
from hypothesis import strategies as st

from bento import pad
from bento.testing import FakeApi


def test_the_examples_in_the_module_hold():
    assert doctest.testmod(pad).failed == 0


@pytest.mark.parametrize("bucket", [64, 100, 1_000, 1_000_000])
def test_the_size_is_the_smallest_multiple_that_holds_header_and_payload(bucket):
    for length, buckets in (
        (0, 1),
        (1, 1),
        (bucket - 48 - 1, 1),
        (bucket - 48, 1),
        (bucket - 48 + 1, 2),
        (bucket, 2),
        (bucket + 1 - 48, 2),
        (2 * bucket - 48, 2),
        (2 * bucket - 47, 3),
        (7 * bucket + 1, 8),
    ):
        assert pad.size(length, bucket) == buckets * bucket, length
        payload = bytes(length)
        assert len(pad.pad(payload, bucket)) == buckets * bucket
        assert pad.unpad(pad.pad(payload, bucket)) == payload


def test_of_allowed_sizes_it_takes_the_smallest_that_fits():
    sizes = (5_000, 64, 1_000)
    for length, total in ((0, 64), (16, 64), (17, 1_000), (952, 1_000), (953, 5_000), (4_952, 5_000)):
        assert pad.size(length, sizes) == total
        assert len(pad.pad(bytes(length), iter(sizes))) == total
    with pytest.raises(pad.TooLarge):
        pad.size(4_953, sizes)
    with pytest.raises(pad.TooLarge):
        pad.pad(b"", [])


def test_buckets_too_small_for_a_header_are_refused():
    for buckets in (0, 1, 63, -100, [63, 1_000]):
        with pytest.raises(ValueError):
            pad.size(0, buckets)
    assert pad.size(0, 64) == 64


def test_the_layout_is_the_promised_one():
    padded = pad.pad(b"payload", 100)
    assert padded[:8] == b"bentopad"
    assert padded[8:16] == bytes([0, 0, 0, 0, 0, 0, 0, 7])
    assert padded[16:48] == hashlib.sha256(b"payload").digest()
    assert padded[48:] == b"payload" + bytes(45)


def test_what_was_changed_is_not_unpadded():
    padded = pad.pad(b"payload", 100)
    assert pad.unpad(padded) == b"payload"
    for place in range(100):
        changed = bytearray(padded)
        changed[place] ^= 1
        with pytest.raises(ValueError):
            pad.unpad(bytes(changed))
    for short in (padded[:0], padded[:47], padded[:54], bytes(100)):
        with pytest.raises(ValueError):
            pad.unpad(short)


@given(st.binary(max_size=300), st.one_of(st.integers(64, 200), st.lists(st.integers(348, 1_000), min_size=1)))
def test_every_payload_comes_back(payload, buckets):
    padded = pad.pad(payload, buckets)
    assert len(padded) == pad.size(payload, buckets) == pad.size(len(payload), buckets)
    assert pad.unpad(padded) == payload


@pytest.mark.parametrize("length", [0, 1, 52, 53, 70_000, 200_000])
def test_written_in_pieces_it_is_the_same(length):
    payload = bytes(index % 251 for index in range(length))
    expected = pad.pad(payload, 100_000)
    for form in (payload, bytearray(payload), memoryview(payload), io.BytesIO(payload)):
        api = FakeApi()
        assert pad.write_padded(api.output, form, 100_000) == len(expected)
        assert api.written == expected
        assert api.declared == len(expected)


def test_a_payload_that_does_not_fit_writes_nothing():
    api = FakeApi()
    with pytest.raises(pad.TooLarge):
        pad.write_padded(api.output, bytes(100), [100])
    assert api.declared is None and api.written == b""
