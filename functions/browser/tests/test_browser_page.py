"""What a page may refer to, each kind once."""

import base64

import pytest

PNG = b"\x89PNG\r\n\x1a\nred"
GREEN = b"\x89PNG\r\n\x1a\ngreen"
DATA = "data:image/png;base64,iVBORw0KGgpyZWQ="
FONT = b"wOF2" + bytes(20)


@pytest.fixture(autouse=True)
def files(web):
    web.files |= {"http://x.test/a.png": PNG, "http://x.test/b.png": GREEN, "http://y.test/c.png": PNG, "http://x.test/f.woff2": FONT}


def page(web, body: str, **arguments):
    web.files["http://x.test/"] = body
    return web.visit(**arguments)


def asked(web) -> list[str]:
    return [url for url in web.asked if not url.endswith("/favicon.ico") and url != "http://x.test/"]


@pytest.mark.parametrize("markup, expected", [
    ("<img src=a.png>", f'<img src="{DATA}">'),
    ("<IMG SRC='a.png' onerror=x() loading=lazy>", f'<img src="{DATA}">'),
    ("<img src=//y.test/c.png>", f'<img src="{DATA}">'),
    ("<img srcset='b.png 300w, a.png 1400w' sizes=100vw src=b.png>", f'<img sizes="100vw" srcset="{DATA} 1400w">'),
    ("<img src=a.png srcset='b.png 2x'>", f'<img src="{DATA}">'),
    ("<picture><source type=image/jp2 srcset=b.png><source media=print srcset=b.png><source srcset=a.png><img src=b.png></picture>",
     f'<picture><source srcset="{DATA}"><img></picture>'),
    ("<input type=image src=a.png>", f'<input type="image" src="{DATA}">'),
    ("<video poster=a.png></video>", f'<video poster="{DATA}"></video>'),
    ("<svg><image href=a.png /><image xlink:href=a.png></svg>", f'<svg><image href="{DATA}" /><image xlink:href="{DATA}"></svg>'),
    ("<p style='background:url(a.png)'>", f'<p style="background:url({DATA})">'),
    ("<svg><path fill='url(#g)' mask='url(a.png)'></svg>", f'<svg><path fill="url(&quot;#g&quot;)" mask="url({DATA})"></svg>'),
    ("<body background=a.png>", f'<body background="{DATA}">'),
    ("<img src=data:image/png;base64,AAAA>", '<img src="data:image/png;base64,AAAA">'),
    ("<a href=b#c>", '<a href="http://x.test/b#c">'),
    ("<a href='#c' ping=/p>", '<a href="#c">'),
    ("<a href=javascript:x() onclick=x()>", "<a>"),
    ("<form action=/s><button formaction=t>", '<form action="http://x.test/s"><button formaction="http://x.test/t">'),
    ("<form>", '<form action="http://x.test/">'),
    ("<noscript>shown</noscript><script>x</script>y", "showny"),
    ("<img data-src=a.png class='lazyload x'>", f'class="lazyloaded x" src="{DATA}">'),
    ("<img src=blank.gif data-src=a.png><noscript><img src=a.png></noscript>|", f'<img data-src="a.png" src="{DATA}">|'),
    ("<div data-bg=a.png>", f'<div data-bg="a.png" style="background-image:url({DATA});">'),
    ("<xmp><b></xmp><plaintext><i>", "<pre>&lt;b&gt;</pre><pre>&lt;i&gt;"),
    ("<blockquote cite=/q>", '<blockquote cite="http://x.test/q">'),
    ("<iframe src=about:blank></iframe>", "downloads\"></iframe>"),
    ("<title>a<b></title>", "<title>a&lt;b&gt;</title>"),
])
def test_what_becomes_of(web, markup, expected):
    found = page(web, markup)
    assert expected in found.html
    assert not found.header["missing"]


