"""A guest under qemu's emulation, without a network, and the way to it that a host's kernel would be."""

from __future__ import annotations

import contextlib
import queue
import re
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

# Emulation is slow, and the machine may be busy.
BOOT_S = 240

# As crates/bento-node/src/vsock.rs has them.
SESSIONS, TOR, DIRECT, COLLATERAL = 8118, 8119, 8120, 8121


@contextlib.contextmanager
def ended(process: subprocess.Popen) -> Iterator[subprocess.Popen]:
    """Ends it, whatever happens."""
    try:
        yield process
    finally:
        process.send_signal(signal.SIGTERM)
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Guest:
    """What it prints, line by line."""

    def __init__(self, process: subprocess.Popen) -> None:
        self.process, self.said = process, []
        self.lines: queue.Queue[str | None] = queue.Queue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        for line in self.process.stdout:
            # A console's own signs.
            self.lines.put(re.sub(r"\x1b[\[c][0-9;?]*[A-Za-z]?|\r", "", line.decode(errors="replace")).rstrip("\n"))
        self.lines.put(None)

    def says(self, awaited: str, within: float = BOOT_S) -> str:
        """Waits for a line with this, unless it was there already; what is behind it."""
        for line in self.said:
            if awaited in line:
                return line.partition(awaited)[2].strip()
        deadline = time.monotonic() + within
        while True:
            try:
                line = self.lines.get(timeout=max(0, deadline - time.monotonic()))
            except queue.Empty:
                line = None
            if line is None:
                raise AssertionError(f"the guest did not say {awaited!r}, but:\n" + "\n".join(self.said[-60:]))
            self.said.append(line)
            if awaited in line:
                return line.partition(awaited)[2].strip()

    def ends(self, within: float = BOOT_S) -> None:
        """Waits until it has switched itself off."""
        assert self.process.wait(within) == 0
        while (line := self.lines.get(timeout=10)) is not None:
            self.said.append(line)


@contextlib.contextmanager
def booted(image: Path, *arguments: str) -> Iterator[Guest]:
    """Boots an image as it is: kernel, root and command line, with the runner's own console as the only device."""
    root, = image.glob("*initramfs")
    # One processor: with two, emulation now and then runs into a breakpoint that the kernel, which patches itself, had set and taken away on the other one.
    command = ["qemu-system-x86_64", "-accel", "tcg", "-machine", "q35", "-cpu", "max", "-smp", "1", "-m", "1024", "-nodefaults", "-nic", "none"]
    command += ["-display", "none", "-no-reboot", "-serial", "stdio", "-kernel", image / "vmlinuz", "-initrd", root, "-append", (image / "cmdline").read_text(), *arguments]
    process = subprocess.Popen([str(word) for word in command], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)
    with ended(process):
        yield Guest(process)


def pour(one: socket.socket, other: socket.socket) -> None:
    """Carries one direction to its end."""
    with contextlib.suppress(OSError):
        while chunk := one.recv(65536):
            other.sendall(chunk)
        other.shutdown(socket.SHUT_WR)


@contextlib.contextmanager
def vsock(program: Path, directory: Path, sockets: Path) -> Iterator[list[str]]:
    """vhost-device-vsock in place of a host's kernel: streams of the guest go to sockets named after the port, and one that begins with CONNECT goes to the guest.

    Gives qemu's arguments. The node's directory is served as `vsock` in its bentod.toml would serve it.
    """
    device, way = sockets / "device", sockets / "vm"
    process = subprocess.Popen([str(program), "--vm", f"guest-cid=4,socket={device},uds-path={way}"], stdin=subprocess.DEVNULL, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    with ended(process), socket.socket(socket.AF_UNIX) as listener:
        for name, port in (("tor", TOR), ("direct", DIRECT), ("collateral", COLLATERAL)):
            Path(f"{way}_{port}").symlink_to(directory / f"{name}.sock")
        listener.bind(str(directory / "sessions.sock"))
        listener.listen()

        def carry(near: socket.socket) -> None:
            with near, socket.socket(socket.AF_UNIX) as far, contextlib.suppress(OSError):
                far.connect(str(way))
                far.sendall(f"CONNECT {SESSIONS}\n".encode())
                answer = b""
                while not answer.endswith(b"\n"):
                    if not (byte := far.recv(1)):
                        return
                    answer += byte
                back = threading.Thread(target=pour, args=(far, near), daemon=True)
                back.start()
                pour(near, far)
                back.join()

        def accept() -> None:
            with contextlib.suppress(OSError):
                while True:
                    near, _ = listener.accept()
                    threading.Thread(target=carry, args=(near,), daemon=True).start()

        threading.Thread(target=accept, daemon=True).start()
        deadline = time.monotonic() + 10
        while not device.exists():
            assert process.poll() is None and time.monotonic() < deadline, "vhost-device-vsock did not start"
            # It says nothing when it listens.
            time.sleep(0.02)
        yield ["-object", "memory-backend-memfd,id=memory,size=1024M,share=on", "-machine", "memory-backend=memory",
               "-chardev", f"socket,id=vsock,path={device}", "-device", "vhost-user-vsock-pci,chardev=vsock"]
