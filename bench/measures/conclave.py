"""A node's conclave beside the node itself, and the channel alone beside none."""

import os
import statistics
import subprocess
import tempfile
import time
from pathlib import Path

from measures.machine import ROOT, figure, line
from measures.programs import Node, Program, Trouble, build

ROUNDS = 10

MB = 256 * 1024 * 1024 / 1e6
"""The same number is in `crates/bento-simulator/examples/conclave.rs`."""

ROUND_SECONDS_MAX = 60

DOWNLOAD_MIB = 128

POLICY = """\
[offers]
egress = ["direct"]
lifetime = "1 h"
traffic = "256 GiB"
rate = "{rate}"
cpu = "10 min"
"""

MANIFEST = """\
name = "sender"
methods = ["send"]
[needs]
traffic = "256 GiB"
rate = "{rate}"
lifetime = "1 h"
cpu = "10 min"
"""

CODE = """\
PIECE = bytes(range(256)) * 256

def send(api, mib: int):
    for _ in range(mib * 16):
        api.output.write(PIECE)
"""


class Pair:
    """A node and its conclave, a simulated one, with a function in each."""

    def __init__(self, programs: Path, directory: Path, rate: str) -> None:
        self.directory = directory
        self.bento = programs / "bento"
        (directory / "beside").mkdir(parents=True)
        (directory / "home").mkdir()
        policy = POLICY.format(rate=rate)
        (directory / "policy.toml").write_text(policy)
        (directory / "conclave.toml").write_text('name = "Benchmark"\nstate = "sealed"\n')
        (directory / "sender").mkdir()
        (directory / "sender/manifest.toml").write_text(MANIFEST.format(rate=rate))
        (directory / "sender/function.py").write_text(CODE)
        self.node = Node(programs, policy, f'[conclave]\ndirectory = "{directory / "beside"}"')
        words = [str(programs / "bento-simulated-conclave"), "run", "--config", str(directory / "conclave.toml")]
        words += ["--directory", str(directory / "beside"), "--give", str(directory / "given")]
        self.conclave = Program("bento-simulated-conclave", words, directory / "log")

    def __enter__(self) -> "Pair":
        self.node.__enter__()
        self.conclave.__enter__()
        self.conclave.wait_for("listening for the host")
        for who in ("plain", "conclave"):
            self.ask(who, "install", self.address, str(self.directory / "sender"), "--name", who)
        return self

    def __exit__(self, *error: object) -> None:
        self.conclave.__exit__(*error)
        self.node.__exit__(*error)

    @property
    def address(self) -> str:
        return "{}:{}".format(*self.node.address)

    def ask(self, who: str, *words: str) -> float:
        """Runs `bento`, and says how long it took."""
        inside = ["--require-conclave", "--simulator-protects-nobody", str(self.directory / "given")] if who == "conclave" else []
        home = {**os.environ, "HOME": str(self.directory / "home"), "XDG_DATA_HOME": str(self.directory / "home/data")}
        began = time.perf_counter()
        done = subprocess.run([str(self.bento), *words, *inside], env=home, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True, timeout=ROUND_SECONDS_MAX)
        took = time.perf_counter() - began
        if done.returncode:
            raise Trouble(f"bento {' '.join(words)} ended with {done.returncode}\n{done.stderr}")
        return took

    def download(self, who: str, mib: int) -> float:
        """Has the function send so much."""
        return self.ask(who, "invoke", who, "send", f"mib={mib}")


def measure(rounds: int = ROUNDS) -> None:
    """Download from a node's conclave beside the node itself; copy through the channel alone beside a socket pair; open channels"""
    programs = build("bento", "bento-node", "bento-jail", "bento-simulator", examples=("conclave",))
    seconds = alone(programs, rounds)
    for name, rate, mib in (("download", "64 GiB/s", DOWNLOAD_MIB), ("at the usual rate", "16 MiB/s", DOWNLOAD_MIB // 4)):
        with tempfile.TemporaryDirectory(prefix="bento-bench-") as directory, Pair(programs, Path(directory) / "pair", rate) as pair:
            # Once for nothing, then by turns.
            for turn in range(rounds + 1):
                for who in ("plain", "conclave"):
                    taken = {name: pair.download(who, mib), f"status, {name}": pair.ask(who, "status", who)}
                    if turn:
                        for what, took in taken.items():
                            seconds.setdefault((what, who), []).append(took)
    names = {"copy": "256 MiB", "paced": "64 MiB at 100 MB/s", "download": f"{DOWNLOAD_MIB} MiB from a function"}
    names["at the usual rate"] = f"{DOWNLOAD_MIB // 4} MiB at 16 MiB/s"
    for (what, who), sample in seconds.items():
        line(f"{names.get(what, what)}, {who}", sample)
    median = {key: statistics.median(sample) for key, sample in seconds.items()}
    print("ratios are speed in the conclave or through the channel / without: 1 is as fast, less is slower")
    figure("conclave_throughput_ratio", median["download", "plain"] / median["download", "conclave"], "x")
    figure("conclave_usual_rate_ratio", median["at the usual rate", "plain"] / median["at the usual rate", "conclave"], "x")
    figure("conclave_download_mb_s", DOWNLOAD_MIB * 1.048576 / median["download", "conclave"], "MB/s")
    figure("conclave_status_ms_more", 1000 * (median["status, download", "conclave"] - median["status, download", "plain"]), "ms")
    figure("conclave_channel_ratio", median["copy", "plain"] / median["copy", "channel"], "x")
    figure("conclave_paced_ratio", median["paced", "plain"] / median["paced", "channel"], "x")
    figure("conclave_mb_s", MB / median["copy", "channel"], "MB/s")
    figure("attest_ms", 1000 * median["open", "channel"], "ms")
    figure("attest_judge_ms", 1000 * median["judge", "client"], "ms")


def alone(programs: Path, rounds: int) -> dict[tuple[str, str], list[float]]:
    """The channel without a node around it."""
    words = [str(programs / "examples/conclave"), str(rounds)]
    done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, timeout=ROUND_SECONDS_MAX * (rounds + 1))
    if done.returncode:
        raise Trouble(f"{words[0]} ended with {done.returncode}\n{done.stderr}")
    seconds: dict[tuple[str, str], list[float]] = {}
    for text in done.stdout.splitlines():
        what, who, took = text.split()
        seconds.setdefault((what, who), []).append(float(took))
    return seconds
