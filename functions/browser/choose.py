"""Which of several images a browser would show: `srcset`, `sizes` and media conditions, for one viewport and one density.

A packed page holds one image of each set. It is chosen for the viewport in `bounds`, in which most readers open it.
"""

import re

from bounds import CHOICE_CHARACTERS, CONDITION_CHARACTERS, VIEWPORT_HEIGHT, VIEWPORT_WIDTH

_CANDIDATE = re.compile(r"\S+")
_DESCRIPTORS = re.compile(r"(?:[^,(]|\([^)]*\)?)*")
_LENGTH = re.compile(r"([-+]?(?:\d+\.?\d*|\.\d+)(?:e[-+]?\d+)?)(px|vw|vh|em|rem|vmin|vmax|pt|pc|in|cm|mm)?\Z", re.I)
_UNITS = {
    "px": 1.0, "em": 16.0, "rem": 16.0, "vw": VIEWPORT_WIDTH / 100, "vh": VIEWPORT_HEIGHT / 100, "vmin": VIEWPORT_HEIGHT / 100,
    "vmax": VIEWPORT_WIDTH / 100, "pt": 96 / 72, "pc": 16.0, "in": 96.0, "cm": 96 / 2.54, "mm": 96 / 25.4,
}
_FEATURE = re.compile(r"\(\s*([-\w]+)\s*(?::\s*([^()]+?)\s*)?\)")
_RANGE = re.compile(r"\(\s*(?:([^()<>=]+?)\s*(<=?|>=?)\s*)?(width|height)\s*(?:(<=?|>=?|=)\s*([^()<>=]+?)\s*)?\)")
_KEYWORDS = {
    "orientation": "landscape", "prefers-color-scheme": "light", "hover": "hover", "pointer": "fine", "any-hover": "hover",
    "any-pointer": "fine", "display-mode": "browser", "prefers-reduced-motion": "no-preference", "scripting": "none",
}
_IMAGES = ("image/png", "image/jpeg", "image/jpg", "image/gif", "image/webp", "image/avif", "image/svg+xml", "image/bmp",
           "image/x-icon", "image/apng")
_MEDIA = re.compile(r"(video/(webm|mp4|ogg|x-m4v)|audio/(mpeg|mp3|ogg|wav|wave|x-wav|mp4|aac|flac|webm|x-m4a)|application/ogg)\s*(;|\Z)")


def image(srcset: str, sizes: str, src: str | None) -> tuple[str, str] | None:
    """The address to show and its descriptor (`2x`, `800w`, or empty); None if nothing is named."""
    candidates: list[tuple[float, str, str]] = []
    slot = None
    for url, descriptors in split(srcset):
        density, written = 1.0, ""
        for word in descriptors.split():
            try:
                number = float(word[:-1])
            except ValueError:
                continue
            if word[-1] == "w" and number > 0:
                slot = slot if slot is not None else slot_width(sizes)
                density, written = number / max(slot, 1.0), word
            elif word[-1] == "x" and number > 0:
                density, written = number, word
        candidates.append((density, url, written))
    if src and slot is None and all(density != 1.0 for density, _, _ in candidates):
        candidates.append((1.0, src, ""))
    if not candidates:
        return (src, "") if src else None
    enough = [candidate for candidate in candidates if candidate[0] >= 0.95]
    chosen = min(enough, key=lambda candidate: candidate[0]) if enough else max(candidates, key=lambda candidate: candidate[0])
    return chosen[1], chosen[2]


def split(srcset: str) -> list[tuple[str, str]]:
    """The candidates of a `srcset`: address and descriptors."""
    found: list[tuple[str, str]] = []
    srcset = srcset[:CHOICE_CHARACTERS]
    at = 0
    while match := _CANDIDATE.search(srcset, at):
        url, at = match.group().lstrip(","), match.end()
        descriptors = ""
        if url.endswith(","):
            url = url.rstrip(",")  # a comma right behind an address ends its candidate
        elif url:
            match = _DESCRIPTORS.match(srcset, at)
            descriptors, at = match.group(), match.end() + 1
        if url:
            found.append((url, descriptors))
    return found


