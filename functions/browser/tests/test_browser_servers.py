"""Servers that redirect, encode, lie, dawdle and explode (`testnet/site`)."""

import subprocess
import sys
import threading
import time

import pytest
from bento.testing import FakeApi

import browser
from conftest import HERE, ROOT


def test_the_front_page_with_all_its_parts(gazette):
    gazette.requests(reset=True)
    found = gazette.visit("/")
    assert found.header["outcome"] == "page" and found.header["status"] == 200 and found.header["title"] == "The Loopback Gazette"
    assert found.header["missing"] == [] and found.header["fetched"] >= 45 and 600_000 < found.header["bytes"] < 900_000
    assert found.padded % 1_000_000 == 0
    counts = gazette.requests()["requests"]
    assert set(counts.values()) == {1} and sum(host.startswith("static.") for host in counts) >= 5
    assert not any(word in path for path in counts for word in ("jp2", "harbour.jpg", "night", "greek", ".eot", ".ttf", "counter.js", "webmanifest", "600"))


@pytest.mark.parametrize("path, status, text", [
    ("/test/redirect/5", 200, "step5=yes; step4=yes; step3=yes; step2=yes; step1=yes"),
    ("/test/refresh", 200, "Arrived with"),
    ("/test/refresh/header", 200, "Arrived with"),
    ("/test/refresh/late", 200, "stays"),
    ("/test/refresh/loop", 200, "round"),
    ("/test/cookies/", 200, "Welcome back"),
    ("/test/status/404", 404, "Status 404"),
    ("/test/status/500", 500, "Status 500"),
    ("/test/raw/no-length", 200, "<p>raw</p>"),
    ("/test/raw/chunked", 200, "<p>raw</p>"),
    ("/test/raw/interim", 200, "<p>raw</p>"),
    ("/test/raw/shorter", 200, "<p>raw</p>"),
    ("/test/type/none.html", 200, "<p>sniffed"),
])
def test_a_page_comes_of(gazette, path, status, text):
    found = gazette.visit(path)
    assert (found.header["outcome"], found.header["status"], found.header["missing"]) == ("page", status, [])
    assert text in found.html and "poisoned" not in found.html and "refresh" not in found.html


@pytest.mark.parametrize("path, text", [
    ("/test/redirect/11", "more than 10 redirects"),
    ("/test/redirect-loop", "more than 10 redirects"),
    ("/test/redirect-to?url=file:///etc/passwd", "an address that is not fetched (file:)"),
    ("/test/redirect-to?url=javascript:x()", "an address that is not fetched (javascript:)"),
    ("/test/redirect-to?url=data:text/html,x", "an address that is not fetched (data:)"),
    ("/test/redirect-to?url=http://", "not an address"),
    ("/test/redirect-to?url=http://refused.test/", "the grant does not cover refused.test:80"),
    ("http://refused.test/", "the grant does not cover refused.test:80"),
    ("http://closed.test/", "there is no host closed.test"),
    ("https://other.test/", "its certificate is not valid"),
    ("http://gazette.test:443/", "closed the connection without an answer"),
    ("https://static.gazette.test:80/", "TLS failed"),
    ("file:///etc/passwd", "only addresses with http: or https:"),
    ("javascript:x()", "not an address"),
    ("", "not an address"),
    ("/test/raw/longer", "breaks off: 1000 more bytes were promised"),
    ("/test/raw/broken-chunks", "breaks off"),
    ("/test/raw/endless-100", "more than 16 interim responses"),
    ("/test/raw/endless-103", "more than 16 interim responses"),
    ("/test/raw/endless-head", "not HTTP|its head is over"),  # too many lines or too many bytes, whichever is seen first
    ("/test/raw/long-line", "not HTTP"),
    ("/test/raw/nothing", "closed the connection without an answer"),
    ("/test/raw/rubbish", "not HTTP"),
    ("/test/raw/http09", "not HTTP"),
    ("/test/encoded/broken", "not what its encoding says"),
    ("/test/encoded/unknown", "its encoding is 'x-unheard-of'"),
    ("/test/zeros/gzip", "it is over 8388608 bytes"),
    ("/test/zeros/deflate", "it is over 8388608 bytes"),
    ("/test/zeros/br", "it is over 8388608 bytes"),
    ("/test/huge/100", "it is over 8388608 bytes"),
])
def test_an_error_comes_of(gazette, path, text):
    begin = time.monotonic()
    found = gazette.visit(path, bucket=50_000)
    assert found.header["outcome"] == "error" and any(one in found.header["error"] for one in text.split("|")), found.header
    assert found.padded == 50_000 and found.html == "" and time.monotonic() - begin < 15


