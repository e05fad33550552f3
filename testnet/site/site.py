#!/usr/bin/python3
"""The website of the demo, the tests and the benchmarks: "The Loopback Gazette", and below /test/ every kind of page that a
browser must cope with (`pages.py`).

    site.py --http 127.0.0.1:8080 [--https 127.0.0.1:8443 --cert CERT --key KEY] [--second-http …] [--second-https …]

Prints one line, "ready" and what it listens at, when it does; ends on SIGTERM or when its standard input closes. Port 0 takes a
free one. /_requests tells, as JSON, what was asked for: so a test can prove that opening a packed page asks for nothing.
Only the standard library. Serves whoever connects, and is meant for loopback addresses only.
"""

import argparse
import http.server
import json
import mimetypes
import os
import signal
import socket
import ssl
import sys
import threading
from collections import Counter
from pathlib import Path
from urllib.parse import parse_qs, urlsplit

import pages

FILES = Path(__file__).resolve().parent / "gazette"
#: Where texts name the second origin.
SECOND = b"{{second}}"
# The machine's own table may differ or be absent.
TYPES = {
    ".html": "text/html; charset=utf-8", ".css": "text/css", ".js": "text/javascript", ".svg": "image/svg+xml", ".png": "image/png",
    ".jpg": "image/jpeg", ".gif": "image/gif", ".webp": "image/webp", ".avif": "image/avif", ".ico": "image/x-icon",
    ".woff2": "font/woff2", ".wav": "audio/wav", ".webmanifest": "application/manifest+json", ".txt": "text/plain; charset=utf-8",
}
#: Threads at the same time. A page asks for six things at once; tests leave some hanging.
CONNECTIONS_MAX = 256
#: Seconds an idle connection is kept.
IDLE_SECONDS = 30


class Counts:
    """What was asked for, by host and path."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()

    def add(self, host: str, path: str) -> None:
        """Counts one request."""
        with self._lock:
            self._counts[f"{host}{path}"] += 1

    def tell(self, reset: bool) -> dict:
        """All counts so far."""
        with self._lock:
            told = {"total": sum(self._counts.values()), "requests": dict(sorted(self._counts.items()))}
            if reset:
                self._counts.clear()
            return told


class Site(http.server.ThreadingHTTPServer):
    """One listening address."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, address: str, counts: Counts, tls: ssl.SSLContext | None) -> None:
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        self.address_family = socket.AF_INET6 if ":" in host else socket.AF_INET
        self.counts = counts
        self.tls = tls
        #: The origins that texts name, by scheme; filled in when all addresses listen.
        self.second: dict[str, str] = {}
        self._places = threading.Semaphore(CONNECTIONS_MAX)
        super().__init__((host, int(port)), Handler)

    @property
    def origin(self) -> str:
        """This address as a URL."""
        host, port = self.server_address[:2]
        return f"{'https' if self.tls else 'http'}://{f'[{host}]' if ':' in host else host}:{port}"

    def process_request(self, request, client_address) -> None:
        """Serves in a thread of its own, if there is a place."""
        if not self._places.acquire(blocking=False):
            self.shutdown_request(request)
            return
        super().process_request(request, client_address)

    def process_request_thread(self, request, client_address) -> None:
        """In its thread: the handshake too, so that a silent client keeps nobody waiting."""
        try:
            request.settimeout(IDLE_SECONDS)
            if self.tls is not None:
                request = self.tls.wrap_socket(request, server_side=True)
            super().process_request_thread(request, client_address)
        except OSError:
            self.shutdown_request(request)
        finally:
            self._places.release()

    def handle_error(self, request, client_address) -> None:
        """Clients that leave are no news here."""
        if not isinstance(sys.exc_info()[1], OSError):
            super().handle_error(request, client_address)


class Handler(http.server.BaseHTTPRequestHandler):
    """One connection."""

    protocol_version = "HTTP/1.1"
    # Head and body are written one after the other; the second would wait 40 ms for the first's acknowledgement.
    disable_nagle_algorithm = True
    server_version = "Gazette"
    sys_version = ""
    server: Site

    def do_GET(self) -> None:
        """Answers a file, a test page, or the counts."""
        parts = urlsplit(self.path)
        self.query = {key: values[-1] for key, values in parse_qs(parts.query, keep_blank_values=True).items()}
        if parts.path == "/_requests":
            self.send(200, "application/json", json.dumps(self.server.counts.tell("reset" in self.query)).encode())
            return
        self.server.counts.add(self.headers.get("Host", ""), self.path)
        if parts.path.startswith(("/test/", "/size/")):
            pages.answer(self, parts.path)
            return
        self._file("index.html" if parts.path == "/" else parts.path[1:])

    do_HEAD = do_GET
    do_POST = do_GET

    def _file(self, name: str) -> None:
        path = FILES / name
        if "/" in name or name.startswith(".") or not path.is_file():
            self.send(404, TYPES[".html"], b"<!DOCTYPE html><title>Not printed</title><h1>This page was not printed</h1>")
            return
        body = path.read_bytes()
        if path.suffix in (".html", ".css"):
            body = body.replace(SECOND, self.second.encode())
        self.send(200, TYPES.get(path.suffix) or mimetypes.guess_type(name)[0] or "application/octet-stream", body)

    @property
    def second(self) -> str:
        """The second origin, in the scheme of this request."""
        return self.server.second.get("https" if self.server.tls else "http") or self.server.origin

    def send(self, status: int, kind: str | None, body: bytes, headers: dict[str, str] | list[tuple[str, str]] = ()) -> None:
        """A whole response."""
        self.send_response(status)
        if kind is not None:
            self.send_header("Content-Type", kind)
        for name, value in headers.items() if isinstance(headers, dict) else headers:
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def log_message(self, *_: object) -> None:
        """Silent: who wants to know asks /_requests."""


def main() -> None:
    """The program."""
    parser = argparse.ArgumentParser(description="Serve The Loopback Gazette and the test pages")
    for name in ("http", "https", "second-http", "second-https"):
        parser.add_argument(f"--{name}", metavar="ADDRESS:PORT", action="append", default=[])
    parser.add_argument("--cert", help="certificate chain in PEM")
    parser.add_argument("--key", help="its key in PEM")
    parser.add_argument("--second-name", metavar="HOST", help="what pages call the second origin, if not by its address")
    given = parser.parse_args()
    if not (given.http or given.https):
        parser.error("one of --http and --https is needed")
    tls = None
    if given.https or given.second_https:
        if not (given.cert and given.key):
            parser.error("--https needs --cert and --key")
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(given.cert, given.key)

    counts = Counts()
    first = [Site(address, counts, None) for address in given.http] + [Site(address, counts, tls) for address in given.https]
    others = [Site(address, counts, None) for address in given.second_http] + [Site(address, counts, tls) for address in given.second_https]
    second = {site.origin.partition(":")[0]: named(site, given.second_name) for site in others}
    for site in first + others:
        site.second = second
        threading.Thread(target=site.serve_forever, daemon=True).start()
    signal.signal(signal.SIGTERM, lambda *_: os._exit(0))
    print("ready", *(site.origin for site in first + others), flush=True)
    # Nothing is ever written to standard input: it only tells that whoever started this is still there.
    while sys.stdin.buffer.read(4096):
        pass


def named(site: Site, name: str | None) -> str:
    """A site's origin, under another name if there is one. Default ports are not written."""
    if name is None:
        return site.origin
    port = site.server_address[1]
    scheme = "https" if site.tls else "http"
    return f"{scheme}://{name}" + ("" if ":" in name or port in (80, 443) else f":{port}")


if __name__ == "__main__":
    main()
