"""What a request says about its sender: the same for everybody, as close to Tor Browser as HTTP/1.1 over Python's TLS can be.

The TLS handshake and the lack of HTTP/2 still tell this program from a browser; a site can know that Bento visits it.
"""

import http.cookiejar
import urllib.request
from enum import Enum
from types import SimpleNamespace

import urls
from bounds import COOKIES

#: Tor Browser 15 says on every system that it is Firefox ESR 140 on Windows.
USER_AGENT = "Mozilla/5.0 (Windows NT 10.0; rv:140.0) Gecko/20100101 Firefox/140.0"


class Kind(Enum):
    """What a resource is wanted for: its Sec-Fetch-Dest, its Accept, and its place in the queue."""

    PAGE = ("document", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 0)
    STYLE = ("style", "text/css,*/*;q=0.1", 1)
    FONT = ("font", "application/font-woff2;q=1.0,application/font-woff;q=0.9,*/*;q=0.8", 2)
    FRAME = ("iframe", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 3)
    SCRIPT = ("script", "*/*", 3)
    IMAGE = ("image", "image/avif,image/webp,image/png,image/svg+xml,image/*;q=0.8,*/*;q=0.5", 4)
    OBJECT = ("object", "text/html,application/xhtml+xml,application/xml;q=0.9,*/*;q=0.8", 5)
    TRACK = ("track", "*/*", 6)
    MEDIA = ("video", "video/webm,video/ogg,video/*;q=0.9,application/ogg;q=0.7,audio/*;q=0.6,*/*;q=0.5", 7)

    @property
    def rank(self) -> int:
        """Lower is fetched sooner: what the page's look depends on first."""
        return self.value[2]


def request(url: str, kind: Kind, referrer: str | None, page: str, cookies: str | None) -> list[tuple[str, str]]:
    """The lines of a request's head after Host, in Firefox's order."""
    destination, accept, _ = kind.value
    navigation = kind in (Kind.PAGE, Kind.FRAME)
    cors = kind is Kind.FONT
    lines = [
        ("User-Agent", USER_AGENT),
        ("Accept", accept),
        ("Accept-Language", "en-US,en;q=0.5"),
        ("Accept-Encoding", "gzip, deflate, br"),
    ]
    if told := _referrer(referrer, url):
        lines.append(("Referer", told))
    if cors and referrer and urls.origin(referrer) != urls.origin(url):
        scheme, host = referrer.split("://", 1)
        lines.append(("Origin", f"{scheme}://{host.split('/', 1)[0]}"))
    lines.append(("Connection", "keep-alive"))
    if cookies:
        lines.append(("Cookie", cookies))
    if navigation:
        lines.append(("Upgrade-Insecure-Requests", "1"))
    lines += [
        ("Sec-Fetch-Dest", destination),
        ("Sec-Fetch-Mode", "navigate" if navigation else "cors" if cors else "no-cors"),
        ("Sec-Fetch-Site", "none" if kind is Kind.PAGE else _relation(page, url)),
    ]
    if kind is Kind.PAGE:
        lines.append(("Sec-Fetch-User", "?1"))
    return lines


def _referrer(referrer: str | None, url: str) -> str | None:
    """`strict-origin-when-cross-origin`, and nothing from an onion service to anywhere else, as Tor Browser has it."""
    if not referrer or (urls.scheme(referrer) == "https" and urls.scheme(url) == "http"):
        return None
    here, there = urls.origin(referrer), urls.origin(url)
    if here == there:
        return urls.split_fragment(referrer)[0]
    if here[1].endswith(".onion"):
        return None
    scheme, rest = referrer.split("://", 1)
    return f"{scheme}://{rest.split('/', 1)[0]}/"


def _relation(page: str, url: str) -> str:
    here, there = urls.origin(page), urls.origin(url)
    if here == there:
        return "same-origin"
    # Without the public suffix list the last two labels must do; a wrong guess only changes this one header.
    sites = [(scheme, ".".join(host.split(".")[-2:])) for scheme, host, _ in (here, there)]
    return "same-site" if sites[0] == sites[1] else "cross-site"


class Cookies:
    """The cookies of one visit. They end with it."""

    def __init__(self) -> None:
        policy = http.cookiejar.DefaultCookiePolicy(strict_ns_domain=http.cookiejar.DefaultCookiePolicy.DomainStrictNonDomain)
        self._jar = http.cookiejar.CookieJar(policy)

    def header(self, url: str) -> str | None:
        """The Cookie header for a request, if any."""
        request = urllib.request.Request(url)
        self._jar.add_cookie_header(request)
        return request.get_header("Cookie")

    def learn(self, url: str, headers) -> None:
        """Takes the cookies of a response, as long as there is room."""
        if headers.get("Set-Cookie") is None or len(self._jar) >= COOKIES:
            return
        self._jar.extract_cookies(SimpleNamespace(info=lambda: headers), urllib.request.Request(url))
