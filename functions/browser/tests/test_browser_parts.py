"""Addresses, character sets, encodings, choices: the parts that need no network."""

import gzip
import time
import zlib

import brotli
import pytest

import charset
import choose
import decode
import mime
import show
import urls


@pytest.mark.parametrize("base, reference, found", [
    ("http://x.test/a/b?q", "c", "http://x.test/a/c"),
    ("http://x.test/a/b?q", "?r", "http://x.test/a/b?r"),
    ("http://x.test/a/b", "//y.test", "http://y.test/"),
    ("http://x.test/a/b", "/../../c/./d/..", "http://x.test/c/"),
    ("http://x.test/a/", "%2e%2E/c", "http://x.test/c"),
    ("http://x.test", " \n/a\tb ", "http://x.test/ab"),
    ("http://x.test/", "\\\\y.test\\c\\d?e\\f", "http://y.test/c/d?e\\f"),
    ("http://x.test/", "HTTP://Y.TEST:80/ä b?ü#ö", "http://y.test/%C3%A4%20b?%C3%BC#%C3%B6"),
    ("https://x.test/", "https:c", "https://x.test/c"),
    ("http://x.test/", "http://münchen.test/", "http://xn--mnchen-3ya.test/"),
    ("http://x.test/", "http://[2001:DB8::1]:8080/", "http://[2001:db8::1]:8080/"),
    ("http://x.test/", "http://user:secret@y.test/", "http://y.test/"),
    ("http://x.test/", "data:,x y", "data:,x y"),
    ("http://x.test/", "a%20b%zz", "http://x.test/a%20b%zz"),
])
def test_addresses_are_resolved_as_browsers_do(base, reference, found):
    assert urls.resolve(base, reference) == found


@pytest.mark.parametrize("reference", ["http://", "http://a b/", "http://x:99999/", "http://[::1/", "http://x\x00y/", "http://x.test/" + "a" * 20_000])
def test_what_is_no_address_is_told(reference):
    with pytest.raises(urls.BadUrl):
        urls.resolve("http://x.test/", reference)


def test_only_harmless_links_are_left():
    def link(reference):
        return urls.link("http://x.test/a", "http://x.test/a", reference)

    assert link("b") == "http://x.test/b" and link("mailto:a@x.test") == "mailto:a@x.test"
    assert link("#top") == "#top" and link("/a#top") == "#top" and link("/b#top") == "http://x.test/b#top"
    for bad in ("javascript:x()", " java\nscript:x()", "JAVASCRIPT:x", "file:///etc/passwd", "data:text/html,x", "blob:x", "about:blank", "chrome://x", "vbscript:x"):
        assert link(bad) is None


def test_a_host_beyond_the_standard_is_no_surprise():
    assert urls.origin("http://[::1]:81/") == ("http", "::1", 81) and urls.target("http://x.test:81/?a") == ("/?a", "x.test:81")


@pytest.mark.parametrize("body, header, name", [
    (b"\xef\xbb\xbf<meta charset=koi8-r>", "text/html; charset=koi8-r", "utf-8"),
    (b"\xff\xfe<\0", "text/html; charset=utf-8", "utf-16le"),
    (b"<meta charset=koi8-r>", "text/html; charset=Shift_JIS", "shift_jis"),
    (b"<meta charset=koi8-r>", "text/html", "koi8-r"),
    (b"<meta charset=koi8-r>", "text/html; charset=nonsense", "koi8-r"),
    (b"<META NAME=x><meta content='text/html;charset=\"big5\"' http-equiv=CONTENT-TYPE>", "text/html", "big5"),
    (b"<meta content='text/html;charset=big5'>", "text/html", "windows-1252"),
    (b"<!-- <meta charset=koi8-r> -->", "text/html", "windows-1252"),
    (b" " * 1024 + b"<meta charset=utf-8>", "text/html", "windows-1252"),
    (b"<meta charset=utf-16>", "text/html", "utf-8"),
    (b"<?xml version='1.0' encoding='koi8-r'?>", "text/html", "koi8-r"),
    (b"", "text/html; charset=latin1", "windows-1252"),
])
def test_the_character_set_is_found_by_the_standards_order(body, header, name):
    assert charset.document(body, header)[1] == name


def test_a_style_sheets_character_set():
    assert charset.sheet("é".encode("koi8-r", "ignore") + b'a{}', "text/css", "utf-8") == "a{}"
    assert charset.sheet(b'@charset "windows-1252";\xe9', "text/css", "utf-8").endswith("é")
    assert charset.sheet(b"\xe9", "text/css", "windows-1252") == "é"


