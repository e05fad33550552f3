"""A node that speaks the frames and nothing else: it starts the runtime as a process, without a jail."""

import json
import os
import queue
import select
import signal
import socket
import threading
from collections.abc import Callable
from pathlib import Path

from bento.testing import FakeApi
from bento.testing.answers import Failure

PYTHON = "/usr/bin/python3.11"
HOME = Path(__file__).resolve().parent.parent

SECONDS = 30.0
"""Longest wait for anything in a test."""


class Refusal(Exception):
    """Makes a handler answer with an error."""

    def __init__(self, kind: str, text: str = "because the test says so") -> None:
        super().__init__(text)
        self.kind = kind


class Running:
    """An invocation as the node sees it."""

    def __init__(self, number: int, stream: socket.socket, own: socket.socket) -> None:
        self.number = number
        self.stream = stream
        # Of the function's end: what the node writes there comes between what the function writes.
        self.own = own
        self.report: queue.Queue[dict] = queue.Queue()
        self.logs: list[str] = []
        self.length: int | None = None
        self.kind: tuple[str, str | None] | None = None
        stream.settimeout(SECONDS)

    def read(self) -> bytes:
        """All output."""
        parts = []
        while part := self.stream.recv(65_536):
            parts.append(part)
        return b"".join(parts)

    def done(self) -> dict:
        """How it ended."""
        return self.report.get(timeout=SECONDS)


