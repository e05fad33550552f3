"""One visit to one page: what it needs, what was found of it, and what is missing.

A page is written several times. Each time it asks for what it refers to; what is not there yet is fetched, and may refer to more.
The last writing, when nothing is fetched any more, is the result.
"""

import base64
import binascii
import bisect
import re
import time
from email.message import Message
from urllib.parse import quote, unquote_to_bytes

import charset
import css
import marks
import mime
import show
import urls
from bounds import (
    DOCUMENT_BYTES, IMPORT_DEPTH, MISSING_CHARACTERS, MISSING_ENTRIES, REDIRECTS, RESOURCE_BYTES, SHEET_BYTES, TEXT_BYTES, WORK_SECONDS, Bounds,
)
from document import Document
from fetch import Fetch, Fetcher, Resource, redirected
from headers import Kind
from wire import Trouble

# Writings of one page. Fallbacks of objects need one more each, nested frames are found while fetching.
_ROUNDS = 5
_LIMITS = {Kind.PAGE: DOCUMENT_BYTES, Kind.FRAME: DOCUMENT_BYTES, Kind.OBJECT: DOCUMENT_BYTES, Kind.STYLE: SHEET_BYTES}
_DATA = re.compile(r"data:([^,;]*)((?:;[^,;]*)*),(.*)\Z", re.S | re.I)