@pytest.mark.parametrize("name, encode", [
    ("gzip", gzip.compress), ("deflate", zlib.compress), ("deflate", lambda data: zlib.compress(data)[2:-4]), ("br", brotli.compress),
    ("identity", bytes), ("gzip, br", lambda data: brotli.compress(gzip.compress(data))), ("gzip", lambda data: gzip.compress(data[:9]) + gzip.compress(data[9:])),
    ("x-gzip", lambda data: gzip.compress(data) + b"\0\0 rubbish"),
])
@pytest.mark.parametrize("piece", [1, 7, 100_000])
def test_encodings_are_undone_in_pieces(name, encode, piece):
    data = bytes(range(256)) * 300
    packed = encode(data)
    chunks = [packed[at:at + piece] for at in range(0, len(packed), piece)]
    assert b"".join(decode.decoded(chunks, name)) == data


@pytest.mark.parametrize("name, body", [("gzip", b"no gzip at all"), ("br", b"\xff" * 40), ("zstd", b""), ("gzip, gzip, gzip", b""), ("deflate", b"\xff" * 9)])
def test_what_cannot_be_undone_is_told(name, body):
    with pytest.raises(decode.Undecodable):
        list(decode.decoded([body], name))


@pytest.mark.parametrize("srcset, sizes, src, chosen", [
    ("a 1x, b 2x", "", "c", ("a", "1x")),
    ("b 2x", "", "c", ("c", "")),
    ("a 400w, b 800w, c 1600w", "(max-width: 600px) 100vw, 700px", None, ("b", "800w")),
    ("a 400w, b 800w, c 1600w", "", None, ("c", "1600w")),
    ("a 100w", "100vw", "z", ("a", "100w")),
    ("data:image/png;base64,AA== 1x, b 2x", "", None, ("data:image/png;base64,AA==", "1x")),
    ("a,b 2x", "", None, ("a,b", "2x")),
    ("a, b 2x", "", None, ("a", "")),
    ("", "", "s", ("s", "")),
    ("", "", None, None),
])
def test_one_image_of_a_set_is_chosen(srcset, sizes, src, chosen):
    assert choose.image(srcset, sizes, src) == chosen


@pytest.mark.parametrize("query, holds", [
    ("", True), ("screen", True), ("print", False), ("not print", True), ("(min-width: 600px)", True), ("(max-width: 600px)", False),
    ("screen and (min-width: 40em) and (orientation: landscape)", True), ("print, (min-width: 1px)", True), ("(prefers-color-scheme: dark)", False),
    ("(width >= 600px)", True), ("(400px <= width <= 700px)", False), ("(min-resolution: 2dppx)", False), ("(unheard-of: 1)", False),
    ("not all and (min-width: 600px)", False), ("only screen and (max-width: 2000px)", True),
])
def test_media_conditions(query, holds):
    assert choose.media(query) is holds


@pytest.mark.parametrize("sizes, width", [("700px", 700), ("50vw", 700), ("(max-width: 100px) 10px, 20em", 320), ("", 1400), ("calc(100vw - 20px)", 1400),
                                          ("(min-width: 1000px) calc(50px + 1em), 3px", 50), ("rubbish", 1400)])
def test_how_wide_an_image_is_shown(sizes, width):
    assert choose.slot_width(sizes) == width


def test_refreshes_are_read_as_the_standard_says():
    assert show.refresh("0; url=/a") == (0, "/a") and show.refresh("5") == (5, "") and show.refresh("1,URL='/b'x") == (1, "/b")
    assert show.refresh("0;/c") == (0, "/c") and show.refresh("x") is None and show.refresh("0.9;url = d") == (0, "d")


def test_first_bytes_outweigh_a_lying_type():
    assert mime.of_image("text/plain", b"\x89PNG\r\n\x1a\n") == "image/png" and mime.of_image("image/png", b"<html>") == "image/png"
    assert mime.of_image("text/html", b"<html>") is None and mime.of_image("", b"<?xml version='1.0'?><svg>") == "image/svg+xml"
    assert mime.of_document("", b"  <!DOCTYPE HTML>") == "text/html" and mime.of_document("text/plain", b"<html>") == "text/plain"


def test_hostile_choices_take_no_more_than_their_length():
    for piece in (",", " ", "(", ")", "a,", "a 1x,", "a (", "1w ", "(a:", "<", "not ", "(width<"):
        begin = time.process_time()
        choose.image(piece * 100_000, piece * 100_000, None)
        choose.media(piece * 100_000)
        choose.media((piece * 2000)[:2000])
        show.refresh(piece * 100_000)
        charset.document((piece * 100_000).encode(), piece * 10_000)
        assert time.process_time() - begin < 2, piece
