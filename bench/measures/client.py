"""The smallest client of a node: HTTP/1.1 on one kept-alive connection, with the time at which the first byte of output came.

Raw sockets, since `http.client` reads heads through a buffered file and would hide that time.
"""

import base64
import hashlib
import hmac
import json
import os
import select
import socket
import tarfile
import time
from pathlib import Path

from measures.programs import Trouble

PATIENCE_SECONDS = 60


class Answer:
    """What came back."""

    __slots__ = ("body", "first", "head", "length", "sent", "status", "trailer")

    def __init__(self) -> None:
        self.body = b""
        self.length = 0
        self.trailer = b""

    @property
    def seconds(self) -> float:
        """From the request's first byte to the body's first byte."""
        return self.first - self.sent


class Session:
    """One connection to a node."""

    def __init__(self, address: tuple[str, int]) -> None:
        self._socket = socket.create_connection(address, PATIENCE_SECONDS)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._rest = b""

    def __enter__(self) -> "Session":
        return self

    def __exit__(self, *_: object) -> None:
        self._socket.close()

    def ask(self, request: bytes, keep: bool = True) -> Answer:
        """Sends a request and reads its answer to the end. A body that is not kept is only counted."""
        answer = Answer()
        answer.sent = time.perf_counter()
        self._socket.sendall(request)
        data = self._until(self._rest, b"\r\n\r\n")
        head, _, data = data.partition(b"\r\n\r\n")
        answer.first = time.perf_counter()
        answer.status = int(head.split(b" ", 2)[1])
        answer.head = head.lower()
        _, there, length = answer.head.partition(b"\r\ncontent-length: ")
        if there:
            count = int(length.partition(b"\r\n")[0])
            if count and not data:
                data = self._more(data)
                answer.first = time.perf_counter()
            while len(data) < count:
                data = self._more(data)
            answer.body, self._rest = data[:count], data[count:]
            answer.length = count
        elif b"\r\ntransfer-encoding: chunked" in answer.head:
            self._chunks(answer, data, keep)
        else:
            self._rest = data
        return answer

    def begin(self, request: bytes) -> None:
        """Sends a request and does not wait for its answer."""
        self._socket.sendall(request)

    def said(self) -> bytes:
        """What has come since then, if anything."""
        there, _, _ = select.select([self._socket], [], [], 0)
        return self._socket.recv(65536) if there else b""

    def _chunks(self, answer: Answer, data: bytes, keep: bool) -> None:
        parts = []
        while True:
            data = self._until(data, b"\r\n")
            size, _, data = data.partition(b"\r\n")
            count = int(size.partition(b";")[0], 16)
            if count == 0:
                # The end of the trailer; without one, of the line after the last chunk.
                data = self._until(b"\r\n" + data, b"\r\n\r\n")
                answer.trailer, _, self._rest = data.partition(b"\r\n\r\n")
                answer.body = b"".join(parts)
                return
            while not data:
                data = self._more(data)
            if not answer.length:
                answer.first = time.perf_counter()
            while len(data) < count + 2:
                data = self._more(data)
            answer.length += count
            if keep:
                parts.append(data[:count])
            data = data[count + 2 :]

    def _until(self, data: bytes, mark: bytes) -> bytes:
        while mark not in data:
            data = self._more(data)
        return data

    def _more(self, data: bytes) -> bytes:
        came = self._socket.recv(65536)
        if not came:
            raise Trouble(f"the node closed the session after {data[-200:]!r}")
        return data + came


def request(method: str, path: str, headers: dict[str, str], body: bytes = b"") -> bytes:
    """A request's bytes."""
    lines = [f"{method} {path} HTTP/1.1", "Host: node", "TE: trailers", f"Content-Length: {len(body)}"]
    lines += [f"{name}: {value}" for name, value in headers.items()]
    return "\r\n".join([*lines, "", ""]).encode() + body


class Tokens:
    """A function's tokens, fresh."""

    def __init__(self) -> None:
        self.invocation = self._text("bento-invoke-", os.urandom(32))
        self.shutdown = self._text("bento-shutdown-", os.urandom(32))

    @staticmethod
    def _text(prefix: str, value: bytes) -> str:
        return prefix + base64.b32encode(value).decode().rstrip("=").lower()

    def _seal(self) -> str:
        # HKDF (RFC 5869) with SHA-256, no salt, 32 bytes: what the node keeps the function under.
        extracted = hmac.digest(bytes(32), self.invocation.encode(), "sha256")
        return self._text("bento-seal-", hmac.digest(extracted, b"bento seal 1\x01", "sha256"))

    def install(self, bundle: bytes) -> bytes:
        """The request that installs a function under them."""
        digest = {name: hashlib.sha256(token.encode()).hexdigest() for name, token in (("Invocation", self.invocation), ("Shutdown", self.shutdown))}
        headers = {f"Bento-{name}-Digest": value for name, value in digest.items()} | {"Bento-Seal": self._seal()}
        return request("POST", "/v1/functions", {**headers, "Content-Type": "application/x-tar"}, bundle)

    def invoke(self, method: str, arguments: dict) -> bytes:
        """The request that invokes it."""
        headers = {"Authorization": f"Bearer {self.invocation}", "Bento-Arguments": json.dumps(arguments)}
        return request("POST", f"/v1/invoke/{method}", headers)

    def end(self) -> bytes:
        """The request that ends it."""
        return request("DELETE", "/v1/function", {"Authorization": f"Bearer {self.shutdown}"})


def run(bundle: bytes, method: str, arguments: dict) -> bytes:
    """The request that installs, invokes and ends a function."""
    headers = {"Bento-Bundle-Length": str(len(bundle)), "Bento-Arguments": json.dumps(arguments)}
    return request("POST", f"/v1/run/{method}", headers, bundle)


def expect(answer: Answer, status: int, body: bytes | None = None) -> None:
    """Makes sure that what was measured was done."""
    returned = b"trailer" not in answer.head or b'{"outcome":"returned"}' in answer.trailer
    if answer.status != status or (body is not None and answer.body != body) or not returned:
        raise Trouble(f"the node answered {answer.status} {answer.body[:500]!r} {answer.trailer!r}, and not {status} {body!r}")


def bundle(directory: Path, note: str = "") -> bytes:
    """A function's directory as it travels. A note, as a comment at the end of the code, makes it a function never seen before."""
    files = {path.name: path.read_text() for path in sorted(directory.iterdir()) if path.suffix in (".py", ".toml")}
    if note:
        files = {name: f"{text}\n# {note}\n" if name.endswith(".py") else text for name, text in files.items()}
    return pack(files)


def pack(files: dict[str, str]) -> bytes:
    """Files as they travel."""
    archive = b""
    for name, text in files.items():
        content = text.encode()
        entry = tarfile.TarInfo(name)
        entry.size = len(content)
        archive += entry.tobuf(tarfile.USTAR_FORMAT) + content + bytes(-len(content) % tarfile.BLOCKSIZE)
    return archive + bytes(2 * tarfile.BLOCKSIZE)