class Node:
    """One runtime process and the node's end of its socket."""

    def __init__(
        self, home: Path, *, before: str = "", environment: dict[str, str] | None = None, hosts: dict | None = None, nodes: dict | None = None
    ) -> None:
        home.mkdir(parents=True)
        self.directory = home / "function"
        self.hosts = hosts or {}
        self.world = FakeApi(nodes=nodes)
        self.frames: queue.Queue[dict] = queue.Queue()
        self.calls: queue.Queue[dict] = queue.Queue()
        self.manual: set[str] = set()
        self._running: dict[int, Running] = {}
        self._number = 0
        self._socket, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # As the jail starts it, but for the places of the package and the bundle.
        code = f"import sys; sys.path.insert(0, {str(HOME)!r}); {before}from bento import runtime; runtime.main({str(self.directory)!r})"
        self.pid = os.posix_spawn(
            PYTHON,
            [PYTHON, "-I", "-S", "-B", "-c", code],
            {
                "PATH": "/usr/bin",
                "HOME": str(home),
                "LANG": "C.UTF-8",
                "MALLOC_ARENA_MAX": "1",
                **(environment or {}),
            },
            file_actions=[
                *((os.POSIX_SPAWN_OPEN, number, "/dev/null", os.O_RDWR, 0) for number in (0, 1, 2)),
                (os.POSIX_SPAWN_DUP2, theirs.fileno(), 3),
            ],
        )
        theirs.close()
        self._pidfd = os.pidfd_open(self.pid)
        self._thread = threading.Thread(target=self._read, daemon=True)
        self._thread.start()

    def send(self, frame: dict, stream: socket.socket | None = None) -> None:
        """Sends a frame, and hands over the stream."""
        data = json.dumps(frame).encode()
        if stream is None:
            self._socket.send(data)
        else:
            socket.send_fds(self._socket, [data], [stream.fileno()])
            stream.close()

    def load(self, files: dict[str, bytes], methods: tuple[str, ...] = (), code: str = "function.py", cut: int = 0) -> dict:
        """Sends a bundle (without its last `cut` bytes); the answer."""
        ours, theirs = socket.socketpair()
        order = {"code": code, "methods": list(methods), "files": [[name, len(data)] for name, data in files.items()]}
        self.send({"load": order}, theirs)
        data = b"".join(files.values())
        try:
            ours.sendall(data[: len(data) - cut])
        except BrokenPipeError:
            pass  # It has found a fault already.
        ours.close()
        return self.frames.get(timeout=SECONDS)

    def invoke(self, method: str, seconds: float = 100.0, **arguments: object) -> Running:
        """Starts an invocation."""
        self._number += 1
        ours, theirs = socket.socketpair()
        running = self._running[self._number] = Running(self._number, ours, theirs.dup())
        self.send({"invoke": self._number, "method": method, "arguments": arguments, "seconds": seconds}, theirs)
        return running

    def run(self, method: str, **arguments: object) -> tuple[bytes, dict]:
        """Invokes without input: the output and the end."""
        running = self.invoke(method, **arguments)
        running.stream.shutdown(socket.SHUT_WR)
        return running.read(), running.done()

    def call(self) -> dict:
        """The next call that is answered by hand."""
        return self.calls.get(timeout=SECONDS)

    def answer(self, call: dict, value: object = None, stream: socket.socket | None = None) -> None:
        """Answers a call."""
        self.send({"answer": call["call"], "ok": value}, stream)

    def deny(self, call: dict, kind: str) -> None:
        """Answers a call with an error."""
        self.send({"answer": call["call"], "error": {"kind": kind, "text": "because the test says so"}})

    def wait(self) -> int:
        """Waits for the process to end by itself: its exit status, negative for a signal."""
        ended, _, _ = select.select([self._pidfd], [], [], SECONDS)
        assert ended, "the process does not end"
        _, status = os.waitpid(self.pid, 0)
        self.pid = 0
        return os.waitstatus_to_exitcode(status)

    def close(self) -> int | None:
        """Closes the socket; the process has to end."""
        if self.pid == 0:
            return None
        # Shut down first: the reading thread would otherwise keep the socket open.
        self._socket.shutdown(socket.SHUT_RDWR)
        self._thread.join()
        self._socket.close()
        try:
            return self.wait()
        finally:
            if self.pid:
                os.kill(self.pid, signal.SIGKILL)
                os.waitpid(self.pid, 0)
            os.close(self._pidfd)
            for running in self._running.values():
                running.stream.close()

    def _read(self) -> None:
        while True:
            try:
                data = self._socket.recv(65_537)
            except OSError:
                data = b""
            if not data:
                # The end of the process is the end of its streams.
                for running in list(self._running.values()):
                    running.own.close()
                return
            assert len(data) <= 65_536
            frame = json.loads(data)
            if "done" in frame:
                running = self._running[frame.pop("done")]
                running.own.close()
                running.report.put(frame)
            elif "call" not in frame:
                self.frames.put(frame)
            elif frame["name"] in self.manual:
                self.calls.put(frame)
            else:
                threading.Thread(target=self._serve, args=(frame,), daemon=True).start()

    def _serve(self, call: dict) -> None:
        stream = None
        value: object = None
        running = self._running[call["invocation"]]
        arguments = call["arguments"]
        try:
            if call["name"] == "log":
                running.logs.append(arguments["text"])
            elif call["name"] == "output.length":
                running.length = arguments["bytes"]
            elif call["name"] == "output.type":
                running.kind = arguments["type"], arguments["name"]
            elif call["name"] == "store.send":
                value = self.world.kept.send(running.own.sendall, **arguments)
            elif call["name"] == "net.connect":
                value, stream = self._connect(arguments["host"], arguments["port"])
            else:
                # The rest is as in a test without a process: there it is the same node.
                value, stream = self.world._done(call["name"], arguments)
            self.answer(call, value, stream)
        except (Refusal, Failure) as refusal:
            self.deny(call, refusal.kind)
        except OSError:
            pass  # The runtime has gone.

    def _connect(self, host: str, port: int) -> tuple[dict, socket.socket]:
        target = self.hosts.get((host, port))
        if target is None:
            raise Refusal("resolve")
        if isinstance(target, str):
            raise Refusal(target)
        ours, theirs = socket.socketpair()
        if callable(target):
            threading.Thread(target=_play, args=(target, ours), daemon=True).start()
            return {"address": "192.0.2.7", "port": port}, theirs
        other = socket.create_connection(target, SECONDS)
        for one, two in ((ours, other), (other, ours)):
            threading.Thread(target=_copy, args=(one, two), daemon=True).start()
        return {"address": target[0], "port": target[1]}, theirs


def _play(server: Callable[[socket.socket], object], stream: socket.socket) -> None:
    with stream:
        server(stream)


def _copy(source: socket.socket, sink: socket.socket) -> None:
    try:
        while data := source.recv(65_536):
            sink.sendall(data)
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        pass  # One of them was closed.

