"""The page of a link in Chromium: it decrypts and saves the file, and saves nothing if anything is wrong."""

import base64
import fcntl
import http.server
import json
import os
import shutil
import subprocess
import threading
import time
import urllib.parse
from pathlib import Path

import pytest
from conftest import Box, plaintext, sealed

import dropbox
from bento import pad

CHROMIUM = shutil.which("chromium")
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="there is no Chromium here")

KEY = bytes(range(32))
PREFIX = bytes(range(7))
ID = "0123456789abcdef" * 2
SECONDS = 60.0


class Browser:
    """A headless Chromium, spoken to through its pipe: JSON, with a zero byte after each message."""

    def __init__(self, home: Path) -> None:
        self.saved = home / "saved"
        self.saved.mkdir(parents=True)
        # High numbers, so that neither is in the way when they become 3 and 4.
        ends = (*os.pipe(), *os.pipe())
        to_read, self._to, self._from, to_write = (fcntl.fcntl(end, fcntl.F_DUPFD_CLOEXEC, 50) for end in ends)
        for end in ends:
            os.close(end)
        flags = ["--headless=new", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking", "--disable-component-update",
                 "--disable-sync", "--hide-scrollbars", "--window-size=900,700", "--remote-debugging-pipe", f"--user-data-dir={home}/profile"]
        script = f'exec "$0" "$@" 3<&{to_read} 4>&{to_write}'
        self._process = subprocess.Popen(["/bin/bash", "-c", script, CHROMIUM, *flags], pass_fds=(to_read, to_write), stderr=subprocess.DEVNULL)
        os.close(to_read)
        os.close(to_write)
        self._number = 0
        self._rest = b""
        self.events: list[dict] = []
        target = self.ask("Target.createTarget", url="about:blank")["targetId"]
        self._session = self.ask("Target.attachToTarget", targetId=target, flatten=True)["sessionId"]
        self.ask("Browser.setDownloadBehavior", behavior="allow", downloadPath=str(self.saved), eventsEnabled=True)
        for domain in ("Page", "Runtime", "Network", "Log"):
            self.page(f"{domain}.enable")

    def ask(self, method: str, session: str | None = None, **arguments: object) -> dict:
        self._number += 1
        message = {"id": self._number, "method": method, "params": arguments} | ({"sessionId": session} if session else {})
        os.write(self._to, json.dumps(message).encode() + b"\0")
        while True:
            answer = self._next()
            if answer.get("id") == self._number:
                assert "error" not in answer, answer
                return answer["result"]
            self.events.append(answer)

    def page(self, method: str, **arguments: object) -> dict:
        return self.ask(method, self._session, **arguments)

    def run(self, script: str) -> object:
        return self.page("Runtime.evaluate", expression=script, awaitPromise=True, returnByValue=True)["result"].get("value")

    def until(self, script: str) -> object:
        end = time.monotonic() + SECONDS
        while not (value := self.run(script)):
            assert time.monotonic() < end, script
            time.sleep(0.05)
        return value

    def open(self, url: str) -> None:
        self.page("Page.navigate", url="about:blank")
        self.until("location.href === 'about:blank'")
        self.events.clear()
        self.page("Page.navigate", url=url)
        self.until("location.href !== 'about:blank' && document.readyState === 'complete'")

    def shot(self, path: Path) -> None:
        path.write_bytes(base64.b64decode(self.page("Page.captureScreenshot", format="png")["data"]))

    def requested(self) -> list[str]:
        self.run("0")
        return [event["params"]["request"]["url"] for event in self.events if event.get("method") == "Network.requestWillBeSent"]

    def close(self) -> None:
        os.close(self._to)
        os.close(self._from)
        self._process.terminate()
        self._process.wait(30)

    def _next(self) -> dict:
        while b"\0" not in self._rest:
            part = os.read(self._from, 1 << 20)
            assert part, "Chromium has ended"
            self._rest += part
        message, _, self._rest = self._rest.partition(b"\0")
        return json.loads(message)


