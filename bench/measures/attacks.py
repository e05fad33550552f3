"""Runs the escape battery's attacks under any launcher, and says which it contains.

The attacks and their protocol are in `crates/bento-jail/tests/escapes/attacks/README.md`. Without walls, for a look at one of them:

    python3 bench/measures/attacks.py [--jail PROGRAM --spec FILE] [NAME…]
"""

import json
import os
import selectors
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path

HERE = Path(__file__).resolve().parents[2] / "crates/bento-jail/tests/escapes"
PYTHON = "/usr/bin/python3.11"

NOBODY = 65534
"""The ordinary user that root tries everything as once more."""

SECONDS_MAX = 30
"""Longest life of an attack."""

END_SECONDS_MAX = 5
"""How long an attack may outlive its launcher."""

BOUNDS = {
    "memory_bytes": 256 << 20,
    "scratch_bytes": 4 << 20,
    "inodes": 64,
    "cpu_seconds": 2,
    "processes": 16,
    "descriptors": 64,
}
"""What a launcher is told to enforce, and what bombs take twice."""


@dataclass(frozen=True)
class Attack:
    """One line of the table."""

    name: str
    family: str
    ends: str
    bare: str
    opens: tuple[str, ...]

    def source(self) -> str:
        """What Python is given."""
        parts = [HERE / "attacks/prelude.py", HERE / f"attacks/{self.name}.py"]
        return "".join(part.read_text() for part in parts) + "\ndone()\n"

    def ways(self) -> list["Attack"]:
        """The attack as it is, and where calls are to be opened for it, first without them."""
        return [replace(self, opens=()), self] if self.opens else [self]


@dataclass(frozen=True)
class Result:
    """How an attack went."""

    contained: bool
    """Every forbidden act was refused, every allowed one worked, no target was touched."""

    escaped: bool
    """A forbidden act worked: not the same as not contained, as an attack may also fail to come up."""

    why: str
    """All that was said, for people."""


def table() -> list[Attack]:
    """All attacks, in the table's order."""
    attacks = []
    for line in (HERE / "attacks/table").read_text().splitlines():
        words = line.split()
        if words and not line.startswith("#"):
            attacks.append(Attack(*words[:4], tuple(words[4:])))
    return attacks


class Launcher:
    """What starts an attack. A subclass says how; one that only puts words in front overrides `words`."""

    name = "no isolation"
    out = 1
    """The descriptor on which the attack tells its lines."""

    scratch = "/tmp"
    """Where it may write, as it is called inside."""

    directory = "/"
    """Where the launcher is started."""

    def fresh(self) -> AbstractContextManager:
        """What is made for one attack and taken away after it, for launchers that need such."""
        return nullcontext()

    def words(self, words: list[str], attack: Attack) -> list[str]:
        """The command line that starts these words inside."""
        return words

    def start(self, words: list[str], attack: Attack, user: dict, inherited: int, environment: dict) -> tuple[subprocess.Popen, int]:
        """Starts these words inside, careless with what it inherits: the launcher's process, and a descriptor to read lines from."""
        reading, writing = os.pipe()
        # One pipe, the launcher's own standard output. Its errors go the same way, as talk.
        process = subprocess.Popen(
            self.words(words, attack),
            stdin=subprocess.DEVNULL,
            stdout=writing,
            stderr=writing,
            pass_fds=(inherited,),
            env=environment,
            cwd=self.directory,
            start_new_session=True,
            **user,
        )
        os.close(writing)
        return process, reading


class Bare(Launcher):
    """No isolation at all: plain Python, in a directory of its own."""

    def fresh(self) -> AbstractContextManager:
        """A new directory each time, open to the user who runs the attack."""
        directory = tempfile.TemporaryDirectory(prefix="bento-bare-", dir="/var/tmp", ignore_cleanup_errors=True)
        self.directory = self.scratch = directory.name
        os.chmod(self.scratch, 0o1777)
        return directory


class Ours(Launcher):
    """`bento-jail`, with the spec that its example `spec` prints."""

    name = "bento-jail"
    out = 3

    def __init__(self, program: Path, spec: dict) -> None:
        self._program = str(program)
        self._spec = spec

    def start(self, words: list[str], attack: Attack, user: dict, inherited: int, environment: dict) -> tuple[subprocess.Popen, int]:
        """As bentod does it."""
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        # The reports are of no interest here, but who reads them holds the jail's life: the pipe ends with this object's process.
        process = subprocess.Popen(
            [self._program],
            stdin=theirs,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            pass_fds=(inherited,),
            env=environment,
            cwd="/",
            start_new_session=True,
            **user,
        )
        theirs.close()
        bounds = dict(BOUNDS)
        spec = {
            **self._spec,
            "program": words[0],
            "arguments": words[1:],
            "scratch": {"bytes": bounds.pop("scratch_bytes"), "inodes": bounds.pop("inodes")},
            **bounds,
            "syscalls": self._spec["syscalls"] + list(attack.opens),
        }
        ours.send(json.dumps(spec).encode())
        return process, ours.detach()


