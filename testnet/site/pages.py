"""The pages below /test/: each a kind of page, or of server, that a browser must cope with. An index is at /test/."""

import gzip
import struct
import time
import zlib
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from site import Handler

HTML = "text/html; charset=utf-8"
DATA = Path(__file__).resolve().parent / "data"
#: What a bomb would become.
BOMB_BYTES = 10 * 1024**3
#: Seconds a page that never ends goes on before it does after all.
PATIENCE_SECONDS = 120

_PAGES: dict[str, Callable[["Handler", str], None]] = {}


def page(name: str) -> Callable:
    """Registers a page. Its function is told what follows the name in the path."""

    def register(function: Callable[["Handler", str], None]) -> Callable:
        _PAGES[name] = function
        return function

    return register


def answer(handler: "Handler", path: str) -> None:
    """Answers a request for a path below /test/ or /size/."""
    if path.startswith("/size/"):
        sized(handler, path[6:])
        return
    name, _, rest = path[6:].partition("/")
    found = _PAGES.get(name)
    if found is None:
        handler.send(404, HTML, b"<!DOCTYPE html><title>None</title><p>There is no such test page. <img src='/test/png'>")
    else:
        found(handler, rest)


def png(red: int, green: int, blue: int, side: int = 16) -> bytes:
    """A square of one colour."""
    rows = b"".join(b"\0" + bytes((red, green, blue)) * side for _ in range(side))

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0)) + chunk(b"IDAT", zlib.compress(rows)) + chunk(b"IEND", b"")


def document(body: str, title: str = "Test", head: str = "") -> bytes:
    """A page."""
    return f'<!DOCTYPE html>\n<html><head><meta charset="utf-8"><title>{title}</title>{head}</head><body>{body}</body></html>\n'.encode()


def sized(handler: "Handler", count: str) -> None:
    """A page of exactly so many bytes."""
    size = min(int(count or 0), 64 * 1024 * 1024)
    start, end = b"<!DOCTYPE html><title>Size</title><pre>", b"</pre>"
    body = (start + b"x" * max(0, size - len(start) - len(end)) + end)[:size]
    handler.send(200, HTML, body)


@page("")
def index(handler: "Handler", _: str) -> None:
    """What there is."""
    lines = "".join(f'<li><a href="/test/{name}">{name}</a> {(function.__doc__ or "").splitlines()[0]}' for name, function in sorted(_PAGES.items()))
    handler.send(200, HTML, document(f"<h1>Test pages</h1><ul>{lines}</ul>"))


@page("png")
def image(handler: "Handler", rest: str) -> None:
    """A square in the colour of the path, such as /test/png/ff0000."""
    colour = (rest.partition(".")[0] or "3d5a40").ljust(6, "0")[:6]
    handler.send(200, "image/png", png(int(colour[:2], 16), int(colour[2:4], 16), int(colour[4:], 16)))


@page("echo")
def echo(handler: "Handler", _: str) -> None:
    """The request's head, as text."""
    handler.send(200, "text/plain; charset=utf-8", f"{handler.requestline}\n{handler.headers}".encode())


# Redirects, cookies, refreshes.


@page("redirect")
def redirect(handler: "Handler", rest: str) -> None:
    """So many redirects, and then a page."""
    left = int(rest or 3)
    if left:
        handler.send(302, HTML, b"elsewhere", {"Location": f"/test/redirect/{left - 1}", "Set-Cookie": f"step{left}=yes; Path=/"})
    else:
        handler.send(200, HTML, document(f"<p>Arrived with {handler.headers.get('Cookie', 'no cookies')}</p>", "Arrived"))


@page("redirect-loop")
def redirect_loop(handler: "Handler", _: str) -> None:
    """Redirects to itself."""
    handler.send(301, HTML, b"", {"Location": "/test/redirect-loop"})


@page("redirect-to")
def redirect_to(handler: "Handler", _: str) -> None:
    """Redirects to ?url=."""
    handler.send(307, HTML, b"", {"Location": handler.query.get("url", "/")})


