"""The sealed store beside what it is built on, on the same disk by turns."""

import os
import statistics
import subprocess
import tempfile
from pathlib import Path

from measures.machine import ROOT, figure, line
from measures.programs import Trouble, build

ROUNDS = 12

LARGE_MB = 64 * 1024 * 1024 / 1e6
SMALL_PUTS = 300
"""The same numbers are in `crates/bento-node/examples/store.rs`."""

ROUND_SECONDS_MAX = 60


def measure(rounds: int = ROUNDS) -> None:
    """Put and get 64 MiB in a function's store beside a plain file, and small values beside SQLite"""
    programs = build("bento-node", examples=("store",))
    # Where the build is, since `/tmp` is in memory on many machines, and no disk.
    near = os.environ.get("BENTO_BENCH_DISK") or ROOT
    with tempfile.TemporaryDirectory(prefix=".bento-bench-", dir=near) as place:
        print(f"disk       {_disk(Path(place))}", flush=True)
        words = [str(programs / "examples/store"), place, str(rounds)]
        done = subprocess.run(words, capture_output=True, text=True, timeout=ROUND_SECONDS_MAX * (rounds + 1))
    if done.returncode:
        raise Trouble(f"{words[0]} ended with {done.returncode}\n{done.stderr}")
    seconds: dict[tuple[str, str], list[float]] = {}
    for text in done.stdout.splitlines():
        what, who, took = text.split()
        seconds.setdefault((what, who), []).append(float(took))
    for what, ours, theirs in (("put", "store", "file"), ("get", "store", "file"), ("small", "store", "sqlite")):
        for who in ours, theirs:
            line({"put": "put 64 MiB", "get": "get 64 MiB", "small": f"{SMALL_PUTS} durable puts"}[what] + f", {who}", seconds[what, who])
    # Each round's put and get together: that is what keeping a value and having it back costs.
    whole = {who: statistics.median(map(sum, zip(seconds["put", who], seconds["get", who]))) for who in ("store", "file")}
    median = {key: statistics.median(sample) for key, sample in seconds.items()}
    for what in "put", "get":
        figure(f"store_{what}_mb_s", LARGE_MB / median[what, "store"], "MB/s")
        figure(f"store_{what}_file_mb_s", LARGE_MB / median[what, "file"], "MB/s")
    figure("store_durable_puts", SMALL_PUTS / median["small", "store"], "1/s")
    figure("store_durable_puts_sqlite", SMALL_PUTS / median["small", "sqlite"], "1/s")
    print("both ratios are ours / theirs in speed: 1 is as fast, less is slower")
    figure("store_put_ratio", whole["file"] / whole["store"], "x")
    figure("store_durable_puts_ratio", median["small", "sqlite"] / median["small", "store"], "x")


def _disk(place: Path) -> str:
    """What the file system is, as far as the system says."""
    found = subprocess.run(["findmnt", "-no", "FSTYPE,SOURCE", "-T", str(place)], capture_output=True, text=True)
    return " on ".join(found.stdout.split()) or "unknown"
