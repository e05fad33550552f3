"""One HTML document, the page's own or a frame's: read once, written as often as needed.

Writing goes through the tokens from first to last. What single elements become is `elements`' affair; here is what concerns the
document as a whole: its head, style sheets, text, what is left out, and the images it shows more than once.
"""

import re
from collections.abc import Iterable
from typing import TYPE_CHECKING

import css
import marks
import show
import svg
import urls
from elements import Elements
from headers import Kind
from tokens import VOID, Doctype, End, Raw, Start, Text, Token, attribute, end, start, text, tokens

if TYPE_CHECKING:
    from visit import Visit

# End tags a browser supplies itself; a second one would make an empty element.
_OPTIONAL = frozenset("html head body p li dt dd option optgroup tr td th tbody thead tfoot colgroup caption rb rt rp rtc".split())
_NAMES = frozenset("viewport description author keywords generator application-name theme-color color-scheme format-detection".split())
_EQUIV = frozenset({"content-language", "default-style", "x-ua-compatible"})
# Nesting that is kept track of. More is left to the browser.
_OPEN_MAX = 200
# Documents whose tokens are kept between writings.
_KEPT_CHARACTERS = 1024 * 1024


class Document:
    """What was read of a document."""

    def __init__(self, visit: "Visit", source: str, url: str, encoding: str, depth: int, xml: bool) -> None:
        self.visit = visit
        self.url = url
        self.base = url
        self.encoding = encoding
        self.depth = depth
        self.title = ""
        self.refresh: tuple[int, str] | None = None
        #: The best icon the document names, as the attributes of its link.
        self.icon: dict[str, str] | None = None
        self._source, self._xml = source, xml
        # Tokens take some thirty times the memory of their text: of a large document they are made anew for each writing.
        self._tokens = list(tokens(source, xml)) if len(source) <= _KEPT_CHARACTERS else None
        self._look()

    @property
    def tokens(self) -> Iterable[Token]:
        """The document from its first to its last token."""
        return tokens(self._source, self._xml) if self._tokens is None else self._tokens

    def _look(self) -> None:
        """Finds what counts before its place: the base, the title, the icon, a refresh."""
        based = titled = titling = False
        hidden = 0
        for at, token in enumerate(self.tokens):
            if not at & 1023:
                self.visit.work()
            if isinstance(token, Text):
                self.visit.characters.update(token.text)
                if titling:
                    self.title, titling = " ".join(token.text.split())[:500], False
            elif isinstance(token, End):
                titling = False
                hidden -= token.name == "noscript" and hidden > 0
            elif isinstance(token, Start):
                given = token.attributes
                if token.name == "noscript":
                    hidden += self.visit.scripts
                elif token.name == "base" and not based and "href" in given:
                    based = True
                    try:
                        base = urls.resolve(self.url, given["href"])
                        self.base = base if urls.scheme(base) in ("http", "https") else self.url
                    except urls.BadUrl:
                        pass
                elif token.name == "title" and not titled and not token.foreign:
                    titled = titling = True
                elif token.name == "link":
                    self._consider_icon(given)
                elif token.name == "meta" and given.get("http-equiv", "").strip().lower() == "refresh":
                    if self.refresh is None and not hidden and (found := show.refresh(given.get("content", ""))):
                        try:
                            place = urls.resolve(self.base, found[1]) if found[1] else ""
                            self.refresh = (found[0], place)
                        except urls.BadUrl:
                            pass

    def _consider_icon(self, given: dict[str, str]) -> None:
        """Firefox takes the last fitting one; a touch icon only for want of another."""
        words = given.get("rel", "").lower().split()
        if not given.get("href") or "mask-icon" in words:
            return
        known = self.icon.get("rel", "").lower() if self.icon else ""
        if "icon" in words:
            sizes = [int(size) for size in re.findall(r"(\d{1,4})x\d", given.get("sizes", "").lower())]
            if "icon" not in known.split() or not sizes or max(sizes) <= 64:
                self.icon = given
        elif not known and any(word.startswith("apple-touch-icon") for word in words):
            self.icon = given

    def write(self, trail: tuple[str, ...] = ()) -> str:
        """The document packed (`marks` for images), as far as what it needs is there; what is not there yet is asked for."""
        return Writer(self, trail or (self.url,)).written()


