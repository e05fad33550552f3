"""What kind of bytes these are, and bytes as a data: URL.

The type in the head is believed for text; images, fonts, films and sounds are known by their first bytes, as browsers do
(WHATWG MIME Sniffing, section 6).
"""

import base64

_MAGIC: list[tuple[int, bytes, str]] = [
    (0, b"\x89PNG\r\n\x1a\n", "image/png"),
    (0, b"\xff\xd8\xff", "image/jpeg"),
    (0, b"GIF87a", "image/gif"),
    (0, b"GIF89a", "image/gif"),
    (8, b"WEBPVP", "image/webp"),
    (4, b"ftypavif", "image/avif"),
    (4, b"ftypavis", "image/avif"),
    (0, b"BM", "image/bmp"),
    (0, b"\x00\x00\x01\x00", "image/x-icon"),
    (0, b"\x00\x00\x02\x00", "image/x-icon"),
    (0, b"wOF2", "font/woff2"),
    (0, b"wOFF", "font/woff"),
    (0, b"OTTO", "font/otf"),
    (0, b"\x00\x01\x00\x00", "font/ttf"),
    (0, b"ttcf", "font/collection"),
    (0, b"%PDF-", "application/pdf"),
    (0, b"\x1a\x45\xdf\xa3", "video/webm"),
    (4, b"ftyp", "video/mp4"),
    (8, b"WAVE", "audio/wav"),
    (0, b"OggS", "audio/ogg"),
    (0, b"fLaC", "audio/flac"),
    (0, b"ID3", "audio/mpeg"),
    (0, b"\xff\xfb", "audio/mpeg"),
    (0, b"\x1f\x8b\x08", "application/gzip"),
    (0, b"PK\x03\x04", "application/zip"),
]
HTML = frozenset({"text/html", "application/xhtml+xml"})
_UNSURE = frozenset({"", "text/plain", "application/octet-stream", "unknown/unknown", "application/unknown", "*/*"})
_HTML_STARTS = tuple(
    f"<{name}".encode()
    for name in "!doctype html|html|head|script|iframe|h1|div|font|table|a|style|title|b|body|br|p|!--|meta|svg".split("|")
)


def essence(header: str) -> str:
    """The type a `Content-Type` header names, in lower case, without parameters; empty if it names none."""
    kind = header.partition(";")[0].strip().lower()
    return kind if kind.count("/") == 1 and kind.isascii() and not any(c in "\"'<> \t,\\" for c in kind) else ""


def magic(body: bytes) -> str:
    """The type the first bytes show, or an empty string."""
    for at, sign, kind in _MAGIC:
        if body.startswith(sign, at):
            return kind
    return ""


def is_svg(body: bytes) -> bool:
    """True for SVG, which has no first bytes of its own."""
    head = body[:1024].lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    return head.startswith(b"<svg") or head.startswith((b"<?xml", b"<!--", b"<!doctype svg")) and b"<svg" in body[:4096].lower()


def of_document(header: str, body: bytes) -> str:
    """What a page or frame is."""
    kind = essence(header)
    if kind in HTML or kind and kind not in _UNSURE:
        return kind
    if found := magic(body):
        return found
    start = body[:512].lstrip(b"\xef\xbb\xbf \t\r\n\f").lower()
    if kind == "" and start.startswith(_HTML_STARTS):
        return "text/html"
    if b"\x00" in body[:512] and body[:2] not in (b"\xff\xfe", b"\xfe\xff"):
        return "application/octet-stream"
    return "text/plain"


def of_image(header: str, body: bytes) -> str | None:
    """The type of an image; None if it is none."""
    if found := magic(body):
        return found if found.startswith("image/") else None
    if is_svg(body):
        return "image/svg+xml"
    kind = essence(header)
    return kind if kind.startswith("image/") and kind != "image/svg+xml" else None


def of_media(header: str, body: bytes) -> str:
    """The type of a film or sound."""
    kind = essence(header)
    return kind if kind.startswith(("video/", "audio/")) else magic(body) or "application/octet-stream"


def data_url(kind: str, body: bytes) -> str:
    """The bytes as an address of their own."""
    return f"data:{kind};base64,{base64.b64encode(body).decode()}"