def run(attack: Attack, launcher: Launcher, ordinary: bool = False) -> Result:
    """Runs one attack, `ordinary` as an ordinary user (which takes root)."""
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if ordinary else {}
    words = [PYTHON, "-I", "-S", "-c", (HERE / "outside/world.py").read_text()]
    outside = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, start_new_session=True, **user)
    try:
        with launcher.fresh():
            return _run(attack, launcher, user, outside)
    finally:
        # Its input's end is its own, after it has cleared up.
        outside.stdin.close()
        try:
            outside.wait(SECONDS_MAX)
        except subprocess.TimeoutExpired:
            outside.kill()
            outside.wait()
        outside.stdout.close()


def _run(attack: Attack, launcher: Launcher, user: dict, outside: subprocess.Popen) -> Result:
    world = json.loads(outside.stdout.readline())
    secret = Path(world["secret_file"]).read_text()
    inherited = os.open(world["secret_file"], os.O_RDONLY)
    world.update(out=launcher.out, scratch=launcher.scratch, bounds=BOUNDS)
    words = [PYTHON, "-I", "-S", "-B", "-c", attack.source(), json.dumps(world)]
    environment = {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8", "BENTO_BATTERY_SECRET": secret}
    process, reading = launcher.start(words, attack, user, inherited, environment)
    os.close(inherited)
    try:
        said, ended = _listen(attack, process, reading)
    finally:
        _kill(process)
        os.close(reading)
    outside.stdin.close()
    touched = json.loads(outside.stdout.readline())
    return _judge(attack, said, ended, touched)


def _listen(attack: Attack, process: subprocess.Popen, reading: int) -> tuple[list[str], bool]:
    """What the attack says, and whether it came to an end by itself (or with its launcher, where that is killed)."""
    text, end = b"", time.monotonic() + SECONDS_MAX
    was_killed = False
    with selectors.DefaultSelector() as selector:
        selector.register(reading, selectors.EVENT_READ)
        while time.monotonic() < end:
            if not selector.select(max(0.0, end - time.monotonic())):
                break
            try:
                chunk = os.read(reading, 65536)
            except ConnectionResetError:
                chunk = b""
            if not chunk:
                return text.decode(errors="replace").splitlines(), True
            # What floods is not kept: the first lines are what counts.
            text = (text + chunk)[: 1 << 20]
            if attack.ends == "killed" and not was_killed and b"ready\n" in text:
                process.kill()
                was_killed, end = True, time.monotonic() + END_SECONDS_MAX
    return text.decode(errors="replace").splitlines(), False


def _kill(process: subprocess.Popen) -> None:
    """Ends a launcher and all of its session."""
    for kill in (lambda: os.killpg(process.pid, signal.SIGKILL), process.kill):
        try:
            kill()
        except ProcessLookupError:
            pass  # It has ended.
    process.wait()
    if process.stdout:
        process.stdout.close()


def _judge(attack: Attack, said: list[str], ended: bool, touched: list[str]) -> Result:
    def has(*starts: str) -> bool:
        return any(line.startswith(starts) for line in said)

    escaped = has("forbidden: escaped") or bool(touched) or (attack.ends in ("dies", "killed") and has("allowed: ok") and not ended)
    held = {
        "says": has("forbidden: contained"),
        "dies": ended and (not has("forbidden:") or has("forbidden: contained")),
        "killed": ended and (has("ready") or has("forbidden: contained")),
    }[attack.ends]
    contained = held and not escaped and has("allowed: ok") and not has("forbidden: invalid", "allowed: failed")
    parts = [*said[:20], "" if ended else "it did not end", f"touched: {', '.join(touched)}" if touched else ""]
    return Result(contained, escaped, " | ".join(part for part in parts if part) or "it said nothing")


def _main() -> int:
    import argparse

    parser = argparse.ArgumentParser(description="Runs attacks and says how each went, without walls or under a bento-jail.")
    parser.add_argument("--jail", metavar="BENTO_JAIL", help="the program; without it there are no walls")
    parser.add_argument("--spec", help="what the example `spec` of bento-jail printed, in a file")
    parser.add_argument("names", nargs="*", metavar="NAME")
    given = parser.parse_args()
    launcher = Ours(Path(given.jail), json.loads(Path(given.spec).read_text())) if given.jail else Bare()
    good = True
    for attack in table():
        if not given.names or attack.name in given.names:
            for ordinary in [False, True] if os.geteuid() == 0 else [False]:
                result = run(attack, launcher, ordinary)
                good &= result.contained
                word = "contained" if result.contained else "escaped" if result.escaped else "-"
                print(f"{attack.name:24} {'ordinary' if ordinary else 'self':9} {word:9} {result.why}", flush=True)
    return 0 if good else 1


if __name__ == "__main__":
    sys.exit(_main())
