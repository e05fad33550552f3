"""Style sheets: what is replaced, what stays, and that nothing else changes (tinycss2 reads both)."""

import random
import time

import pytest
import tinycss2

import css
import urls


class Env:
    """Answers with names instead of data."""

    def __init__(self, sheets: dict[str, str] | None = None) -> None:
        self.sheets = sheets or {}
        self.asked: list[str] = []

    def image(self, base: str, reference: str) -> str:
        if reference.startswith("#"):
            return css.string(reference, "url")
        self.asked.append(urls.resolve(base, reference))
        return f"url(I:{urls.resolve(base, reference).rsplit('/', 1)[-1]})"

    def font(self, base: str, reference: str) -> str | None:
        self.asked.append(urls.resolve(base, reference))
        return None if "bad" in reference else f"url(F:{reference})"

    def imported(self, base: str, reference: str, trail: tuple[str, ...]) -> str | None:
        url = urls.resolve(base, reference)
        self.asked.append(url)
        if url in trail or url not in self.sheets:
            return None
        return css.pack(self.sheets[url], url, self, (*trail, url))

    def shows(self, ranges: str) -> bool:
        return "370" not in ranges


def packed(source: str, **sheets: str) -> str:
    return css.pack(source, "http://x.test/s/", Env({f"http://x.test/s/{name}.css": text for name, text in sheets.items()}))


@pytest.mark.parametrize("source, expected", [
    ("a{b:url(x.png)}", "a{b:url(I:x.png)}"),
    ("a{b:url( 'x.png' )}", "a{b:url(I:x.png)}"),
    ('a{b:URL("x y.png")}', "a{b:url(I:x%20y.png)}"),
    (r"a{b:\75 rl(x.png)}", "a{b:url(I:x.png)}"),
    (r"a{b:url(x\.p\6e g)}", "a{b:url(I:x.png)}"),
    ("a{b:url(#x)}", 'a{b:url("#x")}'),
    ("a{b:url(x y)}", "a{b:url()}"),
    ("a{b:image-set('x.png' 1x, url(y.png) 2x)}", "a{b:image-set(url(I:x.png) 1x, url(I:y.png) 2x)}"),
    ("a{b:-webkit-image-set(url(x.png) 1x)}", "a{b:-webkit-image-set(url(I:x.png) 1x)}"),
    ("a{content:'url(x.png)'}", 'a{content:"url(x.png)"}'),
    ("a{/* url(x.png) */b:c}", "a{b:c}"),
    ("a{margin:0/**/1px}", "a{margin:0/**/1px}"),
    ("<!-- a{b:c} -->", " a{b:c} "),
    ("@charset 'x';a{}", "a{}"),
    ("@namespace svg url(http://www.w3.org/2000/svg);", '@namespace svg url("http://www.w3.org/2000/svg");'),
    ("@media (width<600px){a{b:c}}", "@media (width< 600px){a{b:c}}"),
    ("@media (width<=600px){a{b:c}}", "@media (width<=600px){a{b:c}}"),
    ("a{b:c", "a{b:c}"),
    ("@media x{a{b:(c", "@media x{a{b:(c)}}"),
    ("a{b:(c}d{e:f}", "a{b:(c)}d{e:f}"),
    ("}a{b:c}", "\\}a{b:c}"),
    ("a{content:'</style><b>'}", 'a{content:"\\3c /style>\\3c b>"}'),
    (r"a{content:'\a \26 \"'}", 'a{content:"\\a \\26 \\22 "}'),
    ("a{--x:url(x.png);c:var(--x)}", "a{--x:url(I:x.png);c:var(--x)}"),
    ("a{b:url()}", "a{b:url(I:)}"),
])
def test_what_becomes_of(source, expected):
    assert packed(source) == expected


@pytest.mark.parametrize("source, expected", [
    ("@import 'i.css';a{}", "I{}\na{}"),
    ("@import url(i.css) screen and (min-width:1px);", "@media screen and (min-width:1px){I{}}\n"),
    ('@import url("i.css") layer;', "@layer{I{}}\n"),
    ("@import url(i.css) layer(a.b) supports(display: grid) print;", "@layer a.b{@supports (display: grid){@media print{I{}}}}\n"),
    ("@import 'gone.css' layer(x);", "@layer x{}\n"),
    ("a{}@import 'i.css';", "a{}"),
    ("@layer q;@import 'i.css';", "@layer q;I{}\n"),
    ("@layer q{}@import 'i.css';", "@layer q{}"),
    ("@import 'loop.css';", "L{}\n"),
    ("@import 'open.css';b{}", "O{@media x{}}\nb{}"),
    ("@import", ""),
    ("@import 'i.css'", "I{}\n"),
])
def test_imports_are_put_in_place(source, expected):
    found = packed(source, i="I{}", loop="@import 'loop.css';L{}", open="O{@media x{")
    assert found.strip() == expected.strip()