@page("cookies")
def cookies(handler: "Handler", rest: str) -> None:
    """Sets cookies, and shows an image and a page only to who has them."""
    had = "session=abc" in handler.headers.get("Cookie", "")
    if rest == "image":
        handler.send(*((200, "image/png", png(0, 160, 0)) if had else (403, HTML, b"no cookie")))
    elif had:
        handler.send(200, HTML, document('<p>Welcome back</p><img src="/test/cookies/image">', "Cookies"))
    else:
        handler.send(302, HTML, b"", [("Location", "/test/cookies/"), ("Set-Cookie", "session=abc; HttpOnly"), ("Set-Cookie", "other=1; Path=/elsewhere")])


@page("refresh")
def refresh(handler: "Handler", rest: str) -> None:
    """An immediate refresh to another page; /loop to itself, /late after ten seconds, /header by a header."""
    if rest == "loop":
        handler.send(200, HTML, document("round", "Loop", '<meta http-equiv=refresh content="0; url=/test/refresh/loop?again">'))
    elif rest == "late":
        handler.send(200, HTML, document("stays", "Late", '<meta http-equiv="Refresh" content="10;url=/test/redirect/0">'))
    elif rest == "header":
        handler.send(200, HTML, document("away", "Header"), {"Refresh": "0; url=/test/redirect/0"})
    else:
        handler.send(200, HTML, document("away", "Away", "<META HTTP-EQUIV=refresh CONTENT=\"0;URL='/test/redirect/0'\">"))


# Character sets.

_TEXT = "Grüße, naïve café, 20 €"
_CHARSETS = {
    "utf-8-header": (f"<title>x</title><p id=t>{_TEXT}".encode(), "text/html; charset=utf-8"),
    "utf-8-bom": (b"\xef\xbb\xbf" + f"<meta charset=windows-1252><p id=t>{_TEXT}".encode(), "text/html; charset=iso-8859-1"),
    "utf-8-meta": (f"<meta charset='utf-8'><p id=t>{_TEXT}".encode(), "text/html"),
    "utf-16le-bom": (b"\xff\xfe" + f"<p id=t>{_TEXT}".encode("utf-16-le"), "text/html"),
    "utf-16be-bom": (b"\xfe\xff" + f"<p id=t>{_TEXT}".encode("utf-16-be"), "text/html"),
    "windows-1252-default": (f"<p id=t>{_TEXT}".encode("cp1252"), "text/html"),
    "latin1-label": (f"<p id=t>{_TEXT}".encode("cp1252"), "text/html; charset=ISO-8859-1"),
    "http-equiv": (f'<!-- <meta charset=koi8-r> --><meta http-equiv="Content-Type" content="text/html; charset=windows-1252"><p id=t>{_TEXT}'.encode("cp1252"), "text/html"),
    "shift-jis": ("<meta charset=shift_jis><p id=t>日本語".encode("shift_jis"), "text/html"),
    "koi8-r": ("<p id=t>Привет".encode("koi8-r"), "text/html; charset=koi8-r"),
    "meta-too-late": (b"<!--" + b" " * 1100 + b"--><meta charset=utf-8>" + f"<p id=t>{_TEXT}".encode("cp1252"), "text/html"),
    "xhtml": ('<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml"><head><title/></head><body><p id="t">' + _TEXT + "<br/></p></body></html>").encode(),
}
_CHARSETS["xhtml"] = (_CHARSETS["xhtml"], "application/xhtml+xml")


@page("charset")
def charset(handler: "Handler", rest: str) -> None:
    """A page in a character set, declared in one way."""
    body, kind = _CHARSETS.get(rest, _CHARSETS["utf-8-header"])
    handler.send(200, kind, body)


# Encodings and bombs.


@page("encoded")
def encoded(handler: "Handler", rest: str) -> None:
    """A page with a content encoding: gzip, deflate, raw-deflate, br, double, broken, unknown, members."""
    body = document("<p>Unpacked</p>" * 50, "Encoded")
    raw = zlib.compressobj(wbits=-15)
    bodies = {
        "gzip": ("gzip", gzip.compress(body)),
        "members": ("gzip", gzip.compress(body[:60]) + gzip.compress(body[60:])),
        "rubbish-after": ("gzip", gzip.compress(body) + b"\0\0rubbish"),
        "deflate": ("deflate", zlib.compress(body)),
        "raw-deflate": ("deflate", raw.compress(body) + raw.flush()),
        "br": ("br", stored_brotli(body)),
        "double": ("gzip, deflate", zlib.compress(gzip.compress(body))),
        "broken": ("gzip", gzip.compress(body)[:10] + b"\xff" * 200),
        "unknown": ("x-unheard-of", body),
    }
    name, data = bodies.get(rest, bodies["gzip"])
    handler.send(200, HTML, data, {"Content-Encoding": name})


