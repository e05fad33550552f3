"""The same small Python program in five kinds of walls: how soon it speaks, what memory it holds, and which attacks they hold."""

import ctypes
import json
import os
import shutil
import statistics
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from pathlib import Path

from measures import attacks, bars
from measures.machine import ROOT, figure, line
from measures.programs import Trouble, below, build, private_kib

ROUNDS = 40
WARM_UP_ROUNDS = 5
IDLE = 3
"""Programs that wait at the same time while memory is looked at."""

REST_SECONDS = 0.05
SETTLE_SECONDS = 0.5
SAY_SECONDS_MAX = 30

PLOT = ROOT / "docs/isolation.svg"

CLONE_NEWNS, MS_REC, MS_PRIVATE = 0x20000, 0x4000, 0x40000

NO_ATTACK = attacks.Attack("hello", "none", "says", "depends", ())

PYTHON_FILES = ["/usr/bin/python3.11", "/usr/lib/python3.11", "/usr/lib/python3", "/usr/lib/x86_64-linux-gnu", "/usr/lib64"]
"""Read-only for Bubblewrap, crun and runc, with the links that Debian has for /lib and /lib64."""


class Bwrap(attacks.Launcher):
    """Bubblewrap with every namespace of its own, and no option that nobody would think of."""

    name = "bwrap --unshare-all"

    def words(self, words: list[str], attack: attacks.Attack) -> list[str]:
        """Its command line."""
        binds = [word for path in PYTHON_FILES if Path(path).exists() for word in ("--ro-bind", path, path)]
        links = ["--symlink", "usr/lib", "/lib", "--symlink", "usr/lib64", "/lib64"]
        return ["bwrap", "--unshare-all", "--die-with-parent", *binds, *links, "--proc", "/proc", "--dev", "/dev", "--tmpfs", "/tmp", "--chdir", "/tmp", *words]


class Oci(attacks.Launcher):
    """`crun` or `runc`, with the configuration that its own command `spec` writes, and Python's files."""

    def __init__(self, program: str, directory: Path) -> None:
        self.name = program
        self._program = shutil.which(program) or f"/usr/sbin/{program}"
        self._directory = directory / program
        self._number = 0
        (self._directory / "rootfs").mkdir(parents=True)
        (self._directory / "state").mkdir()
        rootless = [] if os.geteuid() == 0 else ["--rootless"]
        subprocess.run([self._program, "spec", *rootless], cwd=self._directory, check=True)
        self._config = json.loads((self._directory / "config.json").read_text())
        for link in ("lib", "lib64"):
            (self._directory / "rootfs" / link).symlink_to(f"usr/{link}")

    @contextmanager
    def _container(self) -> Iterator[None]:
        self._number += 1
        container = self._id()
        try:
            yield
        finally:
            subprocess.run([*self._words(), "delete", "--force", container], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)

    def fresh(self) -> AbstractContextManager:
        """A container, and its surely being gone."""
        return self._container()

    def _words(self) -> list[str]:
        return [self._program, "--root", str(self._directory / "state")]

    def _id(self) -> str:
        return f"bench-{self.name}-{os.getpid()}-{self._number}"

    def words(self, words: list[str], attack: attacks.Attack) -> list[str]:
        """A bundle of its own, and the command line that runs it in the foreground."""
        config = json.loads(json.dumps(self._config))
        config["process"].update(terminal=False, args=words, cwd="/tmp")
        config["root"] = {"path": str(self._directory / "rootfs"), "readonly": True}
        binds = [{"destination": path, "source": path, "type": "bind", "options": ["rbind", "ro"]} for path in PYTHON_FILES if Path(path).exists()]
        config["mounts"] = [*config["mounts"], *binds, {"destination": "/tmp", "source": "tmpfs", "type": "tmpfs", "options": ["nosuid", "nodev", "mode=1777"]}]
        bundle = self._directory / self._id()
        bundle.mkdir()
        (bundle / "config.json").write_text(json.dumps(config))
        return [*self._words(), "run", "--bundle", str(bundle), self._id()]


class Bare(attacks.Bare):
    """None."""

    name = "no isolation"


def measure(rounds: int = ROUNDS) -> None:
    """Cold start, idle memory and battery score of no isolation, bwrap, crun, runc and ours, as a table and a plot"""
    missing = [name for name in ("bwrap", "crun", "runc") if not shutil.which(name) and not Path(f"/usr/sbin/{name}").exists()]
    if missing:
        raise Trouble(f"there is no {', no '.join(missing)} here\nHint: apt-get install bubblewrap crun runc")
    programs = build("bento-jail", examples=("spec",))
    _without_unified()
    spec = json.loads(subprocess.run([programs / "examples/spec"], capture_output=True, check=True).stdout)
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="bento-bench-", dir="/var/tmp")))
        launchers = [Bare(), Bwrap(), Oci("crun", directory), Oci("runc", directory), attacks.Ours(programs / "bento-jail", spec)]
        print(f"user       {'root' if os.geteuid() == 0 else 'an ordinary one, rootless'}; versions: {_versions()}")
        times: dict[str, list[float]] = {launcher.name: [] for launcher in launchers}
        for number in range(WARM_UP_ROUNDS + rounds):
            for launcher in launchers:
                took = _cold(launcher)
                if number >= WARM_UP_ROUNDS:
                    times[launcher.name].append(took)
                time.sleep(REST_SECONDS)
        for name, sample in times.items():
            line(f"{name}, to its first byte", sample)
        memory = {launcher.name: _idle(launcher) for launcher in launchers}
        scores = {launcher.name: _score(launcher) for launcher in launchers}
    _tell(launchers, times, memory, scores)


