"""HTML cut into tokens as the HTML standard's tokenizer does (section 13.2.5), and tokens written so that no parser can differ.

There is no tree. The browser that opens the packed page builds it, from the same tokens it would have seen on the original
page, so that nothing is lost or moved. Measured: five times as fast as html5lib, whose tokenizer is the oracle of the tests.

Where the tokenizer depends on the tree (raw text, CDATA) it keeps count of `svg` and `math` only. A mistake there may show
wrong text but never lets a tag through: everything is written again by `start`, `end` and `text`, which escape it.
"""

import html
import re
from collections.abc import Iterator
from dataclasses import dataclass
from html.entities import html5 as _NAMED

#: Elements without an end tag.
VOID = frozenset("area base br col embed frame hr img input link meta param source track wbr basefont bgsound keygen".split())

_RAW = frozenset("script style xmp iframe noembed noframes".split())
_ESCAPABLE = frozenset({"title", "textarea"})
_FOREIGN = frozenset({"svg", "math"})
# Elements in which HTML is parsed again, inside svg and math.
_INTEGRATION = {"svg": {"foreignobject", "desc", "title"}, "math": {"mi", "mo", "mn", "ms", "mtext", "annotation-xml"}}
# HTML elements that end svg and math when they appear in it.
_BREAKOUT = frozenset(
    "b big blockquote body br center code dd div dl dt em embed h1 h2 h3 h4 h5 h6 head hr i img li listing menu meta nobr ol p "
    "pre ruby s small span strong strike sub sup table tt u ul var".split()
)

_TAG_NAME = re.compile(r"[A-Za-z][^\t\n\f />]*")
# One attribute, or the tag's end. An opening quote without its closing one is left standing for `_tag` to see.
_ATTRIBUTE = re.compile(
    r"""[\t\n\f /]*(?:(?P<close>>)|(?P<name>[^\t\n\f />][^\t\n\f />=]*)"""
    r"""(?:[\t\n\f ]*(?P<equals>=)[\t\n\f ]*(?:"(?P<double>[^"]*)"|'(?P<single>[^']*)'|(?P<bare>[^\t\n\f >"'][^\t\n\f >]*))?)?)"""
)
_COMMENT_END = re.compile(r"--!?>")
_SCRIPT_PARTS = re.compile(r"<!--|-->|<(/?)script(?=[\t\n\f />])", re.I)
_UPPER = {code: code + 32 for code in range(65, 91)}
_REFERENCE = re.compile(r"&(#[0-9]+;?|#[xX][0-9a-fA-F]+;?|[A-Za-z][A-Za-z0-9]*;?)")
_GOOD_NAME = re.compile(r"[A-Za-z_:@*#\[\](){}.\-][^\s\"'<>/=&`\x00-\x1f]*\Z")
_GOOD_TAG = re.compile(r"[a-z][^\s\"'<>/=&`\x00-\x1f]*\Z")


@dataclass(slots=True)
class Start:
    """A start tag. `attributes` keep their order; names are in lower case, values without character references."""

    name: str
    attributes: dict[str, str]
    closed: bool = False
    #: True inside svg or math, where `closed` counts.
    foreign: bool = False


@dataclass(slots=True)
class End:
    """An end tag."""

    name: str


@dataclass(slots=True)
class Text:
    """Text without character references."""

    text: str


@dataclass(slots=True)
class Raw:
    """The text of a script, style sheet or another element whose content is no HTML."""

    name: str
    text: str


@dataclass(slots=True)
class Doctype:
    """What follows `<!DOCTYPE`."""

    text: str


Token = Start | End | Text | Raw | Doctype


def tokens(source: str, xml: bool = False) -> Iterator[Token]:
    """The tokens of a document. `xml`: as XHTML, where `<br/>` closes itself and no text is raw. Comments are left out."""
    source = source.replace("\r\n", "\n").replace("\r", "\n").replace("\x00", "\ufffd")
    at, size = 0, len(source)
    foreign: list[str] = []
    while at < size:
        opening = source.find("<", at)
        if opening < 0:
            opening = size
        if opening > at:
            yield Text(html.unescape(source[at:opening]))
        if opening >= size - 1:
            if opening == size - 1:
                yield Text("<")
            return
        at, following = opening, source[opening + 1]
        if following.isascii() and following.isalpha():
            tag, at = _tag(source, at + 1)
            if tag is None:
                return
            name = tag.name
            inside = bool(foreign) and foreign[-1] in _FOREIGN
            if inside and not xml and name in _BREAKOUT:
                _leave(foreign)
                inside = False
            tag.foreign = inside or name in _FOREIGN
            yield tag
            if tag.closed and (tag.foreign or xml):
                if not tag.foreign and name not in VOID:
                    yield End(name)
                continue
            if name in _FOREIGN:
                foreign.append(name)
            elif inside:
                if name in _INTEGRATION[foreign[-1]]:
                    foreign.append(name)
            elif not xml and name in _RAW:
                end = _script_end(source, at) if name == "script" else _end_of(name, source, at)
                yield Raw(name, source[at:end])
                at = end
            elif not xml and name in _ESCAPABLE:
                end = _end_of(name, source, at)
                yield Text(html.unescape(source[at:end]))
                at = end
            elif not xml and name == "plaintext":
                yield Text(source[at:])
                return
        elif following == "/":
            if at + 2 >= size:
                yield Text("</")
                return
            after = source[at + 2]
            if after.isascii() and after.isalpha():
                tag, at = _tag(source, at + 2)
                if tag is None:
                    return
                if tag.name in foreign:
                    while foreign.pop() != tag.name:
                        pass
                yield End(tag.name)
            else:
                at = _after(source, ">", at + 2)
        elif following == "!":
            at, token = _markup(source, at, xml or bool(foreign) and foreign[-1] in _FOREIGN)
            if token is not None:
                yield token
        elif following == "?":
            at = _after(source, ">", at + 2)
        else:
            yield Text("<")
            at += 1