@pytest.mark.parametrize("path", ["/test/never", "/test/slow", "/test/slow/head"])
def test_a_deadline_is_one(gazette, path):
    """A byte a second meets every timeout of a single read."""
    begin = time.monotonic()
    found = gazette.visit(path, timeout=2.5, bucket=50_000)
    assert 2 < time.monotonic() - begin < 5
    assert found.header["outcome"] == "error" and "timeout" in found.header["error"] and found.padded == 50_000


def test_a_part_that_is_late_is_missing_and_the_rest_is_there(web, gazette):
    threads = threading.active_count()
    web.files["http://x.test/"] = "<p>there<img src=http://gazette.test/test/slow><img src=/a.png><script></script>"
    web.files["http://x.test/a.png"] = b"\x89PNG\r\n\x1a\nred"
    hosts = {("gazette.test", 80): gazette.hosts["gazette.test", 80], ("x.test", 80): web._serve}
    api = FakeApi(hosts=hosts)
    begin = time.monotonic()
    output = api.run(browser.page, url="http://x.test/", resource_timeout=1.5, timeout=20)
    assert 1 < time.monotonic() - begin < 6 and b"there" in output and b"not complete after 1.5 s" in output and b"iVBORw0KGgpyZWQ=" in output
    for _ in range(50):
        if threading.active_count() <= threads + 2:
            break
        time.sleep(0.1)
    assert threading.active_count() <= threads + 2


def test_a_node_that_does_not_answer_a_connect_holds_up_nothing_else(web):
    release = threading.Event()

    class Slow(FakeApi):
        def connect(self, host, port, timeout=None):
            if host == "stuck.test":
                release.wait(10)  # a node that keeps to no timeout
            return super().connect(host, port, timeout)

    web.files["http://x.test/"] = "<p>there" + "".join(f"<img src=http://stuck.test/{at}>" for at in range(6)) + "<img src=a.png>"
    web.files["http://x.test/a.png"] = b"\x89PNG\r\n\x1a\nred"
    api = Slow(hosts={("x.test", 80): web._serve})
    begin = time.monotonic()
    output = api.run(browser.page, url="http://x.test/", resource_timeout=1, timeout=20)
    release.set()
    assert time.monotonic() - begin < 6 and b"iVBORw0KGgpyZWQ=" in output and output.count(b"not complete after 1 s") >= 6


def test_from_https_nothing_goes_to_http(gazette):
    authorities = gazette.cert.read_text()
    found = gazette.visit("https://gazette.test/test/redirect/2", authorities=authorities)
    assert found.header["outcome"] == "page" and "Arrived" in found.html
    found = gazette.visit("https://gazette.test/test/redirect-to?url=http://gazette.test/", authorities=authorities)
    assert found.header["outcome"] == "error" and "from https to http" in found.header["error"]
    found = gazette.visit("http://gazette.test/test/redirect-to?url=https://gazette.test/test/redirect/0", authorities=authorities)
    assert found.header["url"] == "https://gazette.test/test/redirect/0"


@pytest.mark.parametrize("name", ["gzip", "members", "rubbish-after", "deflate", "raw-deflate", "br", "double"])
def test_encodings(gazette, name):
    assert gazette.visit(f"/test/encoded/{name}").html.count("Unpacked") == 50


@pytest.mark.parametrize("name", ["utf-8-header", "utf-8-bom", "utf-8-meta", "utf-16le-bom", "utf-16be-bom", "windows-1252-default", "latin1-label",
                                  "http-equiv", "shift-jis", "koi8-r", "meta-too-late", "xhtml"])
