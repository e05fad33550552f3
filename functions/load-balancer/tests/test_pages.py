"""What a replica serves of a site."""

import importlib.util
import socket
import sys
import threading
from pathlib import Path

import pytest
from conftest import SITE, archive

spec = importlib.util.spec_from_file_location("pages", Path(__file__).resolve().parents[1] / "replica" / "pages.py")
pages = importlib.util.module_from_spec(spec)
spec.loader.exec_module(pages)

BIG = bytes(range(256)) * 4_000


def exchange(request: bytes, site: bytes = SITE) -> bytes:
    near, far = socket.socketpair()
    counted = []

    def play() -> None:
        with far:
            pages.serve(far, pages.Site(site), counted.append)

    server = threading.Thread(target=play)
    server.start()
    near.sendall(request)
    near.shutdown(socket.SHUT_WR)
    data = b""
    try:
        while piece := near.recv(65_536):
            data += piece
    except ConnectionResetError:
        pass  # It has closed with some of the request unread.
    server.join()
    assert sum(counted) == len(data), "what is told is what was sent"
    return data


def ask(line: str, *headers: str) -> tuple[str, dict[str, str], bytes]:
    data = exchange("\r\n".join([f"{line} HTTP/1.1", "Host: x", *headers, "", ""]).encode())
    head, _, body = data.partition(b"\r\n\r\n")
    status, *lines = head.decode().split("\r\n")
    return status.partition(" ")[2], dict(one.split(": ", 1) for one in lines), body


def test_files_their_types_and_directories():
    status, headers, body = ask("GET /")
    assert (status, headers["Content-Type"], body) == ("200 OK", "text/html; charset=utf-8", b"<h1>Hello</h1>")
    assert ask("GET /docs")[2] == ask("GET /docs/?q=1")[2] == ask("GET /d%6fcs/index.html")[2] == b"docs"
    assert ask("GET /big.bin")[2] == BIG and ask("HEAD /big.bin")[1]["Content-Length"] == str(len(BIG)) and ask("HEAD /big.bin")[2] == b""


@pytest.mark.parametrize("target", ["/nothing", "/../../etc/passwd", "/docs/../index.html", "/%2e%2e/etc/passwd", "//index.html", "*", "http://x/"])
def test_what_is_not_there_is_not_found(target):
    assert ask(f"GET {target}")[0] == "404 Not Found"


def test_ranges_and_validators():
    _, headers, _ = ask("GET /big.bin")
    status, part, body = ask("GET /big.bin", "Range: bytes=100-199")
    assert (status, part["Content-Range"], body) == ("206 Partial Content", f"bytes 100-199/{len(BIG)}", BIG[100:200])
    assert ask("GET /big.bin", "Range: bytes=1023000-")[2] == BIG[1_023_000:] and ask("GET /big.bin", "Range: bytes=-7")[2] == BIG[-7:]
    assert ask("GET /big.bin", f"Range: bytes={len(BIG)}-")[0] == "416 Range Not Satisfiable"
    assert ask("GET /big.bin", "Range: bytes=5-9", 'If-Range: "other"')[0] == "200 OK"
    assert ask("GET /big.bin", f"If-None-Match: {headers['ETag']}")[0] == "304 Not Modified"
    for strange in ("bytes=a-b", "lines=1-2", "bytes=1-2,5-6", "bytes=7"):
        assert ask("GET /big.bin", f"Range: {strange}")[0] == "200 OK"


def test_a_connection_is_kept_until_the_client_has_enough():
    twice = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n" * 2
    assert exchange(twice).count(b"200 OK") == 2
    assert exchange(b"GET / HTTP/1.1\r\nConnection: close\r\n\r\n" + twice).count(b"200 OK") == 1
    assert exchange(b"GET / HTTP/1.0\r\n\r\n" + twice).count(b"200 OK") == 1


def test_what_is_no_request_is_refused_and_closed():
    assert b"405" in exchange(b"POST / HTTP/1.1\r\nContent-Length: 0\r\n\r\n")
    assert b"400" in exchange(b"GET / HTTP/1.1\r\nContent-Length: 5\r\n\r\nhello")
    assert b"400" in exchange(b"GET / HTTP/1.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    assert b"400" in exchange(b"nonsense\r\n\r\n") and b"400" in exchange(b"GET / HTTP/1.1\r\nno colon\r\n\r\n")
    assert exchange(b"GET / HTTP/1.1\r\n" + b"a: b\r\n" * 5_000) == b""
    assert exchange(b"") == b""


def test_an_archive_without_a_file_is_no_site():
    with pytest.raises(ValueError):
        pages.Site(archive({}))
    with pytest.raises(Exception):
        pages.Site(b"this is no archive")