def _leave(foreign: list[str]) -> None:
    while foreign and foreign[-1] in _FOREIGN:
        foreign.pop()


def _after(source: str, sign: str, at: int) -> int:
    found = source.find(sign, at)
    return len(source) if found < 0 else found + len(sign)


def _tag(source: str, at: int) -> tuple[Start | None, int]:
    """A tag whose name begins at `at`; None if the document ends in it."""
    name = _TAG_NAME.match(source, at)
    assert name is not None
    at, attributes, size = name.end(), {}, len(source)
    while True:
        found = _ATTRIBUTE.match(source, at)
        if found is None:
            return None, size
        at = found.end()
        if found["close"]:
            closed = source[at - 2] == "/" and found.start() < at - 1
            return Start(name.group().translate(_UPPER), attributes, closed), at
        value = found["double"] or found["single"] or found["bare"] or ""
        if not value and found["equals"] and source[at - 1] not in "\"'" and source[at:at + 1] in ("", '"', "'"):
            return None, size  # the document ends in this value
        key = found["name"].translate(_UPPER)
        if key not in attributes:
            attributes[key] = _REFERENCE.sub(_referred, value) if "&" in value else value


def _referred(found: re.Match) -> str:
    """A character reference in an attribute, where `&copy=1` is none (section 13.2.5.73)."""
    reference = found.group(1)
    if reference[0] == "#":
        return html.unescape(found.group())
    if reference[-1] == ";":
        return _NAMED.get(reference, found.group())
    following = found.string[found.end():found.end() + 1]
    return found.group() if following == "=" else _NAMED.get(reference, found.group())


def _end_of(name: str, source: str, at: int) -> int:
    found = re.compile(rf"</{name}(?=[\t\n\f />])", re.I).search(source, at)
    return found.start() if found else len(source)


def _script_end(source: str, at: int) -> int:
    """Where a script ends: not at an end tag between `<!-- <script>` and its own end (section 13.2.5.15 and on)."""
    escaped = 0
    while found := _SCRIPT_PARTS.search(source, at):
        part, at = found.group(), found.end()
        if part == "<!--":
            escaped = escaped or 1
            at = found.start() + 2  # `<!-->` closes itself: the dashes count for both
        elif part == "-->":
            escaped = 0
        elif found.group(1):
            if escaped != 2:
                return found.start()
            escaped = 1
        elif escaped:
            escaped = 2
    return len(source)


def _markup(source: str, at: int, cdata: bool) -> tuple[int, Token | None]:
    """What begins with `<!`."""
    if source.startswith("<!--", at):
        for short in (">", "->"):
            if source.startswith(short, at + 4):
                return at + 4 + len(short), None
        found = _COMMENT_END.search(source, at + 4)
        return (found.end() if found else len(source)), None
    if cdata and source.startswith("<![CDATA[", at):
        end = source.find("]]>", at)
        end = len(source) if end < 0 else end
        return min(end + 3, len(source)), Text(source[at + 9:end])
    end = _after(source, ">", at + 2)
    if source[at + 2:at + 9].lower() == "doctype":
        return end, Doctype(source[at + 9:end].rstrip(">"))
    return end, None


def text(value: str) -> str:
    """Text as HTML."""
    return value.replace("&", "&amp;").replace("<", "&lt;").replace(">", "&gt;").replace("\r", "&#13;")


def start(tag: Start) -> str:
    """A start tag as HTML, or nothing if its name could be read in two ways."""
    if not _GOOD_TAG.match(tag.name):
        return ""
    parts = [tag.name]
    for name, value in tag.attributes.items():
        if _GOOD_NAME.match(name):
            parts.append(f'{name}="{attribute(value)}"')
    return f"<{' '.join(parts)}{' /' if tag.closed and tag.foreign else ''}>"


def attribute(value: str) -> str:
    """An attribute's value between double quotes."""
    return text(value).replace('"', "&quot;") if value else value


def end(name: str) -> str:
    """An end tag as HTML."""
    return f"</{name}>" if _GOOD_TAG.match(name) else ""
