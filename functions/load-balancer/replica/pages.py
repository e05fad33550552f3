"""A static site out of a tar archive, served by HTTP/1.1 over streams.

It knows GET and HEAD, one range, validators and kept connections, and nothing that changes anything.
"""

import hashlib
import io
import socket
import tarfile
import time
import urllib.parse

HEAD_BYTES_MAX = 8 * 1024
"""Longest head of a request."""

IDLE_SECONDS = 30.0
"""How long a connection may say nothing before it is closed."""

FILES_MAX = 10_000
"""Most files of a site."""

PIECE_BYTES = 64 * 1024
"""What is sent at once: so much is counted before the rest is on its way."""


class Site:
    """The files of an archive, by path."""

    def __init__(self, archive: bytes) -> None:
        self.files: dict[str, tuple[memoryview, str]] = {}
        self._kinds: object = None
        whole = memoryview(archive)
        with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as members:
            for member in members:
                if not member.isfile():
                    continue
                if len(self.files) == FILES_MAX:
                    raise ValueError(f"a site has at most {FILES_MAX} files")
                path = "/" + member.name.removeprefix("./").lstrip("/")
                content = whole[member.offset_data : member.offset_data + member.size]
                self.files[path] = content, f'"{hashlib.sha256(content).hexdigest()[:32]}"'
        if not self.files:
            raise ValueError("there is no file in the site's archive")

    def find(self, target: str) -> "tuple[str, memoryview, str] | None":
        """The file that a request's target means: its path, content and validator."""
        path = urllib.parse.unquote(target.partition("?")[0].partition("#")[0])
        # A directory of an archive is nothing but a beginning of names, so there is no way out of it.
        for name in (path, path.rstrip("/") + "/index.html") if path.endswith("/") else (path, path + "/index.html"):
            if name in self.files:
                return name, *self.files[name]
        return None

    def kind(self, path: str) -> str:
        """The type of what is at a path."""
        import mimetypes

        if self._kinds is None:
            # Its own table, not the machine's: all replicas say the same.
            self._kinds = mimetypes.MimeTypes()
        kind = self._kinds.guess_type(path)[0] or "application/octet-stream"
        return f"{kind}; charset=utf-8" if kind.startswith("text/") else kind


def serve(stream: socket.socket, site: Site, sent: object) -> None:
    """Answers requests until the client has enough. `sent(bytes)` hears what was sent, as it is."""
    stream.settimeout(IDLE_SECONDS)
    buffer = bytearray()
    while True:
        head = _head(stream, buffer)
        if head is None:
            return
        try:
            keep = _answer(stream, site, head, sent)
        except _Bad as bad:
            _say(stream, bad.status, {"Connection": "close"}, bad.reason.encode() + b"\n", False, sent)
            return
        if not keep:
            return


class _Bad(Exception):
    def __init__(self, status: str, reason: str) -> None:
        self.status, self.reason = status, reason


def _head(stream: socket.socket, buffer: bytearray) -> bytes | None:
    """The next request's head; nothing when the client has gone, says nothing, or says too much."""
    end = time.monotonic() + IDLE_SECONDS
    while (at := buffer.find(b"\r\n\r\n")) < 0:
        if len(buffer) > HEAD_BYTES_MAX or time.monotonic() > end:
            return None
        try:
            piece = stream.recv(HEAD_BYTES_MAX)
        except (TimeoutError, ConnectionError):
            return None
        if not piece:
            return None
        buffer += piece
    head = bytes(buffer[:at])
    del buffer[: at + 4]
    return head


def _answer(stream: socket.socket, site: Site, head: bytes, sent: object) -> bool:
    first, *lines = head.decode("latin-1").split("\r\n")
    words = first.split(" ")
    if len(words) != 3 or not words[2].startswith("HTTP/1."):
        raise _Bad("400 Bad Request", "this is no request of HTTP/1.1")
    headers = {}
    for line in lines:
        name, colon, value = line.partition(":")
        if not colon:
            raise _Bad("400 Bad Request", "a header has no colon")
        headers[name.strip().lower()] = value.strip()
    method, target, version = words
    if method not in ("GET", "HEAD"):
        raise _Bad("405 Method Not Allowed", "there is only GET and HEAD")
    if headers.get("content-length", "0") != "0" or "transfer-encoding" in headers:
        raise _Bad("400 Bad Request", "a request has no body here")
    tokens = headers.get("connection", "").lower()
    keep = "close" not in tokens and (version != "HTTP/1.0" or "keep-alive" in tokens)
    also = {"Connection": "keep-alive" if keep else "close"}
    bodiless = method == "HEAD"
    found = site.find(target)
    if found is None:
        lost = site.files.get("/404.html")
        body = lost[0] if lost else b"There is nothing here.\n"
        kind = "text/html; charset=utf-8" if lost else "text/plain; charset=utf-8"
        _say(stream, "404 Not Found", also | {"Content-Type": kind}, body, bodiless, sent)
        return keep
    path, content, validator = found
    also |= {"Content-Type": site.kind(path), "ETag": validator, "Accept-Ranges": "bytes"}
    if headers.get("if-none-match") in (validator, "*"):
        _say(stream, "304 Not Modified", also, b"", True, sent)
        return keep
    part = _range(headers, validator, len(content))
    if part is None:
        _say(stream, "200 OK", also, content, bodiless, sent)
    elif part[0] >= part[1]:
        _say(stream, "416 Range Not Satisfiable", also | {"Content-Range": f"bytes */{len(content)}"}, b"", bodiless, sent)
    else:
        start, end = part
        _say(stream, "206 Partial Content", also | {"Content-Range": f"bytes {start}-{end - 1}/{len(content)}"}, content[start:end], bodiless, sent)
    return keep


def _range(headers: dict[str, str], validator: str, size: int) -> tuple[int, int] | None:
    """From where to where, if a part is asked for and of this version; the end is not in it."""
    unit, _, spans = headers.get("range", "").partition("=")
    first, dash, last = spans.partition("-")
    if unit != "bytes" or not dash or "," in spans or headers.get("if-range", validator) != validator:
        return None
    try:
        if not first:
            return max(0, size - int(last)), size
        return int(first), min(size, int(last) + 1) if last else size
    except ValueError:
        return None


def _say(stream: socket.socket, status: str, headers: dict[str, str], body: "bytes | memoryview", bodiless: bool, sent: object) -> None:
    headers = {"Content-Length": str(len(body))} | headers
    if status.startswith("304"):
        del headers["Content-Length"]
    head = f"HTTP/1.1 {status}\r\n" + "".join(f"{name}: {value}\r\n" for name, value in headers.items()) + "\r\n"
    stream.sendall(head.encode("latin-1"))
    sent(len(head))
    if bodiless:
        return
    for start in range(0, len(body), PIECE_BYTES):
        piece = body[start : start + PIECE_BYTES]
        stream.sendall(piece)
        sent(len(piece))
