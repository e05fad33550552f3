"""A packed page opened in Chromium: it asks for nothing, and looks as the original does."""

import json
import random
import shutil
import socketserver
import subprocess
import threading
import time
from html import escape
from pathlib import Path

import pytest
from test_browser_hostile import PIECES, written

CHROMIUM = shutil.which("chromium")
COMPARE = shutil.which("compare")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

#: A clock that turns, and a player that is still being drawn.
DIFFERENT_PIXELS_MAX = 6000


def opened(url: str, directory: Path, hosts: dict[str, int], size: str = "1400,2400") -> tuple[Path, str]:
    """A screenshot, and the log of everything that Chromium's network did."""
    shot, log = directory / "shot.png", directory / "net.json"
    rules = ",".join(f"MAP {host} 127.0.0.1:{port}" for host, port in hosts.items())
    subprocess.run(
        [CHROMIUM, "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
         "--disable-component-update", "--disable-sync", "--hide-scrollbars",
         "--run-all-compositor-stages-before-draw", f"--user-data-dir={directory}/profile", f"--window-size={size}",
         "--virtual-time-budget=5000", f"--host-resolver-rules={rules}", f"--log-net-log={log}", f"--screenshot={shot}", url],
        check=True, capture_output=True, timeout=90,
    )
    for _ in range(50):  # the network's own process may end a little later
        if log.exists():
            break
        time.sleep(0.1)
    return shot, log.read_text(errors="replace")


def wanted(log: str) -> set[str]:
    """The web addresses and hosts of a network log's events, those of Chromium's own services left out."""
    try:
        events = json.loads(log)["events"]
    except json.JSONDecodeError:
        events = json.loads(log.rstrip().rstrip(",") + "]}")["events"]  # it was cut off when Chromium ended
    found = set()
    for event in events:
        given = event.get("params", {})
        for key in ("url", "host", "original_url", "destination"):
            value = str(given.get(key, ""))
            if value and not value.startswith(("file:", "data:", "chrome", "devtools", "about:")) and ".test" in value:
                found.add(value)
    return found


class Evil(socketserver.ThreadingTCPServer):
    """Counts who comes, and shows nothing."""

    daemon_threads = True

    def __init__(self) -> None:
        self.visitors = 0
        super().__init__(("127.0.0.1", 0), None)
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def finish_request(self, request, client_address) -> None:
        self.visitors += 1
        request.recv(4096)
        request.sendall(b"HTTP/1.1 204 No Content\r\nConnection: close\r\n\r\n")


@pytest.fixture
def evil():
    server = Evil()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def sites(gazette, evil):
    port = evil.server_address[1]
    return {"gazette.test:80": gazette.ports[0], "static.gazette.test:80": gazette.ports[2], "evil.test:80": port, "evil.test:443": port}


def test_a_packed_page_asks_for_nothing_and_looks_the_same(gazette, sites, tmp_path):
    (tmp_path / "page.html").write_text(gazette.visit("/").html)
    differences = []
    # On a busy machine Chromium now and then takes its picture before the lowest part is drawn: one pair of three must be alike.
    # That nothing is asked for must hold each time.
    for attempt in range(3):
        places = tmp_path / f"original{attempt}", tmp_path / f"packed{attempt}"
        for place in places:
            place.mkdir()
        gazette.requests(reset=True)
        original, log = opened("http://gazette.test/", places[0], sites)
        assert gazette.requests(reset=True)["total"] >= 45 and "http://static.gazette.test/weather.css" in wanted(log)  # both would notice
        packed, log = opened(f"file://{tmp_path}/page.html", places[1], sites)
        assert gazette.requests()["total"] == 0 and wanted(log) == set()
        if COMPARE is None:
            return
        done = subprocess.run([COMPARE, "-metric", "AE", "-fuzz", "3%", original, packed, places[1] / "difference.png"], capture_output=True, text=True)
        differences.append(int(float(done.stderr.split()[0])))
        if differences[-1] <= DIFFERENT_PIXELS_MAX:
            return
    pytest.fail(f"{differences} pixels differ: see {tmp_path}")


def test_hostile_pages_ask_for_nothing(evil, sites, tmp_path):
    rng = random.Random(11)
    sources = ["".join(PIECES), *("".join(rng.choice(PIECES) for _ in range(rng.randint(2, 12))) for _ in range(150))]
    for name, make in (("plain", str), ("packed", written)):
        (tmp_path / name).mkdir()
        frames = "".join(f'<iframe width=90 height=60 srcdoc="{escape(make(source))}"></iframe>' for source in sources)
        (tmp_path / name / "page.html").write_text(f"<!DOCTYPE html><meta charset=utf-8>{frames}")
        # The first one also as a page of its own: what it does to the top is not what it does in a frame.
        (tmp_path / name / "first.html").write_text(make(sources[0]))
    _, log = opened(f"file://{tmp_path}/plain/page.html", tmp_path / "plain", sites)
    assert evil.visitors > 0 and any("evil.test" in url for url in wanted(log))
    evil.visitors = 0
    for page in ("page", "first"):
        _, log = opened(f"file://{tmp_path}/packed/{page}.html", tmp_path / "packed", sites)
        assert evil.visitors == 0 and wanted(log) == set()


def test_images_that_are_shown_once_and_used_often_are_seen(web, sites, tmp_path):
    from conftest import SITE

    import sys

    sys.path.insert(0, str(SITE.parent))
    import pages

    red = pages.png(255, 0, 0, 64) + bytes(20_000)
    web.files |= {"http://x.test/r.png": red, "http://x.test/": "<style>*{margin:0}i{display:block;width:64px;height:64px;background:url(r.png)}u{display:block;"
                  "width:64px;height:64px;background:url(r.png)}img{display:block}</style>" + "<img src=r.png>" * 3 + "<i></i><u></u>"}
    found = web.visit()
    assert found.header["html"] < 40_000 + 2_000
    (tmp_path / "page.html").write_text(found.html)
    shot, _ = opened(f"file://{tmp_path}/page.html", tmp_path, sites, "200,600")
    done = subprocess.run(["convert", shot, "-crop", "64x320+0+0", "-format", "%c", "histogram:info:"], capture_output=True, text=True)
    assert done.stdout.count("#") == 1 and "#FF0000" in done.stdout