@pytest.mark.parametrize("markup", [
    "<link rel=preload as=image href=a.png>", "<link rel=prefetch href=a.png>", "<link rel=preconnect href=//y.test>", "<link rel=dns-prefetch href=//y.test>",
    "<link rel=modulepreload href=a.js>", "<link rel=manifest href=m>", "<link rel='alternate stylesheet' href=a.css>", "<link rel=stylesheet disabled href=a.css>",
    "<script src=a.js></script>", "<html manifest=m>", "<bgsound src=a.wav>", "<meta http-equiv=refresh content='9;url=/b'>", "<applet code=x><img src=a.png></applet>",
    "<style type=text/x>a{b:url(a.png)}</style>", "<meta http-equiv=Set-Cookie content=a=b>", "<svg><script href=a.js></script></svg>",
])
def test_what_is_left_out(web, markup):
    found = page(web, markup + "<p>end")
    assert asked(web) == [] and "<p>end" in found.html
    assert not any(word in found.html for word in ("a.png", "y.test", "a.js", "a.css", "manifest", "refresh", "Set-Cookie"))


def test_style_sheets_with_all_they_import(web):
    web.files |= {
        "http://x.test/css/a.css": "@import 'sub/b.css' screen;p{background:url(../a.png)}",
        "http://x.test/css/sub/b.css": "@import '../a.css';i{background:url(../../b.png)}@font-face{font-family:f;src:url(/f.woff2)}",
    }
    found = page(web, "<link rel=stylesheet media=screen title=t href=css/a.css><p><i>")
    assert '<style media="screen" title="t">@media screen{' in found.html and f"p{{background:url({DATA})}}" in found.html
    assert '@font-face{font-family:f;src:url("data:font/woff2;base64,' in found.html and "i{background:url(data:image/png;" in found.html
    assert found.header["fetched"] == 7 and len(web.asked) == len(set(web.asked))
    assert "Sec-Fetch-Dest: style" in web.heads["http://x.test/css/a.css"] and "Referer: http://x.test/css/sub/b.css" in web.heads["http://x.test/f.woff2"]


def test_what_is_shown_often_stands_there_once(web):
    large = b"\x89PNG\r\n\x1a\n" + bytes(30_000)
    web.files["http://x.test/l.png"] = large
    found = page(web, "<style>a{b:url(l.png)}c{d:url(l.png)}</style><p style='e:url(l.png)'>" + "<img src=l.png style=x:y>" * 5)
    assert found.html.count("AAAAAAAAAAAAAAAA" * 100) < 26 and found.header["html"] < 50_000
    assert found.html.count("var(--bento-0)") == 8 and ":root{--bento-0:url(data:image/png;" in found.html
    assert 'style="content:var(--bento-0);x:y"' in found.html


def test_frames_are_packed_into_the_page(web):
    web.files |= {
        "http://x.test/f/1": "<img src=../a.png><iframe src=2></iframe><a href=z>",
        "http://x.test/f/2": "<style>a{b:url(/b.png)}c{d:url(/b.png)}</style><iframe src=1></iframe><iframe src=3></iframe>",
        "http://x.test/f/3": "<iframe src=/f/4></iframe>", "http://x.test/f/4": "deep",
        "http://x.test/i": ("image/png", PNG), "http://x.test/t": ("text/plain", "<b>"),
    }
    found = page(web, "<iframe src=f/1 loading=lazy></iframe><iframe srcdoc='<img src=a.png>' src=/nowhere></iframe><iframe src=i></iframe><iframe src=t></iframe>")
    assert found.html.count("<iframe ") == 4 and " src=\"" not in found.html.split("<iframe", 1)[1].split(">")[0]
    assert "&quot;http://x.test/f/z&quot;" in found.html and "&amp;quot;Content-Security-Policy" in found.html and "&amp;lt;b&amp;gt;" in found.html
    assert found.missing == {"http://x.test/f/1": "a frame within itself", "/f/4": "a frame more than 3 deep"}
    assert "var(--bento" not in found.html and found.html.count('sandbox="') == 4


def test_framesets(web):
    web.files["http://x.test/f"] = "<p>framed"
    found = page(web, "<frameset cols=*><frame src=f><noframes>old</noframes></frameset>")
    assert '<frame src="data:text/html;charset=utf-8;base64,' in found.html and "old" not in found.html