class Visit:
    """Fetches and packs one page."""

    def __init__(self, fetcher: Fetcher, bounds: Bounds, scripts: bool) -> None:
        self.fetcher = fetcher
        self.bounds = bounds
        self.scripts = scripts
        self.characters: set[str] = set()
        self.url = fetcher.page
        self.status = 0
        self.title = ""
        #: What does not come from one failed fetch, such as a frame within itself.
        self.troubles: dict[str, str] = {}
        self._documents: dict[tuple[str, int], Document] = {}
        self._data: dict[tuple[str, Kind], tuple[str | None, str | None]] = {}
        self._made: dict[str, Fetch] = {}
        self._marks: list[str] = []
        self._mark_of: dict[str, int] = {}
        self._text_left = TEXT_BYTES
        self._begun = time.process_time()
        self._ordered: list[int] = []

    def page(self) -> bytes:
        """The packed page. Raises `Trouble` if there is none."""
        first = self._main()
        self.url, self.status = first.url, first.status
        self.fetcher.page = first.url
        kind = mime.of_document(first.header("Content-Type"), first.body)
        attached = first.header("Content-Disposition").strip().lower().startswith("attachment")
        if kind not in mime.HTML or attached:
            self.title = urls.split_fragment(first.url)[0].rsplit("/", 1)[-1]
            return show.view(first, kind, self.title, attached).encode("utf-8", "replace")
        document = self._document(first, kind, 0, None)
        self.title = document.title
        for _ in range(_ROUNDS):
            self._text_left = TEXT_BYTES
            self.troubles.clear()
            packed = document.write()
            before = self.fetcher.count
            self.fetcher.run(self._ended)
            if self.fetcher.count == before and not self.fresh:
                break
            self.fresh = False
        self._text_left = TEXT_BYTES
        return self.filled(packed)

    #: True if something was fetched after the page was last written.
    fresh = False

    def _main(self) -> Resource:
        """The page itself, behind its redirects and immediate refreshes."""
        url = self.url
        for _ in range(REDIRECTS):
            wanted = self.fetcher.want(url, Kind.PAGE, None, DOCUMENT_BYTES)
            self.fetcher.run(lambda _: None)
            if wanted.resource is None:
                raise Trouble(wanted.trouble or "it was not fetched")
            found = wanted.resource
            kind = mime.of_document(found.header("Content-Type"), found.body)
            after = found.header("Refresh")
            refresh = show.refresh(after) if after else None
            if refresh is None and kind in mime.HTML:
                refresh = self._document(found, kind, 0, None).refresh
            if refresh is None or refresh[0] > 1 or not refresh[1]:
                return found
            place = redirected(found.url, refresh[1])
            if urls.split_fragment(place)[0] in (urls.split_fragment(url)[0], urls.split_fragment(found.url)[0]):
                return found
            url = place
        raise Trouble(f"more than {REDIRECTS} redirects")

    def _ended(self, fetch: Fetch) -> None:
        """Asks for what a resource refers to as soon as it is there."""
        self.fresh = True
        if fetch.resource is None:
            return
        if fetch.kind is Kind.STYLE:
            self.sheet(fetch, self.encoding, ())
        elif fetch.kind in (Kind.FRAME, Kind.OBJECT):
            self.frame(fetch, fetch.depth, ())

    encoding = "utf-8"

    def _document(self, resource: Resource, kind: str, depth: int, parent: str | None) -> Document:
        key = (resource.url, depth)
        if key not in self._documents:
            xml = kind == "application/xhtml+xml"
            text, encoding = charset.document(resource.body, resource.header("Content-Type"), xml, parent)
            if depth == 0:
                self.encoding = encoding
            self._documents[key] = Document(self, text, resource.url, encoding, depth, xml)
        return self._documents[key]

    # What documents and style sheets ask for.

    def want(self, base: str, reference: str, kind: Kind, guess: bool = False) -> Fetch | None:
        """The fetch of something referred to; None if that is no address at all or empty."""
        reference = urls.tidy(reference)
        if not reference or reference.startswith("#"):
            return None
        try:
            url = urls.resolve(base, reference)
        except urls.BadUrl as error:
            self.troubles[reference] = str(error)
            return None
        if urls.scheme(url) in ("about", "javascript"):
            return None
        if urls.scheme(url) == "data":
            return self._from_data(url, kind)
        if urls.scheme(url) == "http" and urls.scheme(self.url) == "https":
            # Mixed content: browsers upgrade or block it.
            url = "https" + url[4:]
        limit = _LIMITS.get(kind, RESOURCE_BYTES) if kind is not Kind.MEDIA else self.bounds.media_bytes
        return self.fetcher.want(url, kind, base if urls.scheme(base) in ("http", "https") else self.url, limit, guess)

    def _from_data(self, url: str, kind: Kind) -> Fetch:
        if url not in self._made:
            made = self._made[url] = Fetch(url, kind, None, 0, ended=True)
            found = _DATA.match(url)
            if not found:
                made.trouble = "not a data: address"
            else:
                body = unquote_to_bytes(urls.split_fragment(found[3])[0])
                headers = Message()
                headers["Content-Type"] = ((found[1] or "text/plain") + found[2]).encode("ascii", "replace").decode()
                try:
                    if found[2].lower().endswith(";base64"):
                        body = base64.b64decode(re.sub(rb"\s", b"", body) + b"==")
                    made.resource = Resource(url, 200, headers, body)
                except (binascii.Error, ValueError):
                    made.trouble = "not a data: address"
        return self._made[url]

    def image(self, base: str, reference: str) -> str | None:
        """A `data:` address, or a mark that `finished` makes one of; None if the image is not there."""
        reference = urls.tidy(reference)
        if urls.scheme(reference) == "data":
            return reference if re.match(r"data:[^,\"<>\\\s]*,", reference, re.I) else None
        wanted = self.want(base, reference, Kind.IMAGE)
        return self._marked(wanted, urls.split_fragment(reference)[1]) if wanted else None

    def _marked(self, fetch: Fetch, fragment: str) -> str | None:
        data = self.data(fetch, Kind.IMAGE)
        if data is None:
            return None
        # Only of SVG can a part be shown. Encoded so that it needs no quotes in CSS.
        fragment = quote(fragment, "#%=,;:/._-") if data.startswith("data:image/svg") else ""
        key = fetch.url + fragment
        if key not in self._mark_of:
            self._mark_of[key] = len(self._marks)
            self._marks.append(data + fragment)
        return marks.image(self._mark_of[key])

    def data(self, fetch: Fetch, kind: Kind) -> str | None:
        """What was fetched as a `data:` address, if it is what it is wanted for now."""
        if not fetch.ended:
            return None
        if (fetch.url, kind) not in self._data:
            self._data[fetch.url, kind] = self._as_data(fetch, kind)
        data, trouble = self._data[fetch.url, kind]
        if trouble:
            self.troubles[fetch.url] = trouble
        return data

    def _as_data(self, fetch: Fetch, kind: Kind) -> tuple[str | None, str | None]:
        found = fetch.resource
        if found is None:
            return None, fetch.trouble
        if trouble := unusable(found):
            return None, trouble
        header, guess = found.header("Content-Type"), mime.of_document(found.header("Content-Type"), found.body)
        if kind is Kind.IMAGE:
            known = mime.of_image(header, found.body)
            if known is None:
                return None, f"not an image but {guess}"
        elif kind is Kind.FONT:
            known = mime.magic(found.body)
            if not known.startswith("font/"):
                return None, f"not a font but {guess}"
        else:
            known = "text/vtt" if kind is Kind.TRACK else mime.of_media(header, found.body)
        return mime.data_url(known, found.body), None

    def filled(self, document: str) -> bytes:
        """A document with the images its marks stand for."""
        return marks.filled(document, self._marks, self.spend, not self.scripts)

    def sheet(self, fetch: Fetch, encoding: str, trail: tuple[str, ...]) -> str | None:
        """A fetched style sheet, packed; None if it is not there."""
        if not fetch.ended or fetch.resource is None:
            return None
        found = fetch.resource
        kind = mime.essence(found.header("Content-Type"))
        trouble = f"HTTP {found.status}" if found.status >= 400 else f"not a style sheet but {kind}" if kind not in ("", "text/css") else None
        if trouble is not None:
            self.troubles[fetch.url] = trouble
            return None
        text = charset.sheet(found.body, found.header("Content-Type"), encoding)
        self.spend(len(text))
        return css.pack(text, found.url, Sheets(self, encoding), (*trail, fetch.url))

    def frame(self, fetch: Fetch, depth: int, trail: tuple[str, ...]) -> str | None:
        """A fetched document for a frame, packed; None if it is not there."""
        if not fetch.ended or fetch.resource is None:
            return None
        found = fetch.resource
        kind = mime.of_document(found.header("Content-Type"), found.body)
        if kind not in mime.HTML:
            return show.view(found, kind, "", False)
        document = self._document(found, kind, depth, self.encoding)
        return document.write((*trail, fetch.url))

    def inner(self, parent: Document, source: str) -> Document:
        """The document in a `srcdoc` attribute."""
        key = (f"{parent.base}\x00{source}", parent.depth + 1)
        if key not in self._documents:
            self._documents[key] = Document(self, source, parent.base, parent.encoding, parent.depth + 1, False)
        return self._documents[key]

    def script(self, fetch: Fetch, encoding: str) -> str | None:
        """A fetched script as a `data:` address; None if it is not there."""
        if not fetch.ended or fetch.resource is None:
            return None
        found = fetch.resource
        if found.status >= 400:
            self.troubles[fetch.url] = f"HTTP {found.status}"
            return None
        source = charset.sheet(found.body, found.header("Content-Type"), encoding)
        return mime.data_url("text/javascript;charset=utf-8", source.encode("utf-8", "replace"))

    def sheets(self, encoding: str) -> "Sheets":
        """The environment of a document's style sheets."""
        return Sheets(self, encoding)

    def spend(self, characters: int) -> None:
        """Counts text against its bound."""
        self.work()
        self._text_left -= characters
        if self._text_left < 0:
            raise Trouble(f"its documents and style sheets are over {TEXT_BYTES} bytes altogether")

    def work(self) -> None:
        """Asks whether the page may take yet more work."""
        if time.process_time() - self._begun > WORK_SECONDS:
            raise Trouble(f"it takes more than {WORK_SECONDS} s of CPU time to pack")

    def shows(self, low: int, high: int) -> bool:
        """True if the page has a character between these two."""
        if len(self._ordered) != len(self.characters):
            self._ordered = sorted(map(ord, self.characters))
        at = bisect.bisect_left(self._ordered, low)
        return at < len(self._ordered) and self._ordered[at] <= high

    def missing(self) -> list[dict[str, str]]:
        """What could not be fetched, and why."""
        known = {**self.fetcher.all, **self._made}
        found = {url: trouble for url, trouble in self.troubles.items() if url not in known or not known[url].guess}
        for fetch in known.values():
            if fetch.trouble is not None and not fetch.guess and fetch.kind is not Kind.PAGE:
                found.setdefault(fetch.url, fetch.trouble)
        entries = [{"url": url[:MISSING_CHARACTERS], "reason": reason} for url, reason in found.items()]
        if len(entries) > MISSING_ENTRIES:
            more = len(entries) - MISSING_ENTRIES
            entries = [*entries[:MISSING_ENTRIES], {"url": "", "reason": f"and {more} more"}]
        return entries


