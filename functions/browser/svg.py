"""Pieces of other SVG files that a document uses (`<use href="icons.svg#home">`), put into the document itself.

Browsers load no other file for `use` from a data: address. So the pieces stand hidden at the document's end, their names prefixed
with the file's number, and with them the pieces they refer to in turn.
"""

import re
from typing import TYPE_CHECKING

import charset
import urls
from headers import Kind
from tokens import End, Start, Text, Token, end, start, text, tokens

if TYPE_CHECKING:
    from document import Writer

_REFERENCES = re.compile(r"(url\(\s*['\"]?#)([^)'\"]+)")
_LEFT_OUT = frozenset({"script", "style", "foreignobject", "image", "feimage", "a", "animate", "set", "iframe", "object", "embed"})


class Sprites:
    """The pieces of one writing of a document."""

    def __init__(self, writer: "Writer") -> None:
        self._writer = writer
        self._files: dict[str, tuple[int, dict[str, list[Token]]]] = {}
        self._wanted: list[tuple[str, str]] = []

    def place(self, address: str) -> str:
        """Where in the document the piece of this address will be; nowhere if it cannot be had."""
        visit = self._writer.visit
        wanted = visit.want(self._writer.base, address, Kind.IMAGE)
        name = urls.split_fragment(address)[1][1:]
        if wanted is None or not wanted.ended or visit.data(wanted, Kind.IMAGE) is None or wanted.resource is None:
            return "#"
        if wanted.url not in self._files:
            source = charset.document(wanted.resource.body, wanted.resource.header("Content-Type"), xml=True)[0]
            self._files[wanted.url] = (len(self._files), _pieces(source))
        number, pieces = self._files[wanted.url]
        if not name:
            name = next(iter(pieces), "")
        if name not in pieces:
            visit.troubles[f"{wanted.url}#{name}"] = "the file has no such piece"
            return "#"
        if (wanted.url, name) not in self._wanted:
            self._wanted.append((wanted.url, name))
        return f"#bento-{number}-{name}"

    def written(self) -> str:
        """The hidden pieces."""
        out: list[str] = []
        done: set[tuple[str, str]] = set()
        while self._wanted:
            url, name = self._wanted.pop()
            number, pieces = self._files[url]
            if (url, name) in done or name not in pieces:
                continue
            done.add((url, name))
            for token in pieces[name]:
                if isinstance(token, Text):
                    out.append(text(token.text))
                elif isinstance(token, End):
                    out.append(end(token.name))
                elif isinstance(token, Start):
                    tag, referred = _prefixed(token, f"bento-{number}-")
                    self._wanted += [(url, other) for other in referred]
                    out.append(start(tag))
        return f'<svg aria-hidden="true" style="position:absolute;width:0;height:0">{"".join(out)}</svg>' if out else ""


def _prefixed(token: Start, prefix: str) -> tuple[Start, list[str]]:
    """A tag with all names prefixed, and the names it refers to."""
    referred: list[str] = []

    def reference(found: re.Match) -> str:
        referred.append(found[2])
        return found[1] + prefix + found[2]

    given: dict[str, str] = {}
    for name, value in token.attributes.items():
        if name.startswith("on") or name == "src":
            continue
        if name == "id":
            value = prefix + value
        elif name in ("href", "xlink:href"):
            if not value.startswith("#"):
                continue
            referred.append(value[1:])
            value = f"#{prefix}{value[1:]}"
        elif "url(" in value.lower():
            value = _REFERENCES.sub(reference, value)
            if re.search(r"url\(\s*['\"]?[^#'\"\s]", value, re.I):
                continue
        given[name] = value
    return Start(token.name, given, token.closed, True), referred


def _pieces(source: str) -> dict[str, list[Token]]:
    """The elements of a file that have a name, the whole file first."""
    found: dict[str, list[Token]] = {}
    # The pieces that are open, each with how many elements are open in it, itself included.
    unended: list[list] = []
    left_out = 0
    for token in tokens(source, xml=True):
        if isinstance(token, Start):
            if left_out or token.name in _LEFT_OUT:
                left_out += not token.closed
                continue
            token.foreign = True
            name = token.attributes.get("id") or ("" if found else "bento-root")
            if name and name not in found and len(unended) < 50:
                found[name] = []
                if token.closed:
                    found[name].append(token)
                else:
                    unended.append([found[name], 0])
            for piece in unended:
                piece[0].append(token)
                piece[1] += not token.closed
        elif isinstance(token, End):
            if left_out:
                left_out -= 1
                continue
            for piece in unended:
                piece[0].append(token)
                piece[1] -= 1
            unended = [piece for piece in unended if piece[1] > 0]
        elif isinstance(token, Text) and not left_out:
            for piece in unended:
                piece[0].append(token)
    return found
