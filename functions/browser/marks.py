"""Images stand as marks in what is written, and only the finished page gets their bytes: so one large text is made, and once.

A mark is a letter and a number between zero characters, which no document has left by then: `a` an address, `i` the address of an
`img` (with `s` before its style), `c` an image in a style sheet, `d` the same where no variable reaches.
"""

import re
from collections.abc import Callable

#: Where the variables of a page are declared.
HEAD = "\x00head\x00"

_MARK = re.compile(rb"\x00([acdis])(\d+)\x00")
_STYLE = re.compile(' style="\x00s(\\d+)\x00"')
# An image that style sheets use twice becomes a variable from this size on; one that elements show twice, from this saving on.
_VARIABLE_BYTES = 200
_SAVING_BYTES = 16 * 1024
_EMPTY_IMAGE = b"data:image/gif;base64,R0lGODlhAQABAAAAACH5BAEKAAEALAAAAAABAAEAAAICTAEAOw=="


def image(number: int) -> str:
    """The mark for the address of an image."""
    return f"\x00a{number}\x00"


def in_sheet(mark: str) -> str:
    """The same image in a style sheet."""
    return mark.replace("\x00a", "\x00c")


def in_element(mark: str) -> tuple[str, str]:
    """The same image as the address and the style of an `img`."""
    return mark.replace("\x00a", "\x00i"), mark.replace("\x00a", "\x00s")


def framed(document: str) -> str:
    """A document that becomes part of another one, where the variables of the outer one do not reach."""
    if "\x00" not in document:
        return document
    document = re.sub("\x00s\\d+\x00", "", _STYLE.sub("", document)).replace(HEAD, "")
    return document.replace("\x00c", "\x00d").replace("\x00i", "\x00a")


def filled(document: str, addresses: list[str], spend: Callable[[int], None], variables: bool = True) -> bytes:
    """The document with its images; those it shows often stand there once. `spend` is told its length before it is made."""
    page = document.encode("utf-8", "replace")
    counts: dict[tuple[bytes, int], int] = {}
    for kind, number in _MARK.findall(page):
        counts[kind, int(number)] = counts.get((kind, int(number)), 0) + 1
    declared = set()
    for (kind, number), count in counts.items():
        size = len(addresses[number])
        if kind == b"c" and count > 1 and size > _VARIABLE_BYTES:
            declared.add(number)
        elif kind == b"i" and variables and (count - 1) * size > _SAVING_BYTES:
            declared.add(number)
    spend(
        len(page)
        + sum(len(addresses[number]) for number in declared)
        + sum(len(addresses[n]) * count for (kind, n), count in counts.items() if kind in b"ad" or kind in b"ic" and n not in declared)
    )

    def fill(found: re.Match) -> bytes:
        kind, number = found[1], int(found[2])
        if kind in b"ad" or kind in b"ic" and number not in declared:
            address = addresses[number].encode()
            return address if kind in b"ai" else b"url(" + address + b")"
        if kind == b"i":
            return _EMPTY_IMAGE
        reference = b"var(--bento-%d)" % number
        if kind == b"c":
            return reference
        return b"content:" + reference + b";" if number in declared and (b"i", number) in counts else b""

    lines = b"".join(b"--bento-%d:url(%s);" % (number, addresses[number].encode()) for number in sorted(declared))
    style = b"<style>:root{" + lines + b"}</style>" if lines else b""
    before, _, after = page.partition(HEAD.encode())
    plain = re.compile(_STYLE.pattern.encode())
    after = plain.sub(lambda found: found[0] if int(found[1]) in declared else b"", after)
    return _MARK.sub(fill, before) + style + _MARK.sub(fill, after)
