"""Builds and starts the programs that are measured, and surely ends them."""

import os
import re
import shutil
import signal
import subprocess
import tempfile
import time
from pathlib import Path

from measures.machine import ROOT

START_SECONDS_MAX = 60
"""A node without Tor listens within a second; its runtime is compiled before that."""

END_SECONDS_MAX = 15
"""A node gives running invocations ten seconds."""

POLICY = """\
[offers]
egress = ["direct"]
lifetime = "1 h"
"""


class Trouble(Exception):
    """The benchmark cannot go on. What happened, and perhaps a line of what to try."""


def build(*packages: str, examples: tuple[str, ...] = ()) -> Path:
    """Builds packages for release; the directory of their programs, with examples in `examples` below it. Where `BENTO_BIN` names
    one, takes what is there."""
    given = os.environ.get("BENTO_BIN")
    if given:
        print(f"programs   those in BENTO_BIN, {given}, which may be of another commit", flush=True)
        return Path(given)
    target = os.environ.get("CARGO_TARGET_DIR") or str(Path.home() / ".cache/bento/target")
    words = ["cargo", "build", "--release", *(word for package in packages for word in ("-p", package))]
    began = time.monotonic()
    # An example by its name alone would be built without the programs.
    for chosen in [["--bins"], *(["--example", name] for name in examples)]:
        try:
            done = subprocess.run([*words, *chosen], cwd=ROOT, env={**os.environ, "CARGO_TARGET_DIR": target}, stderr=subprocess.PIPE, text=True)
        except FileNotFoundError:
            raise Trouble("there is no cargo here\nHint: install Rust, see rust-version in Cargo.toml") from None
        if done.returncode:
            raise Trouble(f"{' '.join([*words, *chosen])} failed\n{done.stderr}")
    print(f"build      release, {' '.join(packages)}, {time.monotonic() - began:.0f} s", flush=True)
    return Path(target) / "release"


class Program:
    """A running program, with what it says in a file. Ends with the block, and with this process however that ends."""

    def __init__(self, name: str, words: list[str], log: Path) -> None:
        self.name = name
        self.log = log
        # The kernel ends it when we die, even by SIGKILL; `setpriv` becomes the program, so the process is the same.
        setpriv = shutil.which("setpriv")
        prefix = [setpriv, "--pdeathsig", "TERM"] if setpriv else []
        with log.open("wb") as file:
            # Standard input is a pipe that nobody writes to: some programs end with it.
            self.process = subprocess.Popen(prefix + words, stdin=subprocess.PIPE, stdout=file, stderr=subprocess.STDOUT, start_new_session=True)

    def __enter__(self) -> "Program":
        return self

    def __exit__(self, *_: object) -> None:
        self.process.stdin.close()
        self.process.send_signal(signal.SIGTERM)
        try:
            self.process.wait(END_SECONDS_MAX)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def wait_for(self, pattern: str, seconds: float = START_SECONDS_MAX) -> re.Match:
        """Waits until it has said something, and finds that."""
        end = time.monotonic() + seconds
        while True:
            ended = self.process.poll() is not None
            said = self.log.read_text(errors="replace")
            found = re.search(pattern, said, re.MULTILINE)
            if found:
                return found
            if ended or time.monotonic() > end:
                how = f"ended with {self.process.returncode}" if ended else f"did not come up within {seconds} s"
                raise Trouble(f"{self.name} {how}\n{said[-3000:]}")
            time.sleep(0.02)


class Node(Program):
    """A `bentod` without Tor. `near`: where its directory is made, in place of the usual one for what is temporary."""

    def __init__(self, programs: Path, policy: str = POLICY, limits: str = "", near: "str | Path | None" = None) -> None:
        self._directory = tempfile.TemporaryDirectory(prefix=".bento-bench-" if near else "bento-bench-", dir=near)
        directory = Path(self._directory.name)
        (directory / "policy.toml").write_text(policy)
        self.config = directory / "bentod.toml"
        config = self.config
        config.write_text(f'name = "Benchmark"\nstate = "state"\nlisten = "127.0.0.1:0"\n[tor]\noff = true\n[limits]\n{limits}\n')
        super().__init__("bentod", [str(programs / "bentod"), "run", "--config", str(config)], directory / "log")

    def __enter__(self) -> "Node":
        try:
            host, port = self.wait_for(r"listening address=([\d.]+):(\d+)").groups()
        except BaseException:
            self.__exit__()
            raise
        self.address = (host, int(port))
        return self

    def __exit__(self, *error: object) -> None:
        super().__exit__(*error)
        self._directory.cleanup()

    def below(self, name: str = "") -> list[int]:
        """Processes below it whose name begins so."""
        return below(self.process.pid, name)


def below(root: int, name: str = "") -> list[int]:
    """Processes below one whose name begins so."""
    found, left = [], [root]
    while left:
        pid = left.pop()
        try:
            if pid != root and Path(f"/proc/{pid}/comm").read_text().startswith(name):
                found.append(pid)
            for children in Path(f"/proc/{pid}/task").glob("*/children"):
                left += map(int, children.read_text().split())
        except OSError:
            pass  # It ended meanwhile.
    return found


def knows(key: str, file: str = "policy.toml") -> bool:
    """Whether this tree's node has a key in its policy, or in `bentod.toml`: the annotated files have every one."""
    return re.search(rf"^#?{key} *=", (ROOT / "packaging" / file).read_text(), re.MULTILINE) is not None


def lines(wanted: dict[str, str]) -> str:
    """The lines of a policy or a manifest for those keys that there are."""
    return "".join(f"{key} = {value}\n" for key, value in wanted.items() if knows(key))


def cpu_seconds(pid: int) -> float:
    """CPU time of a process and all its threads so far, from the kernel's exact account (clock_getcpuclockid(3))."""
    return time.clock_gettime(~pid << 3 | 2)


def private_kib(pid: int) -> int:
    """Memory that is a process's alone, as it is in RAM now."""
    lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
    return sum(int(text.split()[1]) for text in lines if text.startswith(("Private_Clean:", "Private_Dirty:")))
