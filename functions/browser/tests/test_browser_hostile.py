"""Pages that try to smuggle something that loads, runs or reports past the rewriting. html5lib reads what is written."""

import random

import html5lib
import pytest
from bento.testing import FakeApi

from bounds import Bounds
from document import Document
from fetch import Fetcher
from visit import Visit

PIECES = [
    "<link rel=preconnect href=http://evil.test>", "<meta http-equiv=refresh content='0;url=http://evil.test/'>", "<base href=http://evil.test/>",
    "<img src=http://evil.test/x onerror=x()>", "<script>x()</script>", "<a href='javascript:x()' ping=http://evil.test>", "<svg>", "</svg>", "<math>",
    "</math>", "<mtext>", "<annotation-xml encoding=text/html>", "<foreignObject>", "<desc>", "<title>", "</title>", "<style>", "</style>", "<xmp>",
    "</xmp>", "<noscript>", "</noscript>", "<textarea>", "</textarea>", "<select>", "</select>", "<option>", "<table>", "<td>", "</table>", "<p>",
    "</p>", "</br>", "<template>", "</template>", "<iframe src=http://evil.test>", "</iframe>", "<iframe srcdoc='<link rel=prefetch href=//evil.test>'>",
    "<!--", "-->", "<![CDATA[", "]]>", "<plaintext>", "<listing>", "</listing>", "<frameset>", "<noembed>", "</noembed>", "<noframes>", "</noframes>",
    "<form action=javascript:x()>", "<button formaction=javascript:x()>", "<object data=http://evil.test>", "<embed src=http://evil.test>",
    "<use href=http://evil.test/#x>", "<image href=http://evil.test/>", "<animate attributeName=href to=javascript:x() values=http://evil.test>",
    "<set attributename=xlink:href to='http://evil.test'>", "&lt;link rel=preconnect href=http://evil.test&gt;", "<x\x00y>", "\x00a0\x00", "&#0;a0&#0;",
    "<div style='background:url(http://evil.test)'>", "<style>a{b:url(http://evil.test)}@import 'http://evil.test';\\</style><link rel=prefetch href=//evil.test>",
    "<style>a{content:'</style><link rel=prefetch href=//evil.test>'}</style>", "<p \"><link rel=preconnect href=//evil.test>\">", "<body background=http://evil.test>",
    "<video poster=http://evil.test src=//evil.test>", "<input type=image src=http://evil.test>", "<html manifest=http://evil.test>", "<portal src=//evil.test>",
    "<style media='\"><link rel=preconnect href=//evil.test>'>", "<script type=speculationrules>{}</script>", "<svg/onload=x()>", "<head profile=//evil.test>",
    "<link rel=stylesheet href=data:text/css,a%7Bb:url(http://evil.test)%7D>", "<meta charset=utf-7>", "<mglyph>", "<malignmark>", "<math href=javascript:x()>",
]
LOADING = {"src", "srcset", "href", "xlink:href", "data", "poster", "background", "action", "formaction", "ping", "manifest", "content"}
CLICKED = {("a", "href"), ("a", "xlink:href"), ("area", "href"), ("form", "action"), ("button", "formaction"), ("input", "formaction")}


def written(source: str, xml: bool = False) -> str:
    visit = Visit(Fetcher(FakeApi(allow=[]), Bounds(), "http://x.test/"), Bounds(), False)
    document = Document(visit, source, "http://x.test/", "utf-8", 0, xml)
    document.write()
    return visit.filled(document.write()).decode()


def check(source: str, packed: str, depth: int = 0) -> None:
    tree = html5lib.parse(packed, namespaceHTMLElements=False)
    for element in tree.iter():
        if not isinstance(element.tag, str):
            continue
        name = element.tag.rpartition("}")[2].lower()
        given = {key.rpartition("}")[2].lower(): value for key, value in element.attrib.items()}
        assert name not in ("script", "base", "object", "embed", "portal", "applet", "xmp", "plaintext"), (source, packed)
        if name == "link":
            assert given.get("rel") == "icon" and given["href"].startswith("data:"), (source, packed)
        if name == "meta":
            assert given.get("http-equiv", "").lower() in ("", "content-security-policy", "x-dns-prefetch-control"), (source, packed)
        if name == "style":
            assert "evil" not in (element.text or "").replace("//evil", "") or "url(http" not in (element.text or ""), (source, packed)
        for key, value in given.items():
            assert not key.startswith("on"), (source, packed)
            if key in LOADING and (name, key) not in CLICKED and name != "meta":
                assert not value or value.startswith(("data:", "#")), (source, packed, name, key)
            if (name, key) in CLICKED:
                assert not value or value.startswith(("http://x.test", "http://evil.test", "#")), (source, packed)
            if key == "style":
                assert "url(http" not in value and "url(\"http" not in value, (source, packed)
            if key == "srcdoc" and depth < 3:
                check(source, value, depth + 1)


@pytest.mark.parametrize("seed", range(4))
def test_nothing_that_loads_runs_or_reports_comes_through(seed: int):
    rng = random.Random(seed)
    for number in range(1500):
        source = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 9)))
        check(source, written(source, xml=number % 5 == 0))


def test_the_policy_stands_before_everything():
    for source in ("", "text", "<html lang=de><img>", "<!DOCTYPE html><!-- c --><body onload=x()>", "<frameset><frame src=x>", "</p><head>"):
        packed = written(source)
        head = packed.index('<head><meta http-equiv="Content-Security-Policy"')
        assert packed[:head].replace('<html lang="de">', "").replace("<!DOCTYPE html>", "") == ""


def test_a_zero_character_makes_no_mark():
    assert "\ufffd" in written("<p>\x00a0\x00</p>") and "\x00" not in written("<p title='&#0;c0&#0;'><style>a{b:'\\0 c0'}\x00c1\x00</style>")