def test_character_sets(gazette, name):
    expected = {"shift-jis": "日本語", "koi8-r": "Привет"}.get(name, "Grüße, naïve café, 20 €")
    html = gazette.visit(f"/test/charset/{name}").html
    assert f'<p id="t">{expected}' in html and '<meta charset="utf-8">' in html and "koi8-r" not in html and "windows-1252" not in html


@pytest.mark.parametrize("name, part", [
    ("image.png", '<img alt="image.png" src="data:image/png;base64,'),
    ("lying.png", '<img alt="lying.png" src="data:image/png;base64,'),
    ("none.png", '<img alt="none.png" src="data:image/png;base64,'),
    ("drawing.svg", 'src="data:image/svg+xml;base64,'),
    ("text.txt", "<pre>\nZeile eins &lt;b&gt;nicht fett&lt;/b&gt;\nGrüße\n</pre>"),
    ("data.json", '<pre>\n{"a": "&lt;script&gt;"}</pre>'),
    ("file.pdf", '<a download="file.pdf" href="data:application/pdf;base64,'),
    ("file.bin", '<a download="file.bin" href="data:application/octet-stream;base64,'),
    ("attached.html", 'href="data:application/octet-stream;base64,'),
    ("film.webm", '<video controls src="data:video/webm;base64,'),
])
def test_files_that_are_no_pages_become_pages(gazette, name, part):
    found = gazette.visit(f"/test/type/{name}")
    assert part in found.html and found.html.startswith('<!DOCTYPE html><html><head><meta http-equiv="Content-Security-Policy"')
    assert found.header["title"] == name and "<b>nicht" not in found.html and "<script" not in found.html


# As in the jail: else every thread would reserve 64 MiB of addresses.
JAIL = {"MALLOC_ARENA_MAX": "1", "LANG": "C.UTF-8", "PATH": "/usr/bin"}
BOMBS = """
import resource, sys
resource.setrlimit(resource.RLIMIT_AS, (512 * 1024 * 1024,) * 2)
sys.path[:0] = sys.argv[1:3]
import threading
threading.stack_size(1024 * 1024)
from bento.testing import FakeApi
import browser
hosts = {("x.test", 80): ("127.0.0.1", int(sys.argv[3]))}
output = FakeApi(hosts=hosts).run(browser.page, url="http://x.test" + sys.argv[4], bucket=50_000)
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024, output[48:4000].split(b"\\n")[0].decode())
"""


@pytest.mark.parametrize("path, text", [
    ("/test/zeros/gzip", "it is over"), ("/test/zeros/deflate", "it is over"), ("/test/zeros/br", "it is over"), ("/test/bombs", "it is over"),
    ("/test/huge/7", ""),
])
def test_bombs_stop_within_the_memory_of_the_manifest(gazette, path, text):
    """In a process with the address space that the manifest asks for."""
    arguments = [str(HERE.parent), str(ROOT / "python"), str(gazette.ports[0]), path]
    done = subprocess.run([sys.executable, "-c", BOMBS, *arguments], capture_output=True, text=True, timeout=60, env=JAIL)
    assert done.returncode == 0, done.stderr
    resident, line = done.stdout.split(" ", 1)
    assert text in line and "memory" not in line and int(resident) < 420, done.stdout


def test_connections_are_used_again(gazette):
    found = gazette.visit("/test/many/60")
    assert found.header["missing"] == [] and len(found.api.connections) <= 8


def test_an_idle_connection_that_was_closed_meanwhile_is_replaced(web):
    """A server that closes after each answer, without saying so before."""

    def serve(sock):
        line = sock.makefile("rb").readline()
        body = b"<img src=a><img src=b><img src=c>" if line.startswith(b"GET / ") else b"GIF89a"
        kind = b"text/html" if line.startswith(b"GET / ") else b"image/gif"
        sock.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: " + kind + b"\r\nContent-Length: %d\r\n\r\n" % len(body) + body)

    api = FakeApi(hosts={("x.test", 80): serve})
    assert b'"missing": []' in api.run(browser.page, url="http://x.test/")


def test_the_fetching_threads_end_with_the_visit(gazette):
    before = threading.active_count()
    gazette.visit("/test/many/30")
    time.sleep(0.5)
    assert threading.active_count() <= before + 1