def stored_brotli(body: bytes) -> bytes:
    """A Brotli stream (RFC 7932) that stores its data uncompressed, in meta-blocks of up to 64 KiB."""
    bits, count, out = 0, 0, bytearray()

    def put(value: int, width: int) -> None:
        nonlocal bits, count
        bits |= value << count
        count += width
        while count >= 8:
            out.append(bits & 255)
            bits, count = bits >> 8, count - 8

    put(0, 1)  # WBITS 16
    for at in range(0, len(body), 65536):
        piece = body[at:at + 65536]
        put(0, 1)  # not the last
        put(0, 2)  # four nibbles of length
        put(len(piece) - 1, 16)
        put(1, 1)  # uncompressed
        if count:
            put(0, 8 - count)
        out += piece
    put(3, 2)  # last, empty
    if count:
        put(0, 8 - count)
    return bytes(out)


@page("zeros")
def zeros(handler: "Handler", rest: str) -> None:
    """10 GiB of zeros, compressed: gzip, deflate, br."""
    if rest == "br":
        handler.send(200, HTML, (DATA / "zeros.br").read_bytes(), {"Content-Encoding": "br"})
        return
    raw = zlib.compressobj(9, wbits=-15)
    # A full flush leaves no reference to what was before: the same bytes again are the same zeros again.
    step = raw.compress(bytes(16 * 1024 * 1024)) + raw.flush(zlib.Z_FULL_FLUSH)
    head = b"\x1f\x8b\x08\0\0\0\0\0\0\xff" if rest == "gzip" else b"\x78\x9c"
    begin(handler, 200, HTML, {"Content-Encoding": rest or "gzip"})
    handler.wfile.write(head)
    for _ in range(BOMB_BYTES // (16 * 1024 * 1024)):
        handler.wfile.write(step)


def begin(handler: "Handler", status: int, kind: str, headers: dict[str, str]) -> None:
    """The head of a response that ends with its connection."""
    handler.close_connection = True
    handler.send_response(status)
    handler.send_header("Content-Type", kind)
    for name, value in headers.items():
        handler.send_header(name, value)
    handler.send_header("Connection", "close")
    handler.end_headers()


@page("bombs")
def bombs(handler: "Handler", _: str) -> None:
    """A page of twenty bombs as images, style sheets and frames."""
    names = ("gzip", "deflate", "br", "br?1", "br?2", "br?3", "br?4", "br?5", "gzip?1", "gzip?2")
    parts = "".join(f'<img src="/test/zeros/{n}"><link rel=stylesheet href="/test/zeros/{n}&c">' for n in names)
    handler.send(200, HTML, document(parts + '<iframe src="/test/zeros/br?f"></iframe>', "Bombs"))


@page("huge")
def huge(handler: "Handler", rest: str) -> None:
    """A page of so many MiB, 100 if it does not say."""
    begin(handler, 200, HTML, {})
    handler.wfile.write(b"<!DOCTYPE html><title>Huge</title>")
    for _ in range(min(int(rest or 100), 10_000)):
        handler.wfile.write(b"<p>more of the same</p>\n" * 43_690)


# Servers that do not keep to HTTP, or to time.


@page("never")
def never(handler: "Handler", _: str) -> None:
    """Never answers."""
    handler.close_connection = True
    time.sleep(PATIENCE_SECONDS)


@page("slow")
def slow(handler: "Handler", rest: str) -> None:
    """One byte a second: the body, or with /head the head."""
    handler.close_connection = True
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\nContent-Length: 5000\r\n\r\n"
    if rest != "head":
        handler.wfile.write(head)
        head = b""
    for byte in (head + b"<!DOCTYPE html><p>slow" * 200)[:PATIENCE_SECONDS]:
        handler.wfile.write(bytes([byte]))
        handler.wfile.flush()
        time.sleep(1)


@page("raw")
def raw(handler: "Handler", rest: str) -> None:
    """Answers that break HTTP in one way each."""
    handler.close_connection = True
    body = document("<p>raw</p>", "Raw")
    head = b"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n"
    write = handler.wfile.write
    if rest == "longer":
        write(head + b"Content-Length: %d\r\n\r\n" % (len(body) + 1000) + body)
    elif rest == "shorter":
        handler.close_connection = False
        write(head + b"Content-Length: %d\r\n\r\n" % (len(body) - 10) + body + b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\npoisoned!")
    elif rest == "no-length":
        write(head + b"\r\n" + body)
    elif rest == "chunked":
        write(head + b"Transfer-Encoding: chunked\r\n\r\n" + b"".join(b"%x;x=y\r\n%c\r\n" % (1, byte) for byte in body) + b"0\r\nTrailer: x\r\n\r\n")
    elif rest == "broken-chunks":
        write(head + b"Transfer-Encoding: chunked\r\n\r\n5\r\nhello\r\nzz\r\n")
    elif rest == "interim":
        write(b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: </x.css>; rel=preload\r\n\r\n" + head + b"Content-Length: %d\r\n\r\n" % len(body) + body)
    elif rest in ("endless-100", "endless-103"):
        line = b"HTTP/1.1 100 Continue\r\n\r\n" if rest.endswith("100") else b"HTTP/1.1 103 Early Hints\r\nA: b\r\n\r\n"
        end = time.monotonic() + PATIENCE_SECONDS
        while time.monotonic() < end:
            write(line * 10)
    elif rest == "endless-head":
        write(head)
        for at in range(100_000):
            write(b"X-%d: %s\r\n" % (at, b"y" * 1000))
    elif rest == "long-line":
        write(head + b"X-Long: " + b"y" * 3_000_000 + b"\r\n\r\n")
    elif rest == "nothing":
        pass
    elif rest == "rubbish":
        write(b"SSH-2.0-OpenSSH_9.2p1\r\n")
    elif rest == "http09":
        write(body)


# Types, and files that are no pages.


@page("type")
def kinds(handler: "Handler", rest: str) -> None:
    """Files that are no pages, and types that lie."""
    found = {
        "image.png": ("image/png", png(200, 60, 40, 64)),
        "lying.png": ("text/plain", png(200, 60, 40, 64)),
        "none.png": (None, png(200, 60, 40, 64)),
        "text.txt": ("text/plain; charset=utf-8", "Zeile eins <b>nicht fett</b>\nGrüße\n".encode()),
        "data.json": ("application/json", b'{"a": "<script>"}'),
        "file.pdf": ("application/pdf", b"%PDF-1.4\n%fake\n"),
        "file.bin": ("application/octet-stream", bytes(range(256))),
        "attached.html": ("text/html", b"<p>to be saved</p>"),
        "none.html": (None, b"<!DOCTYPE html><p>sniffed</p>"),
        "drawing.svg": ("image/svg+xml", b'<svg xmlns="http://www.w3.org/2000/svg" width="40" height="40"><circle cx="20" cy="20" r="18" fill="teal"/></svg>'),
        "style-as-html.css": ("text/html", b"body { color: red }"),
        "text.vtt": ("text/vtt", b"WEBVTT\n\n00:00.000 --> 00:01.000\nhello\n"),
        "film.webm": ("video/webm", b"\x1a\x45\xdf\xa3" + bytes(5000)),
        "large.webm": ("video/webm", b"\x1a\x45\xdf\xa3" + bytes(8_000_000)),
    }
    kind, body = found.get(rest, found["text.txt"])
    headers = {"Content-Disposition": 'attachment; filename="x.html"'} if rest == "attached.html" else {}
    handler.send(200, kind, body, headers)


@page("status")
def status(handler: "Handler", rest: str) -> None:
    """A page with that status."""
    code = int(rest or 404)
    handler.send(code, HTML, document(f"<h1>Status {code}</h1><img src='/test/png'>", f"Status {code}"))


# Pages with resources.


@page("many")
def many(handler: "Handler", rest: str) -> None:
    """So many images."""
    handler.send(200, HTML, document("".join(f'<img src="/test/png/{at:06x}">' for at in range(int(rest or 50))), "Many"))
