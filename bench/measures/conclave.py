"""The channel to a conclave, beside the same without one."""

import statistics
import subprocess

from measures.machine import figure, line
from measures.programs import Trouble, build

ROUNDS = 10

MB = 256 * 1024 * 1024 / 1e6
"""The same number is in `crates/bento-simulator/examples/conclave.rs`."""

ROUND_SECONDS_MAX = 60


def measure(rounds: int = ROUNDS) -> None:
    """Copy 256 MiB through the channel to a conclave beside a plain socket pair, and open such channels"""
    programs = build("bento-simulator", examples=("conclave",))
    words = [str(programs / "examples/conclave"), str(rounds)]
    done = subprocess.run(words, capture_output=True, text=True, timeout=ROUND_SECONDS_MAX * (rounds + 1))
    if done.returncode:
        raise Trouble(f"{words[0]} ended with {done.returncode}\n{done.stderr}")
    seconds: dict[tuple[str, str], list[float]] = {}
    for text in done.stdout.splitlines():
        what, who, took = text.split()
        seconds.setdefault((what, who), []).append(float(took))
    names = {"copy": "256 MiB", "paced": "64 MiB at 100 MB/s", "open": "open", "quote": "quote", "judge": "judge"}
    for (what, who), sample in seconds.items():
        line(f"{names[what]}, {who}", sample)
    median = {key: statistics.median(sample) for key, sample in seconds.items()}
    print("ratios are speed through the channel / without: 1 is as fast, less is slower")
    figure("conclave_throughput_ratio", median["copy", "plain"] / median["copy", "channel"], "x")
    figure("conclave_paced_ratio", median["paced", "plain"] / median["paced", "channel"], "x")
    figure("conclave_mb_s", MB / median["copy", "channel"], "MB/s")
    figure("attest_ms", 1000 * median["open", "channel"], "ms")
    figure("attest_judge_ms", 1000 * median["judge", "client"], "ms")
