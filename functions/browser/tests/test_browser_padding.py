"""What leaves has the promised size, whatever happened."""

import gzip
import json
import zlib

import pytest
from bento import pad
from bento.testing import FakeApi

import browser

OVERHEAD = 48


@pytest.mark.parametrize("over, buckets", [(-1, 1), (0, 1), (1, 2), (10_000, 2), (10_001, 3)])
def test_the_output_is_the_next_multiple_exactly(web, over, buckets):
    """Around the border of a bucket: one byte less, exactly, one byte more."""
    bucket = 10_000
    web.files["http://x.test/t"] = ("text/plain", "")
    room = bucket
    text = 8_000
    for _ in range(4):  # the header's own numbers change their length with the text
        web.files["http://x.test/t"] = ("text/plain", "x" * text)
        found = web.visit("http://x.test/t", bucket=64)
        used = OVERHEAD + len(json.dumps(found.header)) + 1 + found.header["html"]
        text += room + over - used
    web.files["http://x.test/t"] = ("text/plain", "x" * text)
    found = web.visit("http://x.test/t", bucket=bucket)
    assert OVERHEAD + len(json.dumps(found.header)) + 1 + found.header["html"] == bucket + over
    assert found.padded == buckets * bucket


@pytest.mark.parametrize("size", [0, 1, 999, 1000, 1001])
def test_payloads_around_a_bucket(size):
    for bucket in (1000, 1048):
        expected = -(-(size + 48) // bucket) * bucket
        assert len(pad.pad(bytes(size), bucket)) == expected


def test_sizes_that_are_allowed(web):
    web.files |= {"http://x.test/s": "x" * 100, "http://x.test/l": "x" * 30_000, "http://x.test/h": "x" * 90_000}
    sizes = [60_000, 20_000]
    assert web.visit("http://x.test/s", sizes=sizes).padded == 20_000
    assert web.visit("http://x.test/l", sizes=sizes).padded == 60_000
    large = web.visit("http://x.test/h", sizes=sizes)
    assert large.padded == 20_000 and large.header["outcome"] == "error" and "more than the largest padded size" in large.header["error"]


@pytest.mark.parametrize("arguments", [{"bucket": 0}, {"bucket": 63}, {"bucket": -5}, {"sizes": [10]}, {"sizes": [100]}])
def test_a_size_that_could_not_hold_an_error_is_refused_before_anything_is_fetched(web, arguments):
    web.files["http://x.test/"] = "x"
    with pytest.raises(ValueError):
        web.visit(**arguments)
    assert web.asked == []


def test_pages_and_errors_look_the_same_from_outside(web, gazette):
    web.files["http://x.test/"] = "x"
    sizes = {web.visit(url).padded for url in ("http://x.test/", "http://x.test/gone", "http://refused.test.test:81/")}
    assert sizes == {1_000_000}
    long = "http://x.test/" + "ü" * 9000
    assert web.visit(long, bucket=100).padded < 12_288


def test_a_fault_of_the_program_leaves_padded_too(web, monkeypatch):
    web.files["http://x.test/"] = "<img src=a>"
    import document

    monkeypatch.setattr(document.Writer, "_text", lambda *_: 1 / 0)
    web.files["http://x.test/"] = "text"
    found = web.visit(bucket=30_000)
    assert found.header["error"].startswith("the browser failed: ZeroDivisionError") and found.padded == 30_000


def test_the_length_is_declared_before_the_first_byte(web):
    web.files["http://x.test/"] = "x"
    assert web.visit(bucket=70_000).api.declared == 70_000


def test_the_archive_holds_every_exchange(web):
    web.files |= {"http://x.test/": "<img src=a.png><img src=gone>", "http://x.test/a.png": b"\x89PNG\r\n\x1a\nred"}
    found = web.visit(warc=True)
    records, data = [], found.warc
    while data:  # one gzip member for each record, as the standard asks
        member = zlib.decompressobj(31)
        record = member.decompress(data)
        assert member.eof and record.endswith(b"\r\n\r\n")
        data = member.unused_data
        head, _, block = record.partition(b"\r\n\r\n")
        lines = head.decode().split("\r\n")
        assert lines[0] == "WARC/1.1"
        fields = dict(line.split(": ", 1) for line in lines[1:])
        assert int(fields["Content-Length"]) == len(block) - 4
        records.append((fields, block[:-4]))
    kinds = [fields["WARC-Type"] for fields, _ in records]
    assert kinds[0] == "warcinfo" and kinds.count("response") == kinds.count("request") == 4
    by_url = {fields["WARC-Target-URI"]: block for fields, block in records if fields["WARC-Type"] == "response"}
    assert by_url["http://x.test/a.png"].startswith(b"HTTP/1.1 200 X\r\nContent-Type: image/png\r\n") and by_url["http://x.test/a.png"].endswith(b"\r\n\r\n\x89PNG\r\n\x1a\nred")
    assert by_url["http://x.test/gone"].startswith(b"HTTP/1.1 404")
    ids = [fields["WARC-Record-ID"] for fields, _ in records]
    assert len(set(ids)) == len(ids) and all(fields["WARC-Concurrent-To"] in ids for fields, _ in records if fields["WARC-Type"] == "request")
    assert gzip.decompress(found.warc).count(b"WARC/1.1\r\n") == 9
