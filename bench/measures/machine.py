"""Where a figure was measured, and the form in which it is told."""

import os
import platform
import statistics
import subprocess
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


BUSY = 0.5
"""Load of this part of the cores by others, before a benchmark begins, that makes its figures doubtful."""


def describe(name: str) -> None:
    """Prints the benchmark, the machine, how busy it is, and the commit."""
    print(f"benchmark  {name}, {time.strftime('%Y-%m-%d %H:%M %Z')}")
    cores = len(os.sched_getaffinity(0))
    print(f"machine    {_first('/proc/cpuinfo', 'model name') or platform.machine()}, {cores} cores, {_memory()}, Linux {platform.release()}")
    # Whatever else runs takes its share of few cores, so that ratios of one run say more than times.
    print(f"load       {' '.join(f'{load:.1f}' for load in os.getloadavg())} over the last 1, 5 and 15 min, before this benchmark")
    if os.getloadavg()[0] > BUSY * cores:
        print("BUSY       others use this machine: take the figures as a trial run, and repeat them when it is quiet")
    print(f"commit     {_commit()}", flush=True)


def line(what: str, seconds: list[float]) -> None:
    """Prints a sample of times."""
    ms = sorted(1000 * second for second in seconds)
    print(f"{what:36}  min {ms[0]:8.3f}  median {statistics.median(ms):8.3f}  max {ms[-1]:8.3f} ms   ({len(ms)} times)", flush=True)


def figure(name: str, value: float, unit: str) -> None:
    """Prints a figure in the form that programs read."""
    print(f"figure {name} {value:.4g} {unit}", flush=True)


def percentile(sample: list[float], part: float) -> float:
    """The value that this part of the sample does not exceed."""
    ordered = sorted(sample)
    return ordered[min(len(ordered) - 1, int(part * len(ordered)))]


def _first(path: str, key: str) -> str | None:
    """The first value of a key in one of the kernel's lists."""
    for text in Path(path).read_text().splitlines():
        name, _, value = text.partition(":")
        if name.strip() == key:
            return value.strip()
    return None


def _memory() -> str:
    kib = int((_first("/proc/meminfo", "MemTotal") or "0").split()[0])
    return f"{kib / 1024 / 1024:.1f} GiB"


def _commit() -> str:
    def git(*words: str) -> str:
        return subprocess.run(["git", "-C", ROOT, *words], capture_output=True, text=True, check=True).stdout.strip()

    try:
        changed = len(git("status", "--porcelain").splitlines())
        return git("rev-parse", "HEAD") + (f", dirty: {changed} files changed or new" if changed else ", clean")
    except (OSError, subprocess.CalledProcessError):
        return "unknown: no git, or no repository"
