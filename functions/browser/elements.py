"""What single elements of a packed document become: their addresses replaced by what they lead to, or made absolute."""

import re
from typing import TYPE_CHECKING

import choose
import marks
import mime
import urls
from bounds import FRAME_DEPTH
from headers import Kind
from tokens import Start, start

if TYPE_CHECKING:
    from document import Writer

# Attributes that load, report or select what loads, and say nothing in a packed page.
_DROPPED = frozenset(
    "integrity crossorigin ping nonce attributionsrc fetchpriority referrerpolicy loading importance blocking manifest lowsrc dynsrc "
    "longdesc codebase archive classid profile imagesrcset imagesizes srcdoc csp allow itemid formtarget browsingtopics "
    "adauctionheaders sharedstoragewritable privatetoken credentialless elementtiming".split()
)
_NO_IMAGE = "data:,"
_FRAMES_ALLOW = "allow-popups allow-popups-to-escape-sandbox allow-top-navigation-by-user-activation allow-forms allow-downloads"
_LAZY_SOURCES = ("data-src", "data-lazy-src", "data-original", "data-lazy", "data-echo", "data-hi-res-src")
_LAZY_SETS = ("data-srcset", "data-lazy-srcset")
_LAZY_BACKGROUNDS = ("data-bg", "data-background", "data-background-image", "data-bg-src")
_LAZY_CLASSES = {"lazyload": "lazyloaded", "lazy": "loaded", "lazyloading": "lazyloaded", "b-lazy": "b-loaded", "lazy-hidden": "lazy-loaded"}


