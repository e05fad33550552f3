"""The image boots to the runner, under emulation, which is no confidential virtual machine: what can be seen of it without such hardware."""

from __future__ import annotations

import base64
import contextlib
import os
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from conftest import IMAGE, signed
from guest import booted, ended, vsock

ROOT = Path(__file__).resolve().parents[4]

POLICY = """
[offers]
image = ["python3", "web"]
egress = ["direct"]
memory = "256 MiB"
connect = ["accept 127.0.0.1:*"]
"""

# In an emulated machine all takes long.
LIMITS = '[limits]\nhead = "60 s"\nload = "60 s"\nconnect = "60 s"\n'

CARRIED = '''
def carried(api, port: int) -> None:
    """Says what a server says."""
    stream = api.connect("127.0.0.1", port)
    while chunk := stream.recv(1000):
        api.output.write(chunk)


def walls(api) -> None:
    """Tries what a jail is to stop, and what it allows."""
    import os
    import socket
    import tempfile

    tries = {
        "write in /tmp": lambda: tempfile.TemporaryFile().write(b"x"),
        "see init": lambda: os.listdir("/proc/1"),
        "read the configuration": lambda: open("/etc/bento/conclave.toml").read(),
        "open vsock": lambda: socket.socket(socket.AF_VSOCK, socket.SOCK_STREAM),
        "ask for evidence": lambda: os.mkdir("/sys/kernel/config/tsm/report/mine"),
        "be root": lambda: os.setuid(0),
    }
    for name, act in tries.items():
        try:
            act()
            api.output.write(f"{name}: done\\n".encode())
        except OSError:
            api.output.write(f"{name}: refused\\n".encode())
'''


def test_the_image_boots_to_the_runner_which_says_that_nothing_attests_here_and_does_not_go_on(built) -> None:  # noqa: ANN001
    """The very image that is measured. Emulation has neither TDX nor SEV-SNP."""
    image, _ = built()
    with booted(image) as guest:
        guest.says("bento: starting bento-conclave run --vsock")
        guest.says("Error: there is no hardware that attests")
        assert "confidential virtual machine" in guest.says("Hint: ")
        guest.says("bento: the runner ended with status 1")
        guest.ends()
        said = "\n".join(guest.said)
    # The way to the host is there, and nobody listens; the modules of both kinds of hardware were tried.
    assert "loaded vmw_vsock_virtio_transport" in said and "loaded tsm" in said
    assert "listening for the host" not in said and "SIMULATED" not in said
    assert not any(f"loaded {name}" in said for name in ("tdx-guest", "sev-guest"))


def free_port() -> int:
    """One of loopback's."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


@pytest.fixture
def greeter() -> Iterator[int]:
    """A server that says one thing; its port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            while True:
                try:
                    stream, _ = listener.accept()
                except OSError:
                    return
                with stream:
                    stream.sendall(b"seen from the host\n" * 1000)

        threading.Thread(target=serve, daemon=True).start()
        yield listener.getsockname()[1]
        listener.shutdown(socket.SHUT_RDWR)