@pytest.fixture(scope="module")
def browser(tmp_path_factory):
    browser = Browser(tmp_path_factory.mktemp("chromium"))
    yield browser
    browser.close()


HEADERS = {
    "Content-Security-Policy": "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; "
    "img-src data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Cache-Control": "no-store",
    "Access-Control-Allow-Origin": "*",
}
"""What a node sends with each answer to a link: the page has no origin there, and shares nothing with other pages of the node."""


class Node:
    """Serves links as a node does. `cut`: how many bytes of `/raw` are sent before the connection ends; `lies` if the length then says so."""

    def __init__(self, box: Box) -> None:
        self.box = box
        self.cut: int | None = None
        self.lies = False
        node = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                path = urllib.parse.urlsplit(self.path).path
                token = "/".join(path.split("/")[:3])
                link = node.box.first.links.get(token)
                api = node.box.api()
                try:
                    body = api.run(dropbox.visit, **link.arguments, path=path.removeprefix(token).removeprefix("/"))
                except Exception:
                    return self.reply(502, {})
                sent = body if node.cut is None or not path.endswith("/raw") else body[: node.cut]
                self.reply(200, {"Content-Type": api.kind, "Content-Length": str(len(sent if node.lies else body))})
                self.wfile.write(sent)

            def reply(self, status: int, more: dict[str, str]) -> None:
                self.send_response(status)
                for name, value in (HEADERS | more).items():
                    self.send_header(name, value)
                self.end_headers()

            def log_message(self, *arguments: object) -> None:
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()

    def url(self, key: bytes = KEY, name: str | None = None, padded: bool = False) -> str:
        path = self.box.ask("link", drop=ID, seconds=60, page=True)["path"]
        fragment = {"k": base64.urlsafe_b64encode(key).decode().rstrip("=")}
        fragment |= ({"n": name} if name else {}) | ({"p": "1"} if padded else {})
        return f"http://127.0.0.1:{self.server.server_address[1]}{path}#{urllib.parse.urlencode(fragment, quote_via=urllib.parse.quote)}"


@pytest.fixture
def node(box):
    node = Node(box)
    yield node
    node.server.shutdown()
    node.server.server_close()


DONE = "['Decrypted', 'wrong'].some(w => document.getElementById('say').textContent.startsWith(w) || document.getElementById('say').className === w) && document.getElementById('say').textContent"


def fetched(browser: Browser, url: str) -> str:
    """What the page says at last."""
    browser.open(url)
    browser.run("document.getElementById('fetch').click()")
    return browser.until(DONE)


def saved(browser: Browser, name: str) -> bytes:
    """A file that was saved, which is then removed."""
    path = browser.saved / name
    end = time.monotonic() + SECONDS
    while not path.exists():
        assert time.monotonic() < end, list(browser.saved.iterdir())
        time.sleep(0.05)
    data = path.read_bytes()
    path.unlink()
    return data


@pytest.mark.parametrize("size", [0, 1, 65_535, 65_536, 65_537, 131_072, 40_000_000])
def test_the_page_saves_exactly_what_was_sealed(node, browser, size):
    data = plaintext(size)
    node.box.keep(ID, sealed(KEY, PREFIX, data))
    url = node.url(name="Übersicht & Plan.pdf")
    assert fetched(browser, url).startswith("Decrypted and whole")
    assert saved(browser, "Übersicht & Plan.pdf") == data
    base = url.partition("#")[0]
    assert [asked for asked in browser.requested() if not asked.startswith("blob:")] == [url, f"{base}/raw"] or set(
        asked.partition("#")[0] for asked in browser.requested() if not asked.startswith("blob:")
    ) == {base, f"{base}/raw"}