class Elements:
    """The elements of one writing of a document."""

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer
        self._visit = writer.visit
        self._base = writer.base
        #: How many noscript elements are open, whose content is shown.
        self.noscript = 0
        #: Images whose address stood where only a script looks; a copy for readers without scripts often follows.
        self._lazy: set[str] = set()
        self._srcdoc: str | None = None
        self._picture = False
        self._picture_chosen = False
        self._media_chosen: list[bool] = []
        self._special = {
            "img": self._img, "image": self._svg_image, "feimage": self._svg_image, "input": self._input, "picture": self._begin_picture,
            "source": self._source, "video": self._media, "audio": self._media, "track": self._track, "iframe": self._iframe,
            "frame": self._frame, "object": self._object, "embed": self._embed, "applet": self._applet, "use": self._use,
            "a": self._link, "area": self._link, "form": self._form, "button": self._button, "portal": self._applet,
            "fencedframe": self._applet,
        }

    def rewritten(self, tag: Start) -> Start | None:
        """The tag to write; None if nothing is written, or something else was."""
        given = self.attributes(tag)
        self._srcdoc = tag.attributes.get("srcdoc")
        made = Start(tag.name, given, tag.closed, tag.foreign)
        special = self._special.get(tag.name)
        if special is not None:
            return special(made)
        self._nowhere(made)
        if tag.foreign:
            self._paint(made)
        return made

    def ended(self, name: str) -> None:
        """Takes note of an end tag."""
        if name == "picture":
            self._picture = False
        elif name in ("video", "audio") and self._media_chosen:
            self._media_chosen.pop()

    def attributes(self, tag: Start) -> dict[str, str]:
        """Attributes every element may have, with all that would load, run or report taken out."""
        given: dict[str, str] = {}
        for name, value in tag.attributes.items():
            if name in _DROPPED or (name.startswith("on") and not self._writer.scripts):
                continue
            given[name] = value
        if not self._writer.scripts:
            self._hurry(given)
        if "style" in given:
            given["style"] = self._writer.style(given["style"])
        if "background" in given:
            given["background"] = self._visit.image(self._base, given["background"]) or _NO_IMAGE
        if "cite" in given:
            self._absolute(given, "cite")
        return given

    def _hurry(self, given: dict[str, str]) -> None:
        for name in _LAZY_BACKGROUNDS:
            address = given.get(name, "").strip()
            if address and " " not in address and "background" not in given.get("style", ""):
                address = re.sub(r"\Aurl\([\"']?|[\"']?\)\Z", "", address)
                given["style"] = 'background-image:url("{}");'.format(re.sub(r"[\"\\\n]", "", address)) + given.get("style", "")
                break
        if "class" in given and "laz" in given["class"]:
            given["class"] = " ".join(_LAZY_CLASSES.get(word, word) for word in given["class"].split())

    def _absolute(self, given: dict[str, str], name: str) -> None:
        place = urls.link(self._base, self._writer.document.url, given[name])
        if place is None:
            del given[name]
        else:
            given[name] = place

    def _unlazy(self, given: dict[str, str]) -> bool:
        """Puts the address that a script would have put into its place. True if there was one."""
        if self._writer.scripts:
            return False
        source = next((given[name] for name in _LAZY_SOURCES if given.get(name, "").strip()), None)
        sources = next((given[name] for name in _LAZY_SETS if given.get(name, "").strip()), None)
        if source is None and sources is None:
            return False
        now = given.get("src", "").strip()
        # One that shows something already may keep other data beside it.
        if now and not now.lower().startswith("data:") and not re.search(r"blank|placeholder|spacer|pixel|loading|lazy|transparent|1x1|grey", now):
            return False
        if source is not None:
            given["src"] = source
        if sources is not None:
            given["srcset"] = sources
        if given.get("sizes", "auto").strip().startswith("auto") or "data-sizes" in given:
            given["sizes"] = given.get("data-sizes", "").replace("auto", "").strip(", ") or "100vw"
        return True

    def _img(self, tag: Start) -> Start | None:
        given = tag.attributes
        lazy = self._unlazy(given)
        source, sources, sizes = given.pop("src", None), given.pop("srcset", ""), given.get("sizes", "")
        if self._picture and self._picture_chosen:
            given.pop("sizes", None)
            return tag
        found = choose.image(sources, sizes, source)
        if found is None or not found[0].strip():
            return tag
        address, descriptor = found
        if lazy:
            self._lazy.add(address)
        elif self.noscript and address in self._lazy:
            return None
        data = self._visit.image(self._base, address)
        if data is None:
            given["src"] = _NO_IMAGE
        elif descriptor and descriptor != "1x":
            # Its natural size depends on the descriptor.
            given["srcset"] = f"{data} {descriptor}"
        else:
            given.pop("sizes", None)
            given["src"] = data
            if data[0] == "\x00":
                given["src"], style = marks.in_element(data)
                given["style"] = style + given.get("style", "")
        return tag

    def _begin_picture(self, tag: Start) -> Start:
        self._picture, self._picture_chosen = True, False
        return tag

    def _source(self, tag: Start) -> Start | None:
        given = tag.attributes
        if self._media_chosen:
            if self._media_chosen[-1] or not given.get("src") or not choose.plays(given.get("type", "")):
                return None
            if not choose.media(given.get("media", "")):
                return None
            self._media_chosen[-1] = True
            data = self._load(given["src"], Kind.MEDIA)
            return Start("source", {"src": data, "type": given.get("type", "") or data[5:].partition(";")[0]}) if data else None
        if not self._picture or self._picture_chosen:
            return None
        self._unlazy(given)
        if not choose.shows_image(given.get("type", "")) or not choose.media(given.get("media", "")):
            return None
        found = choose.image(given.get("srcset", ""), given.get("sizes", ""), None)
        if found is None:
            return None
        self._picture_chosen = True
        data = self._visit.image(self._base, found[0]) or _NO_IMAGE
        kept = {key: value for key, value in given.items() if key in ("sizes", "width", "height")}
        return Start("source", kept | {"srcset": f"{data} {found[1]}".strip()})

    def _media(self, tag: Start) -> Start:
        given = tag.attributes
        self._unlazy(given)
        if "poster" in given:
            given["poster"] = self._visit.image(self._base, given["poster"]) or _NO_IMAGE
        given.pop("srcset", None)
        source = given.pop("src", None)
        self._media_chosen.append(source is not None)
        if source is not None and (data := self._load(source, Kind.MEDIA)):
            given["src"] = data
        return tag

    def _track(self, tag: Start) -> Start | None:
        data = self._load(tag.attributes.pop("src", ""), Kind.TRACK)
        if not data:
            return None
        tag.attributes["src"] = data
        return tag

    def _load(self, address: str, kind: Kind) -> str | None:
        wanted = self._visit.want(self._base, address, kind)
        return self._visit.data(wanted, kind) if wanted else None

    def _input(self, tag: Start) -> Start:
        given = tag.attributes
        if given.get("type", "").strip().lower() == "image" and "src" in given:
            given["src"] = self._visit.image(self._base, given["src"]) or _NO_IMAGE
        else:
            given.pop("src", None)
        return self._button(tag)

    def _button(self, tag: Start) -> Start:
        if "formaction" in tag.attributes:
            self._absolute(tag.attributes, "formaction")
        return tag

    def _form(self, tag: Start) -> Start:
        # Without an action a form goes to its own page.
        tag.attributes["action"] = tag.attributes.get("action") or self._writer.document.url
        self._absolute(tag.attributes, "action")
        return tag

    def _link(self, tag: Start) -> Start:
        for name in ("href", "xlink:href"):
            if name in tag.attributes:
                self._absolute(tag.attributes, name)
        return tag

    def _svg_image(self, tag: Start) -> Start:
        if not tag.foreign:
            tag.attributes.pop("href", None)
            # Browsers read an <image> outside svg as <img>.
            return self._img(Start("img", tag.attributes))
        tag.attributes.pop("src", None)
        for name in ("href", "xlink:href"):
            if name in tag.attributes and not tag.attributes[name].startswith("#"):
                tag.attributes[name] = self._visit.image(self._base, tag.attributes[name]) or _NO_IMAGE
        self._paint(tag)
        return tag

    def _use(self, tag: Start) -> Start:
        for name in ("href", "xlink:href"):
            value = tag.attributes.get(name, "").strip()
            if value and not value.startswith("#"):
                tag.attributes[name] = self._writer.sprites.place(value) if tag.foreign else "#"
        self._paint(tag)
        return tag

    def _nowhere(self, tag: Start) -> None:
        """Takes out addresses of elements that have no business with one, or that would set one later."""
        given = tag.attributes
        for name in ("href", "xlink:href", "src"):
            if name in given and not given[name].strip().startswith("#"):
                del given[name]
        if given.get("attributename", "").strip().lower() in ("href", "xlink:href"):
            for name in ("to", "from", "by", "values"):
                given.pop(name, None)

    def _paint(self, tag: Start) -> None:
        for name, value in tag.attributes.items():
            if "url(" in value.lower() and name != "style":
                tag.attributes[name] = self._writer.style(value)

    # Documents within documents.

    def _packed(self, address: str, kind: Kind) -> str | None:
        """A document to be put into this one; None if it is not there."""
        document, visit = self._writer.document, self._visit
        reference = urls.tidy(address)
        if document.depth >= FRAME_DEPTH:
            if reference and urls.scheme(reference) not in ("about", "javascript"):
                visit.troubles[reference] = f"a frame more than {FRAME_DEPTH} deep"
            return None
        wanted = visit.want(self._base, reference, kind)
        if wanted is None:
            return None
        if wanted.url in self._writer.trail:
            visit.troubles[wanted.url] = "a frame within itself"
            return None
        wanted.depth = document.depth + 1
        return visit.frame(wanted, document.depth + 1, self._writer.trail)

    def _iframe(self, tag: Start) -> Start:
        given = tag.attributes
        source = given.pop("src", None) or next((given[name] for name in _LAZY_SOURCES if given.get(name)), None)
        inner, document = self._srcdoc, self._writer.document
        if inner is not None and document.depth < FRAME_DEPTH:
            packed = self._visit.inner(document, inner).write(self._writer.trail)
        else:
            packed = self._packed(source, Kind.FRAME) if source else None
        given["sandbox"] = _FRAMES_ALLOW + (" allow-scripts" if self._writer.scripts else "")
        if packed is not None:
            given["srcdoc"] = packed
        return tag

    def _frame(self, tag: Start) -> Start:
        packed = self._packed(tag.attributes.pop("src", ""), Kind.FRAME)
        tag.attributes["src"] = mime.data_url("text/html;charset=utf-8", self._visit.filled(packed or ""))
        return tag

    def _object(self, tag: Start) -> Start | None:
        return self._embedded(tag, tag.attributes.pop("data", ""), "object")

    def _embed(self, tag: Start) -> Start | None:
        return self._embedded(tag, tag.attributes.pop("src", ""), "")

    def _embedded(self, tag: Start, address: str, skip: str) -> Start | None:
        """An object or embed: what it shows, as an image, a frame or a file to save. What stands in an object is for when that fails."""
        given = tag.attributes
        wanted = self._visit.want(self._base, address, Kind.OBJECT) if address.strip() else None
        if wanted is None:
            return tag
        if not wanted.ended:
            if skip:
                self._writer.skip(skip)
            return None
        found = wanted.resource
        if found is None or found.status >= 400:
            if found is not None:
                self._visit.troubles[wanted.url] = f"HTTP {found.status}"
            return tag
        if skip:
            self._writer.skip(skip)
        kept = {key: given[key] for key in ("id", "class", "style", "width", "height", "title", "name") if key in given}
        if kind := mime.of_image(found.header("Content-Type"), found.body):
            self._writer.put(start(Start("img", kept | {"src": mime.data_url(kind, found.body)})))
            return None
        if mime.of_document(found.header("Content-Type"), found.body).startswith(("video/", "audio/")):
            self._writer.put(start(Start("video", kept | {"controls": "", "src": self._visit.data(wanted, Kind.MEDIA) or ""})) + "</video>")
            return None
        packed = self._packed(address, Kind.OBJECT)
        if packed is not None:
            frame = Start("iframe", kept | {"sandbox": _FRAMES_ALLOW, "srcdoc": packed})
            self._writer.put(start(frame) + "</iframe>")
        return None

    def _applet(self, tag: Start) -> Start | None:
        self._writer.skip(tag.name)
        return None