def test_a_function_runs_in_the_guest_of_a_node_reached_through_vsock_alone(built, programs: Path, greeter: int, tmp_path: Path) -> None:  # noqa: ANN001
    """The same image with the simulator in place of the runner: verify, run, a connection out by the host, and the walls."""
    device = os.environ.get("BENTO_VSOCK_DEVICE")
    if not device:
        pytest.skip("SKIPPED: BENTO_VSOCK_DEVICE does not say where vhost-device-vsock is; ./check image installs it")
    configuration, host, directory, sockets, given = (tmp_path / name for name in ("configuration", "host", "run", "vm", "given"))
    for made in (configuration, host, directory, sockets, given):
        made.mkdir()
    images = "[images.python3]\n[images.web]\npackages = [\"brotli\", \"_brotli\", \"idna\", \"webencodings\"]\n"
    (configuration / "conclave.toml").write_text(f'name = "Inside"\nstate = "/var/lib/bento-conclave"\npolicy = "policy.toml"\n{images}{LIMITS}')
    (configuration / "policy.toml").write_text(POLICY)
    (host / "policy.toml").write_text(POLICY.replace(', "web"', ""))
    place = f"127.0.0.1:{free_port()}"
    (host / "bentod.toml").write_text(
        f'name = "Host"\nstate = "state"\nlisten = "{place}"\n[tor]\noff = true\n[images.python3]\n[conclave]\ndirectory = "{directory}"\n{LIMITS}'
    )
    function = tmp_path / "carried"
    function.mkdir()
    (function / "carried.py").write_text(CARRIED)
    (function / "manifest.toml").write_text(
        'name = "carried"\ncode = "carried.py"\nmethods = ["carried", "walls"]\n'
        f'[needs]\nimage = "web"\nmemory = "64 MiB"\ncalls = ["net.connect"]\negress = "direct"\nconnect = ["accept 127.0.0.1:{greeter}"]\ntraffic = "1 MiB"\n'
    )

    def bento(*arguments: str) -> subprocess.CompletedProcess[str]:
        environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path / "config"), "XDG_STATE_HOME": str(tmp_path / "kept"), "XDG_DATA_HOME": str(tmp_path / "kept")}
        return subprocess.run([programs / "bento", *arguments], capture_output=True, text=True, timeout=240, check=False, env=environment)

    image, _ = built("--simulated", "--configuration", str(configuration))
    with contextlib.ExitStack() as stack, vsock(Path(device), directory, sockets) as arguments, booted(image, *arguments) as guest:
        guest.says("bento: SIMULATED. This image protects from nobody")
        guest.says("every wall stands")
        guest.says("listening for the host")
        for name in ("root.der", "measurements"):
            (given / name).write_bytes(base64.b64decode(guest.says(f"bento: SIMULATED {name} ")))
        # Only now: this device does not get over a stream for a guest that has not started.
        with (tmp_path / "bentod.log").open("w") as log:
            node = subprocess.Popen([programs / "bentod", "run", "--config", host / "bentod.toml"], stdin=subprocess.DEVNULL, stderr=log)
        stack.enter_context(ended(node))
        deadline = time.monotonic() + 60
        while "the conclave answers" not in (tmp_path / "bentod.log").read_text():
            assert node.poll() is None and time.monotonic() < deadline, (tmp_path / "bentod.log").read_text()
            time.sleep(0.05)

        simulator = ("--simulator-protects-nobody", str(given))
        conclave = ("--require-conclave", *simulator)
        verified = bento("verify", place, *simulator)
        assert verified.returncode == 0 and "simulated-tdx" in verified.stdout, verified
        # Whoever asks for hardware is told that this is none.
        real, _ = built()
        measured = subprocess.run([IMAGE / "measure", real], capture_output=True, text=True, check=True).stdout
        listed, publisher = signed(measured, tmp_path)
        refused = bento("verify", place, "--measurements", str(listed), "--publisher", publisher)
        assert refused.returncode == 4 and "conclave" in refused.stderr, refused
        greeted = bento("run", place, str(ROOT / "functions/hello"), "hello", "name=Ada", *conclave)
        assert (greeted.returncode, greeted.stdout) == (0, "Hello, Ada!\n"), greeted
        carried = bento("run", place, str(function), "carried", f"port={greeter}", *conclave)
        assert (carried.returncode, carried.stdout) == (0, "seen from the host\n" * 1000), carried
        elsewhere = bento("run", place, str(function), "carried", f"port={free_port()}", *conclave)
        assert elsewhere.returncode == 1 and not elsewhere.stdout, elsewhere
        walls = bento("run", place, str(function), "walls", *conclave)
        assert walls.stdout.splitlines()[0] == "write in /tmp: done" and walls.stdout.count(": refused\n") == 5, walls