def test_a_padded_file_is_saved_without_its_padding(node, browser):
    data = plaintext(100_000)
    node.box.keep(ID, sealed(KEY, PREFIX, pad.pad(data, 300_000)))
    assert fetched(browser, node.url(name="padded.bin", padded=True)).startswith("Decrypted")
    assert saved(browser, "padded.bin") == data
    node.box.ask("delete", drop=ID)
    node.box.keep(ID, sealed(KEY, PREFIX, data))  # one that is none
    assert "not what its address says" in fetched(browser, node.url(padded=True))
    assert not list(browser.saved.iterdir())


def test_nothing_is_saved_of_a_wrong_key_or_a_file_that_was_changed(node, browser):
    file = sealed(KEY, PREFIX, plaintext(200_000))
    chunk = 65_536 + 16
    swapped = file[:7] + file[7 + chunk : 7 + 2 * chunk] + file[7 : 7 + chunk] + file[7 + 2 * chunk :]
    for data, key, said in (
        (file, bytes(32), "not the key of this file"),
        (file[:100] + bytes([file[100] ^ 1]) + file[101:], KEY, "or the file was changed"),
        (file[:-1] + bytes([file[-1] ^ 1]), KEY, "changed or cut off"),
        (file[: 7 + 2 * chunk], KEY, "changed or cut off"),
        (file[: 7 + 2 * chunk + 5], KEY, "cut off"),
        (file[:5], KEY, "not whole"),
        (swapped, KEY, "or the file was changed"),
        (file + b"more", KEY, "changed or cut off"),
        (file, b"short", "no key in it"),
    ):
        node.box.ask("delete", drop=ID)
        node.box.keep(ID, data)
        browser.open(node.url(key))
        browser.run("document.getElementById('fetch').click()")
        text = browser.until(DONE)
        assert said in text, (said, text)
    assert not list(browser.saved.iterdir())


def test_a_connection_that_breaks_saves_nothing_and_can_be_tried_again(node, browser):
    data = plaintext(200_000)
    node.box.keep(ID, sealed(KEY, PREFIX, data))
    node.cut = 150_000
    assert "connection broke" in fetched(browser, node.url(name="again.bin"))
    node.lies = True
    browser.run("document.getElementById('fetch').click()")
    assert "cut off" in browser.until("document.getElementById('say').textContent.includes('cut off') && document.getElementById('say').textContent")
    assert not list(browser.saved.iterdir())
    node.cut = None
    browser.run("document.getElementById('fetch').click()")
    assert browser.until("document.getElementById('say').className !== 'wrong' && document.getElementById('say').textContent.startsWith('Decrypted')")
    assert saved(browser, "again.bin") == data


def test_a_drop_that_is_used_up_is_told(node, browser):
    node.box.keep(ID, sealed(KEY, PREFIX, b"once"), gets=1)
    url = node.url(name="once.txt")
    assert fetched(browser, url).startswith("Decrypted") and saved(browser, "once.txt") == b"once"
    assert "as often as its sender allowed" in fetched(browser, url)


def test_opening_the_page_asks_for_nothing_else_and_names_cannot_lead_elsewhere(node, browser, tmp_path):
    node.box.keep(ID, sealed(KEY, PREFIX, b"x"), gets=1)
    url = node.url(name='../../.bashrc<img src=x onerror="fetch(`/stolen`)">')
    browser.open(url)
    assert {asked.partition("#")[0] for asked in browser.requested()} <= {url.partition("#")[0], url.partition("/l/")[0] + "/favicon.ico"}
    assert node.box.ask("head", drop=ID)["taken"] == 0
    assert browser.run("document.getElementById('name').textContent") == ".._.._.bashrc_img src=x onerror=_fetch(`_stolen`)__"
    # What the page's policy forbids is stopped, whoever would put it there.
    assert browser.run("fetch('http://127.0.0.1:9/').then(() => 'came', () => 'stopped')") == "stopped"
    assert browser.run("new Promise(r => { const s = document.createElement('script'); s.textContent = 'window.ran = 1'; document.body.append(s); r(window.ran || 0) })") == 0
    shot = Path(os.environ.get("BENTO_SHOTS", tmp_path)) / "page.png"
    browser.shot(shot)
    assert shot.stat().st_size > 5_000
