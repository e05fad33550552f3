"""Addresses: resolved as a browser would, and let through only with a scheme that is known to be harmless.

Follows the WHATWG URL standard where `urllib.parse` differs and pages notice: white space, backslashes, names outside ASCII.
"""

import re
from urllib.parse import quote, urljoin, urlsplit, urlunsplit

from bounds import URL_CHARACTERS

#: Schemes a link of a packed page may have. None of them is followed without a click.
LINKS = frozenset({"http", "https", "mailto", "tel", "sms", "xmpp", "magnet", "news", "ftp", "irc", "geo"})

_SCHEME = re.compile(r"([a-zA-Z][a-zA-Z0-9+.-]*):")
_CONTROLS = "".join(map(chr, range(0x21)))
_DELETED = {ord(character): None for character in "\t\r\n"}
_PORTS = {"http": 80, "https": 443}
# What a browser leaves as it is in a path or query; a percent sign is never encoded again.
_SAFE = "%/:?#[]@!$&'()*+,;=~|^`{}\\"


class BadUrl(ValueError):
    """An address that cannot be fetched; the text says why."""


def tidy(text: str) -> str:
    """What the URL standard does before it parses."""
    return text.strip(_CONTROLS).translate(_DELETED)


def scheme(url: str) -> str:
    """The scheme in lower case, or an empty string."""
    found = _SCHEME.match(url)
    return found.group(1).lower() if found else ""


def resolve(base: str, reference: str) -> str:
    """`reference` as an absolute address. Raises `BadUrl`."""
    reference = tidy(reference)
    found = scheme(reference)
    if found not in ("", "http", "https"):
        return reference
    # In a web address a backslash is a slash, but not in its query or fragment.
    if "\\" in reference:
        end = min((at for at in map(reference.find, "?#") if at >= 0), default=len(reference))
        reference = reference[:end].replace("\\", "/") + reference[end:]
    before, rest = (reference[:len(found) + 1], reference[len(found) + 1:]) if found else ("", reference)
    if rest.startswith("//") or found and found != scheme(base):
        # However many slashes stand there, a host follows.
        rest = "//" + rest.lstrip("/")
        if len(rest) == 2:
            raise BadUrl("not an address: it names no host")
    elif found:
        before = ""  # "http:path" is relative to a base of the same scheme
    try:
        joined = urljoin(base, before + rest)
    except ValueError as error:
        raise BadUrl(f"not an address: {error}") from None
    return normal(joined)


def normal(url: str) -> str:
    """A web address with its host in lower-case A-labels, no user name, no default port, everything encoded."""
    try:
        parts = urlsplit(url)
        host, port = parts.hostname or "", parts.port
    except ValueError as error:
        raise BadUrl(f"not an address: {error}") from None
    if parts.scheme not in _PORTS:
        return url
    if not host:
        raise BadUrl("not an address: it names no host")
    host = f"[{host}]" if ":" in host else a_labels(host)
    place = host if port in (None, _PORTS[parts.scheme]) else f"{host}:{port}"
    path = quote(parts.path or "/", _SAFE)
    if "/." in path or "/%2" in path:
        path = _without_dots(path)
    url = urlunsplit((parts.scheme, place, path, quote(parts.query, _SAFE), quote(parts.fragment, _SAFE)))
    if len(url) > URL_CHARACTERS:
        raise BadUrl(f"the address is longer than {URL_CHARACTERS} characters")
    return url


def a_labels(host: str) -> str:
    """A host name as DNS knows it."""
    host = host.lower()
    if host.isascii():
        if not re.fullmatch(r"[a-z0-9._-]{1,253}", host):
            raise BadUrl("not a host name")
        return host
    import idna

    try:
        return idna.encode(host, uts46=True).decode("ascii")
    except idna.IDNAError as error:
        raise BadUrl(f"not a host name: {error}") from None


def _without_dots(path: str) -> str:
    kept: list[str] = []
    segments = path.split("/")
    for at, segment in enumerate(segments):
        plain = segment.lower().replace("%2e", ".")
        if plain == "..":
            if len(kept) > 1:
                kept.pop()
        elif plain != ".":
            kept.append(segment)
            continue
        if at == len(segments) - 1:
            kept.append("")
    return "/".join(kept)


def origin(url: str) -> tuple[str, str, int]:
    """Scheme, host (an IPv6 address without brackets) and port of a web address."""
    parts = urlsplit(url)
    return parts.scheme, parts.hostname or "", parts.port or _PORTS[parts.scheme]


def split_fragment(url: str) -> tuple[str, str]:
    """The address without its fragment, and the fragment with its number sign."""
    at = url.find("#")
    return (url, "") if at < 0 else (url[:at], url[at:])


def target(url: str) -> tuple[str, str]:
    """What a request line and a Host header say."""
    parts = urlsplit(url)
    return (parts.path or "/") + (f"?{parts.query}" if parts.query else ""), parts.netloc.rpartition("@")[2]


def link(base: str, page: str, reference: str) -> str | None:
    """Where a link of a packed page leads: absolute, or only a fragment on the page itself; None if nowhere harmless."""
    reference = tidy(reference)
    if reference.startswith("#") and split_fragment(base)[0] == split_fragment(page)[0]:
        return reference
    found = scheme(reference)
    if found and found not in LINKS:
        return None
    try:
        url = resolve(base, reference)
    except BadUrl:
        return None
    before, fragment = split_fragment(url)
    if fragment and before == split_fragment(page)[0]:
        return fragment
    return url if scheme(url) in LINKS else None
