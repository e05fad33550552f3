"""Bytes to text: which character set a document or style sheet is in, by the HTML and CSS standards' rules.

The sets themselves and their labels are the package `webencodings`'.
"""

import re

import webencodings

# How far a document is searched for its own declaration (HTML standard, section 13.2.3.2).
_PRESCAN_BYTES = 1024

_PARAMETER = re.compile(r"charset\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s;\"']+))", re.I)
_COMMENT = re.compile(rb"<!--.*?(?:--!?>|\Z)|<!-->", re.S)
_META = re.compile(rb"<meta[\t\n\f\r /]((?:[^>\"']|\"[^\"]*\"|'[^']*')*)>", re.I)
_ATTRIBUTE = re.compile(rb"([^\s\"'>/=]+)\s*=\s*(?:\"([^\"]*)\"|'([^']*)'|([^\s\"'>]+))")
_XML = re.compile(rb"\A<\?xml[^>]*?encoding\s*=\s*[\"']([A-Za-z0-9._-]+)[\"']")
_CSS = re.compile(rb'\A@charset "([^"]{1,40})";')


def of_header(content_type: str) -> str | None:
    """The label a `Content-Type` header or a `content` attribute names."""
    found = _PARAMETER.search(content_type)
    return next((part for part in found.groups() if part), None) if found else None


def document(body: bytes, content_type: str, xml: bool = False, parent: str | None = None) -> tuple[str, str]:
    """A document's text and the name of its set: byte order mark, header, declaration, then `parent`'s, then windows-1252."""
    encoding = _lookup(of_header(content_type)) or _prescan(body[:_PRESCAN_BYTES])
    fallback = encoding or ("utf-8" if xml else _lookup(parent) or "windows-1252")
    return _decode(body, fallback)


def sheet(body: bytes, content_type: str, parent: str) -> str:
    """A style sheet's text: byte order mark, header, `@charset`, then its document's set."""
    encoding = _lookup(of_header(content_type))
    if encoding is None and (found := _CSS.match(body)):
        encoding = _no_utf16(_lookup(found.group(1).decode("latin-1")))
    return _decode(body, encoding or _lookup(parent) or "utf-8")[0]


def plain(body: bytes, content_type: str) -> str:
    """Text that is no HTML. Most of what says nothing is UTF-8."""
    encoding = _lookup(of_header(content_type))
    if encoding is None:
        try:
            return body.decode("utf-8-sig")
        except UnicodeDecodeError:
            pass
    return _decode(body, encoding or "windows-1252")[0]


def _decode(body: bytes, fallback: str) -> tuple[str, str]:
    text, encoding = webencodings.decode(body, fallback, "replace")
    return text, encoding.name


def _lookup(label: str | None) -> str | None:
    found = webencodings.lookup(label) if label else None
    return found.name if found else None


def _no_utf16(name: str | None) -> str | None:
    # A declaration that could be read as ASCII is not in UTF-16, whatever it says.
    return "utf-8" if name in ("utf-16le", "utf-16be") else name


def _prescan(head: bytes) -> str | None:
    head = _COMMENT.sub(b"", head)
    for meta in _META.finditer(head):
        values: dict[bytes, str] = {}
        for found in _ATTRIBUTE.finditer(meta.group(1)):
            value = next((part for part in found.groups()[1:] if part is not None), b"")
            values.setdefault(found.group(1).lower(), value.decode("latin-1"))
        label = values.get(b"charset")
        if label is None and values.get(b"http-equiv", "").strip().lower() == "content-type":
            label = of_header(values.get(b"content", ""))
        if name := _lookup(label):
            return "windows-1252" if name == "x-user-defined" else _no_utf16(name)
    found = _XML.match(head)
    return _no_utf16(_lookup(found.group(1).decode())) if found else None