def _without_unified() -> None:
    """Lets nobody below this process see control groups of version 2 that are mounted beside those of version 1: crun refuses such machines."""
    unified, libc = b"/sys/fs/cgroup/unified", ctypes.CDLL(None, use_errno=True)
    if os.geteuid() != 0 or not os.path.ismount(unified):
        return
    done = libc.unshare(CLONE_NEWNS) or libc.mount(b"none", b"/", None, MS_REC | MS_PRIVATE, None) or libc.umount2(unified, 0)
    if done:
        raise Trouble(f"hiding {unified.decode()}: {os.strerror(ctypes.get_errno())}")


def _start(launcher: attacks.Launcher, code: str) -> tuple[subprocess.Popen, int]:
    nothing = os.open("/dev/null", os.O_RDONLY)
    try:
        words = [attacks.PYTHON, "-I", "-S", "-B", "-c", f"import posix; posix.write({launcher.out}, b'!'); {code}"]
        return launcher.start(words, NO_ATTACK, {}, nothing, {"PATH": "/usr/bin:/bin:/usr/sbin:/sbin", "LANG": "C.UTF-8"})
    finally:
        os.close(nothing)


def _first(launcher: attacks.Launcher, process: subprocess.Popen, reading: int) -> None:
    byte = os.read(reading, 1)
    if byte != b"!":
        said = byte + os.read(reading, 2000) + (process.stdout.read1(2000) if process.stdout else b"")
        raise Trouble(f"{launcher.name} does not start Python: {said.decode(errors='replace')}")


def _cold(launcher: attacks.Launcher) -> float:
    with launcher.fresh():
        began = time.perf_counter()
        process, reading = _start(launcher, "pass")
        _first(launcher, process, reading)
        took = time.perf_counter() - began
        # It ends of itself, and is not hurried.
        process.wait(SAY_SECONDS_MAX)
        os.close(reading)
        if process.stdout:
            process.stdout.close()
        return took


def _idle(launcher: attacks.Launcher) -> tuple[int, int]:
    """Private KiB of one program that waits, with all that keeps it; and of that, what is not Python."""
    with ExitStack() as stack:
        held = []
        for _ in range(IDLE):
            stack.enter_context(launcher.fresh())
            process, reading = _start(launcher, "import time; time.sleep(600)")
            stack.callback(os.close, reading)
            stack.callback(attacks._kill, process)
            _first(launcher, process, reading)
            held.append(process.pid)
        time.sleep(SETTLE_SECONDS)
        each = []
        for pid in held:
            sizes = {other: private_kib(other) for other in [pid, *below(pid)]}
            python = [size for other, size in sizes.items() if Path(f"/proc/{other}/comm").read_text().startswith("python")]
            each.append((sum(sizes.values()), sum(sizes.values()) - max(python, default=0)))
    return statistics.median_low(total for total, _ in each), statistics.median_low(keeper for _, keeper in each)


def _score(launcher: attacks.Launcher) -> tuple[int, int, int]:
    """Attacks contained, attacks that did what they shall not, and how many there are. Of the rest some neighbour did not work."""
    contained = escaped = total = 0
    for attack in attacks.table():
        result = attacks.run(attack, launcher)
        total += 1
        contained += result.contained
        escaped += result.escaped
        if not result.contained and isinstance(launcher, attacks.Ours):
            print(f"NOT CONTAINED by ours: {attack.name}: {result.why}")
    print(f"{launcher.name:24} contains {contained} of {total} attacks; {escaped} escape", flush=True)
    return contained, escaped, total


def _versions() -> str:
    def first(*words: str) -> str:
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.splitlines()[0].strip()

    runc = shutil.which("runc") or "/usr/sbin/runc"
    return ", ".join([first("bwrap", "--version"), first("crun", "--version"), first(runc, "--version"), first(attacks.PYTHON, "--version")])


def _tell(launchers: list, times: dict, memory: dict, scores: dict) -> None:
    bare = statistics.median(times[launchers[0].name])
    rows = []
    print("\n| walls | cold start, median (fastest), ms | to no isolation | idle, private KiB | of these not Python's | attacks contained | escaped |\n|---|---|---|---|---|---|---|")
    for launcher in launchers:
        name = launcher.name
        median = statistics.median(times[name])
        (total, keeper), (contained, escaped, all_of_them) = memory[name], scores[name]
        print(f"| {name} | {1000 * median:.1f} ({1000 * min(times[name]):.1f}) | {median / bare:.2f} | {total:,} | {keeper:,} | {contained} of {all_of_them} | {escaped} |")
        rows.append((name, 1000 * median, total / 1024, 100 * contained / all_of_them))
    charts = [("Cold start, ms", [row[1] for row in rows], "{:.1f}"), ("Idle memory, MiB", [row[2] for row in rows], "{:.1f}"), ("Attacks contained, %", [row[3] for row in rows], "{:.0f}")]
    PLOT.write_text(bars.draw([row[0] for row in rows], charts))
    print(f"\nplot       {PLOT.relative_to(ROOT)}")
    ours = launchers[-1].name
    figure("isolation_cold_start_ratio", statistics.median(times[ours]) / bare, "x")
    figure("isolation_idle_kib", memory[ours][0], "KiB")
    figure("isolation_contained", scores[ours][0], f"of {scores[ours][2]}")