def test_objects_show_what_they_are(web):
    web.files |= {"http://x.test/o.html": "<p>inner", "http://x.test/d.pdf": ("application/pdf", b"%PDF-1.4")}
    found = page(web, "<object data=a.png class=c><img src=b.png></object><embed src=o.html><object data=gone><img src=b.png></object><embed src=d.pdf>")
    assert f'<img class="c" src="{DATA}">' in found.html and "&lt;p&gt;inner" in found.html and "&lt;a download" in found.html
    assert base64.b64encode(GREEN).decode() in found.html and found.missing == {"http://x.test/gone": "HTTP 404"}  # the last has its fallback


def test_pieces_of_other_drawings(web):
    web.files["http://x.test/s.svg"] = (
        "<svg xmlns='http://www.w3.org/2000/svg'><linearGradient id='g'/><symbol id='a'><path fill='url(#g)' onclick='x()'/><use href='#b'/></symbol>"
        "<g id='b'><circle r='1'/><script>x</script><image href='http://evil.test/'/></g><g id='unused'/></svg>")
    found = page(web, "<svg><use href='s.svg#a'/><use xlink:href='s.svg#none'/></svg>")
    assert '<use href="#bento-0-a" />' in found.html and '<symbol id="bento-0-a"><path fill="url(#bento-0-g)" /><use href="#bento-0-b" /></symbol>' in found.html
    assert '<lineargradient id="bento-0-g" />' in found.html and '<g id="bento-0-b"><circle r="1" /></g>' in found.html
    assert "unused" not in found.html and "evil" not in found.html and list(found.missing) == ["http://x.test/s.svg#none"]


def test_films_and_sounds_within_their_bound(web):
    web.files |= {"http://x.test/s.ogg": ("audio/ogg", b"OggS"), "http://x.test/l.webm": ("video/webm", bytes(9000)), "http://x.test/t.vtt": ("text/vtt", "WEBVTT")}
    found = page(web, "<audio src=s.ogg></audio><video><source src=x.flv type=video/x-flv><source src=l.webm type=video/webm><source src=m.mp4><track src=t.vtt></video>",
                 max_media=5000)
    assert '<audio src="data:audio/ogg;base64,T2dnUw==">' in found.html and '<track src="data:text/vtt;' in found.html
    assert found.missing == {"http://x.test/l.webm": "it is over 5000 bytes"}


def test_icons(web):
    assert f'<link rel="icon" href="{DATA}">' in page(web, "<link rel=apple-touch-icon href=b.png><link rel='shortcut icon' href=a.png>").html
    assert asked(web) == ["http://x.test/a.png"]
    web.files["http://x.test/favicon.ico"] = ("image/x-icon", PNG)
    assert f'<link rel="icon" href="{DATA}">' in page(web, "x").html
    del web.files["http://x.test/favicon.ico"]
    found = page(web, "x")
    assert '<link rel="icon" href="data:,">' in found.html and found.header["missing"] == []


def test_the_base_counts_wherever_it_stands(web):
    found = page(web, "<img src=c.png><a href=d><a href='#e'><base href='http://y.test/'><base href=/no/>")
    assert f'<img src="{DATA}">' in found.html and '<a href="http://y.test/d">' in found.html and '<a href="http://y.test/#e">' in found.html
    assert "<base" not in found.html


def test_what_is_missing_is_told(web):
    web.files["http://x.test/h.png"] = ("image/png", b"")
    web.files["http://x.test/t.css"] = ("text/html", "no")
    found = page(web, "<img src=gone.png alt=gone><img src=/><link rel=stylesheet href=t.css><img src=ftp://x.test/a><img src='http://['><img src=h.png>"
                      "<style>@font-face{font-family:q;src:url(a.png)}</style><img src=http://refused.test/>")
    missing = found.missing
    assert missing.pop("http://x.test/a.png").startswith("not a font")
    assert "no connection: the grant does not cover" in missing.pop("http://refused.test/")
    assert missing.pop("http://[").startswith("not an address")
    assert missing == {
        "http://x.test/gone.png": "HTTP 404", "http://x.test/t.css": "not a style sheet but text/html", "http://x.test/h.png": "it is empty",
        "ftp://x.test/a": "an address that is not fetched (ftp:)", "http://x.test/": "not an image but text/html"}
    assert '<img alt="gone" src="data:,">' in found.html and "<summary style='all:revert'>8 parts of this page could not be fetched</summary>" in found.html