def unusable(resource: Resource) -> str | None:
    """Why a resource cannot be used, whatever it is."""
    if resource.status >= 400:
        return f"HTTP {resource.status}"
    return None if resource.body else "it is empty"


class Sheets:
    """The environment of the style sheets of one document."""

    def __init__(self, visit: Visit, encoding: str) -> None:
        self._visit = visit
        self._encoding = encoding

    def image(self, base: str, reference: str) -> str:
        """An image as a CSS value."""
        reference = urls.tidy(reference)
        if reference.startswith("#"):
            return css.string(reference, "url")
        data = self._visit.image(base, reference)
        if data is None:
            return 'url("data:,")'
        return marks.in_sheet(data) if data[0] == "\x00" else css.string(data, "url")

    def font(self, base: str, reference: str) -> str | None:
        """A font as a CSS value."""
        if urls.scheme(urls.tidy(reference)) == "data":
            return css.string(reference, "url")
        wanted = self._visit.want(base, reference, Kind.FONT)
        if wanted is not None and not wanted.ended:
            return ""
        data = self._visit.data(wanted, Kind.FONT) if wanted else None
        return f'url("{data}")' if data else None

    def imported(self, base: str, reference: str, trail: tuple[str, ...]) -> str | None:
        """An imported style sheet. One that imports itself is left out, as a browser does."""
        wanted = self._visit.want(base, reference, Kind.STYLE)
        if wanted is None or wanted.url in trail:
            return None
        if len(trail) >= IMPORT_DEPTH:
            self._visit.troubles[wanted.url] = f"imported more than {IMPORT_DEPTH} deep"
            return None
        return self._visit.sheet(wanted, self._encoding, trail)

    def shows(self, ranges: str) -> bool:
        """True if the page has a character of these ranges."""
        for part in ranges.split(","):
            found = re.fullmatch(r"\s*[uU]\+([0-9a-fA-F?]{1,6})(?:-([0-9a-fA-F]{1,6}))?\s*", part)
            if not found:
                return True
            low = int(found[1].replace("?", "0"), 16)
            high = int(found[2], 16) if found[2] else int(found[1].replace("?", "F"), 16)
            if self._visit.shows(low, high):
                return True
        return False