def test_an_import_that_imports_itself_ends():
    assert packed("@import 'a.css';", a="@import 'b.css';A{}", b="@import 'a.css';B{}").split() == ["B{}", "A{}"]


@pytest.mark.parametrize("source, expected", [
    ("@font-face{font-family:x;src:url(a.eot);src:url(a.eot?#iefix) format('embedded-opentype'),url(a.woff2) format('woff2'),url(a.ttf)}",
     '@font-face{font-family:x;src:url(F:a.woff2) format("woff2")}'),
    ("@font-face { src: local('X'), url(a.ttf); font-family: x }", '@font-face{font-family: x ;src:local("X"),url(F:a.ttf)}'),
    ("@font-face{src:url(a.svg#x),url(b.woff) format(woff)}", '@font-face{src:url(F:b.woff) format("woff")}'),
    ("@font-face{src:url(bad.woff2),url(b.woff)}", "@font-face{src:url(F:b.woff)}"),
    ("@font-face{font-family:g;src:url(a.woff2);unicode-range:U+370-3FF}a{}", "a{}"),
    ("@font-face{font-family:g;src:url(bad.woff2)}a{}", "a{}"),
    ("@media x{@font-face{src:url(a.woff2)", "@media x{@font-face{src:url(F:a.woff2)}}"),
])
def test_of_several_fonts_the_first_that_can_be_used(source, expected):
    assert packed(source) == expected


def test_style_attributes_need_no_block():
    env = Env()
    assert css.pack_style("background:url(a.png);color:red", "http://x.test/", env) == "background:url(I:a.png);color:red"
    assert css.pack_style("a}b{", "http://x.test/", env) == "a\\}b{}"


PIECES = ["a", "b-c", "{", "}", "(", ")", "[", "]", ";", ":", ",", " ", "\n", "'s'", '"t"', "'", "#f00", "@media", "@x", "1.5em", "-1", "/*c*/", "url(u)",
          "\\41 ", "+", ">", "~", "*", "!important", "calc(", "é", ".k", "%", "|", "=", "^=", "$", "&", "--v", "U+26", "1e3", "<"]


def meaning(nodes) -> list:
    """What tinycss2 reads, without white space and comments."""
    out = []
    for node in nodes:
        if node.type in ("whitespace", "comment"):
            continue
        inner = getattr(node, "content", None) if node.type.endswith("block") else getattr(node, "arguments", None)
        out.append((node.type, meaning(inner) if inner is not None else getattr(node, "value", node.serialize())))
    return out


def test_what_is_not_replaced_means_the_same():
    rng = random.Random(5)
    compared = 0
    for _ in range(6000):
        source = "".join(rng.choice(PIECES) for _ in range(rng.randint(1, 14)))
        before = tinycss2.parse_component_value_list(source)
        kinds = str(meaning(before))
        if "error" in kinds or "url" in kinds or "<" in source:
            continue
        assert meaning(tinycss2.parse_component_value_list(packed(source))) == meaning(before), source
        compared += 1
    assert compared > 1000


def test_no_sheet_ends_its_element():
    rng = random.Random(6)
    pieces = [*PIECES, "</style>", "\\</style>", "<!--", "'</style>'", "url(</style>)", "@import '</style>';", "url('</style>')", "\\3c/style>", "<\\/style>"]
    for _ in range(5000):
        found = packed("".join(rng.choice(pieces) for _ in range(rng.randint(1, 9))))
        assert "</" not in found and "<!" not in found and "<s" not in found


def test_hostile_sheets_take_no_more_than_their_length():
    for piece in ("url(", "@import ", "@import 'x' layer(", "a{", "(", "'", "\\", "/*", "@font-face{src:", "image-set(", "}", "@layer a;", "@layer ", "url(x y", "(}", "{(", "[}", "@font-face{unicode-range:", "/**/ "):
        begin = time.process_time()
        packed(piece * 20_000)
        packed(piece * 20_000 + "}" * 20_000)
        assert time.process_time() - begin < 4, piece