def test_the_list_is_seen_although_the_page_leaves_things_open(web):
    found = page(web, "<div hidden><table><tr><td><select><option><textarea>x<img src=gone.png>")
    assert found.missing == {}
    found = page(web, "<img src=gone.png><div hidden><p><table><tr><td><svg><g>")
    assert "</g></svg></table></div><details" in found.html


def test_scripts_are_kept_on_demand_only(web):
    web.files["http://x.test/s.js"] = "alert('</script>')"
    body = "<script src=s.js defer integrity=x></script><script>1<2</script><p onclick=x()><noscript><img src=a.png></noscript><script type=speculationrules>{}</script>"
    found = page(web, body, scripts=True)
    assert '<script defer="" src="data:text/javascript;charset=utf-8;base64,' in found.html and "<script>1<2</script>" in found.html
    assert 'onclick="x()"' in found.html and "script-src 'unsafe-inline'" in found.html and "noscript" not in found.html and "speculation" not in found.html
    found = page(web, body)
    assert "<script" not in found.html and "onclick" not in found.html and "script-src 'none'" in found.html and DATA in found.html


def test_requests_look_like_tor_browsers(web):
    page(web, "<img src=a.png><img src=//y.test/c.png>")
    lines = web.heads["http://x.test/"].splitlines()[1:]
    assert [line.split(":")[0] for line in lines] == [
        "Host", "User-Agent", "Accept", "Accept-Language", "Accept-Encoding", "Connection", "Upgrade-Insecure-Requests", "Sec-Fetch-Dest", "Sec-Fetch-Mode",
        "Sec-Fetch-Site", "Sec-Fetch-User"]
    assert "Firefox/140.0" in lines[1] and "Windows NT 10.0" in lines[1]
    assert "Referer: http://x.test/\r\n" in web.heads["http://y.test/c.png"] and "Sec-Fetch-Site: cross-site" in web.heads["http://y.test/c.png"]


def test_of_an_onion_service_nobody_else_is_told(web):
    name = "http://" + "a" * 56 + ".onion/"
    web.files |= {name: f"<img src=http://y.test/c.png><img src=q.png>", name + "q.png": PNG}
    assert web.visit(name).header["missing"] == []
    assert "Referer" not in web.heads["http://y.test/c.png"] and f"Referer: {name}" in web.heads[name + "q.png"]


def test_every_resource_is_fetched_once(web):
    found = page(web, "<img src=a.png><img src=a.png#x><img src=./a.png><style>a{b:url('http://x.test/a.png')}</style><video poster=/a.png>")
    assert asked(web) == ["http://x.test/a.png"] and found.html.count(DATA) == 5


def test_the_number_of_resources_is_bounded(web):
    found = page(web, "".join(f"<img src={at}.png>" for at in range(20)), max_resources=10)
    assert found.header["fetched"] == 10 and len(web.asked) == 10
    assert sum("beyond the bound of 10 resources" in reason for reason in found.missing.values()) == 11 or len(found.missing) >= 19


def test_the_bytes_are_bounded(web):
    web.files["http://x.test/l.png"] = b"\x89PNG\r\n\x1a\n" + bytes(50_000)
    found = page(web, "<img src=l.png><img src=a.png>", max_bytes=10_000)
    assert found.missing == {"http://x.test/l.png": "the page is over 10000 bytes altogether"} and DATA in found.html
    assert page(web, "x" * 20_000, max_bytes=10_000).header["outcome"] == "error"


def test_a_page_that_asks_for_more_than_memory_is_an_error(web):
    web.files["http://x.test/l.png"] = b"\x89PNG\r\n\x1a\n" + bytes(2_000_000)
    found = page(web, "<img srcset='l.png 1400w'>" * 100)
    assert found.header["outcome"] == "error" and "over" in found.header["error"] and found.padded == 1_000_000


def test_redirected_resources_count_where_they_are(web):
    found = page(web, "<p>")
    assert found.header["url"] == "http://x.test/"


def test_a_page_without_anything(web):
    found = page(web, "")
    assert found.header["outcome"] == "page" and found.header["title"] == "" and found.html.startswith("<head><meta http-equiv=")