def slot_width(sizes: str) -> float:
    """How wide an image is shown, in CSS pixels, by its `sizes`."""
    for part in re.split(r",(?![^()]*\))", sizes[:CONDITION_CHARACTERS]):
        part = part.strip()
        at = part.rfind(")") + 1 if not part.endswith(")") else 0
        condition, length = part[:at].strip(), part[at:].strip()
        if part.endswith(")"):
            # A length that is a function, such as calc(): not worked out. Its condition, if any, stands before it.
            begin = re.search(r"[-\w]+\((?:[^()]|\([^()]*\))*\)\Z", part)
            condition, length = (part[:begin.start()].strip(), begin.group()) if begin else (part, "")
        elif not condition and " " in length:
            condition, length = length.rsplit(" ", 1)
        if condition and not media(condition):
            continue
        if pixels := _pixels(length):
            return pixels
        if found := re.search(r"(\d+(?:\.\d+)?)(px|vw|em|rem)", length):
            return _pixels(found.group()) or VIEWPORT_WIDTH
    return float(VIEWPORT_WIDTH)


def _pixels(length: str) -> float | None:
    found = _LENGTH.match(length.strip())
    if not found or (found.group(2) is None and float(found.group(1)) != 0):
        return None
    return float(found.group(1)) * _UNITS[(found.group(2) or "px").lower()]


def media(query: str) -> bool:
    """True if a media query list matches the viewport. What is not understood does not match."""
    return not query.strip() or len(query) <= CONDITION_CHARACTERS and any(_one(part.strip().lower()) for part in re.split(r",(?![^()]*\))", query))


def _one(query: str) -> bool:
    turned = query.startswith("not ") or query.startswith("not(")
    query = re.sub(r"\A(?:not\b|only\b)\s*", "", query)
    kind = re.match(r"[-\w]+", query)
    held = True
    if kind:
        held = kind.group() in ("all", "screen")
        query = query[kind.end():]
    wanted = query.count("(")
    known = 0
    results = []
    for found in _FEATURE.finditer(query):
        known += 1
        results.append(_feature(found.group(1), found.group(2)))
    for found in _RANGE.finditer(query):
        if found.group(1) or found.group(5):
            known += 1
            results.append(_range(*found.groups()))
    if known != wanted:
        return turned and False
    joined = any(results) if re.search(r"\)\s*or\b", query) else all(results)
    return (held and joined) != turned


def _feature(name: str, value: str | None) -> bool:
    edge, _, axis = name.rpartition("-")
    if axis in ("width", "height") and edge in ("min", "max", "", "min-device", "max-device"):
        actual = VIEWPORT_WIDTH if axis == "width" else VIEWPORT_HEIGHT
        bound = _pixels(value or "")
        if bound is None:
            return value is None
        return actual >= bound if edge.startswith("min") else actual <= bound if edge.startswith("max") else actual == bound
    if name.endswith(("resolution", "device-pixel-ratio")):
        number = re.match(r"[\d.]+", value or "")
        density = float(number.group()) / (96 if (value or "").endswith("dpi") else 1) if number else 0.0
        return density <= 1 if "min" in name else density >= 1 if "max" in name else density == 1
    if name in _KEYWORDS:
        return value is None or value == _KEYWORDS[name]
    return name == "color"


def _range(left: str | None, first: str | None, axis: str, second: str | None, right: str | None) -> bool:
    actual = float(VIEWPORT_WIDTH if axis == "width" else VIEWPORT_HEIGHT)
    held = True
    for sign, length, swapped in ((first, left, True), (second, right, False)):
        if sign is None:
            continue
        bound = _pixels(length or "")
        if bound is None:
            return False
        low, high = (bound, actual) if swapped else (actual, bound)
        held = held and {"<": low < high, "<=": low <= high, ">": low > high, ">=": low >= high, "=": low == high}[sign]
    return held


def shows_image(kind: str) -> bool:
    """True for an image type that browsers show."""
    return not kind or kind.partition(";")[0].strip().lower() in _IMAGES


def plays(kind: str) -> bool:
    """True for a type of film or sound that browsers play."""
    return not kind or bool(_MEDIA.match(kind.strip().lower()))