class Writer:
    """One writing of a document."""

    def __init__(self, document: Document, trail: tuple[str, ...]) -> None:
        self.document = document
        self.visit = document.visit
        self.base = document.base
        self.scripts = document.visit.scripts
        self.trail = trail
        self.sprites = svg.Sprites(self)
        self._environment: css.Environment = self.visit.sheets(document.encoding)
        self._elements = Elements(self)
        self._out: list[str] = []
        self._open: list[str] = []
        self._began = False
        self._frameset = False
        #: The element whose content is left out, and how many of its kind are open.
        self._skipped = ""
        self._skip_depth = 0
        self._script_open = False
        self._sheet: Start | None = None
        self._sheet_text: list[str] = []

    def written(self) -> str:
        """The whole document."""
        for at, token in enumerate(self.document.tokens):
            if not at & 1023:
                self.visit.work()
            if self._skipped:
                self._skip_over(token)
            elif isinstance(token, Doctype):
                if not self._began:
                    self._out.append(f"<!DOCTYPE{text(token.text)}>")
            elif isinstance(token, Text):
                self._text(token)
            elif isinstance(token, Start):
                self._start(token)
            elif isinstance(token, End):
                self._end(token)
            else:
                self._raw(token)
        self._begin()
        self._close()
        packed = "".join(self._out)
        self.visit.spend(len(packed))
        return marks.framed(packed) if self.document.depth else packed

    def skip(self, name: str) -> None:
        """Leaves out the content of the element just begun, and its end tag."""
        self._skipped, self._skip_depth = name, 1

    def style(self, value: str) -> str:
        """A style attribute packed."""
        return css.pack_style(value, self.base, self._environment)

    def put(self, written: str) -> None:
        """Writes HTML."""
        self._out.append(written)

    def _skip_over(self, token: object) -> None:
        if isinstance(token, Start) and token.name == self._skipped and not (token.foreign and token.closed):
            self._skip_depth += 1
        elif isinstance(token, End) and token.name == self._skipped:
            self._skip_depth -= 1
            if not self._skip_depth:
                self._skipped = ""

    def _begin(self) -> None:
        """Our part of the head: before anything that could load."""
        if self._began:
            return
        self._began = True
        self.put("<head>" + show.head(self.scripts, self.document.depth > 0) + marks.HEAD)
        if self.document.depth:
            return
        icon = self.document.icon
        if icon:
            data = self.visit.image(self.base, icon["href"])
        else:
            wanted = self.visit.want(self.document.url, "/favicon.ico", Kind.IMAGE, guess=True)
            data = self.visit.image(self.document.url, "/favicon.ico") if wanted else None
        # Also for want of one: with an icon named, no browser looks for another.
        self.put(f'<link rel="icon" href="{attribute(data or "data:,")}">')

    def _text(self, token: Text) -> None:
        if self._sheet is not None:
            self._sheet_text.append(token.text)
            return
        if not self._began:
            if not token.text.strip(" \t\n\f"):
                return
            self._begin()
        self.put(text(token.text))

    def _start(self, token: Start) -> None:
        name = token.name
        if not self._began:
            if name == "html":
                given = self._elements.attributes(token)
                self.put(start(Start("html", given)))
                self._begin()
                return
            self._begin()
        if name == "head" and not token.foreign:
            return
        if name == "noscript":
            if self.scripts:
                self.skip(name)
            else:
                self._elements.noscript += 1
            return
        if name in ("base", "bgsound"):
            return
        if name == "script":
            self._script(token)
            return
        if name == "style":
            self._sheet, self._sheet_text = token, []
            if token.closed and token.foreign:
                self._sheet = None
            return
        # These also inside svg: should a browser see its end where this program does not, they would count.
        if name == "link":
            self._link(token.attributes)
            return
        if name == "meta":
            self._meta(token)
            return
        self._frameset = self._frameset or name == "frameset"
        tag = self._elements.rewritten(token)
        if tag is None:
            return
        tag.name = _renamed(tag.name)
        self.put(start(tag))
        if tag.name not in VOID and not (tag.closed and tag.foreign) and len(self._open) < _OPEN_MAX:
            self._open.append(tag.name)

    def _end(self, token: End) -> None:
        name = token.name
        if name == "script" and self._script_open:
            self._script_open = False
            self.put("</script>")
            return
        if name in ("body", "html", "noscript", "script"):
            # The list of what is missing still follows, and what stands behind </body> belongs to it anyway.
            self._elements.noscript -= name == "noscript" and self._elements.noscript > 0
            return
        if name == "style":
            self._end_sheet()
            return
        if not self._began:
            if name not in ("head", "br"):
                return
            self._begin()
        self._elements.ended(name)
        name = _renamed(name)
        if name in self._open:
            while self._open.pop() != name:
                pass
        self.put(end(name))

    def _raw(self, token: Raw) -> None:
        if token.name == "style":
            self._sheet_text.append(token.text)
        elif token.name == "script":
            self.put(token.text)
        elif token.name == "xmp":
            self.put(text(token.text))
        # What stands in iframe, noembed and noframes is for browsers without frames.

    def _script(self, token: Start) -> None:
        given = dict(token.attributes)
        kind = given.get("type", "").strip().lower()
        if not self.scripts or kind == "speculationrules" or token.foreign:
            if not (token.closed and token.foreign):
                self.skip("script")
            return
        source = given.pop("src", None)
        for name in ("integrity", "crossorigin", "nonce", "referrerpolicy", "fetchpriority"):
            given.pop(name, None)
        if source is not None:
            wanted = self.visit.want(self.base, source, Kind.SCRIPT)
            given["src"] = (self.visit.script(wanted, given.get("charset") or self.document.encoding) if wanted else None) or "data:,"
            given.pop("charset", None)
        self.put(start(Start("script", given)))
        if source is not None:
            self.put("</script>")
            self.skip("script")
        else:
            self._script_open = True

    def _end_sheet(self) -> None:
        sheet, self._sheet = self._sheet, None
        if sheet is None:
            return
        given = {key: value for key, value in sheet.attributes.items() if key in ("media", "title", "id", "class", "type")}
        if given.pop("type", "").strip().lower() not in ("", "text/css"):
            return
        packed = css.pack("".join(self._sheet_text), self.base, self._environment)
        self._put_sheet(packed, given, sheet.foreign)

    def _put_sheet(self, packed: str, given: dict[str, str], foreign: bool = False) -> None:
        # In svg the content of a style element is read as HTML text, elsewhere as it stands.
        self.put(start(Start("style", given)) + (text(packed) if foreign else packed) + "</style>")

    def _link(self, given: dict[str, str]) -> None:
        words = given.get("rel", "").lower().split()
        if "stylesheet" not in words or "alternate" in words or "disabled" in given or not given.get("href"):
            return
        if given.get("type", "").partition(";")[0].strip().lower() not in ("", "text/css"):
            return
        wanted = self.visit.want(self.base, given["href"], Kind.STYLE)
        packed = self.visit.sheet(wanted, self.document.encoding, ()) if wanted else None
        if packed is None:
            return
        kept = {key: value for key, value in given.items() if key in ("media", "title", "id", "class")}
        if not self.scripts and "media" in given.get("onload", ""):
            # A pattern of pages in a hurry: loaded as if for print, and turned on by a script.
            kept.pop("media", None)
        self._put_sheet(packed, kept)

    def _meta(self, token: Start) -> None:
        given = token.attributes
        equivalent = given.get("http-equiv", "").strip().lower()
        kept = equivalent in _EQUIV if equivalent else given.get("name", "").strip().lower() in _NAMES
        if kept and "charset" not in given:
            allowed = {key: value for key, value in given.items() if key in ("http-equiv", "name", "content", "media", "id")}
            self.put(start(Start("meta", allowed)))

    def _close(self) -> None:
        if self._sheet is not None:
            self._end_sheet()
        if self._script_open:
            self.put("</script>")
        for name in reversed(self._open):
            if name not in _OPTIONAL and not name.startswith("frame"):
                self.put(end(name))
        self.put(self.sprites.written())


def _renamed(name: str) -> str:
    """`pre` for elements whose text a browser would take as it stands, tags and all, if it agrees that they are these elements."""
    return "pre" if name in ("xmp", "plaintext", "listing") else name
