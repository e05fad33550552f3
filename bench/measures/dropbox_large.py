"""A file of several gigabytes through a Dropbox on a node without Tor: what memory and CPU time each process takes for it."""

import filecmp
import json
import os
import subprocess
import tempfile
import threading
import time
from contextlib import ExitStack
from pathlib import Path

from measures.machine import ROOT, figure
from measures.programs import Node, Trouble, below, build, cpu_seconds, lines

GIGABYTES = 3

MEMORY = "256 MiB"
"""What the node offers a function."""

SECONDS_MAX = 3600

LOOK_SECONDS = 0.5

BLOCK_BYTES = 1 << 20


def measure(gigabytes: int = GIGABYTES) -> None:
    """Put and get 3 GB (or as many as are given) with `bento dropbox`: most memory of function, node and client, and CPU time per GB"""
    programs = build("bento", "bento-node", "bento-jail")
    wide = {"storage": f'"{gigabytes + 1} GiB"', "traffic": f'"{4 * gigabytes + 1} GiB"', "cpu": '"1 h"', "rate": '"100 GiB/s"', "share": '"400 %"'}
    policy = f'[offers]\nmemory = "{MEMORY}"\negress = ["direct"]\n' + lines(wide)
    # Where the build is, since `/tmp` is in memory on many machines, and no disk.
    near = os.environ.get("BENTO_BENCH_DISK") or ROOT
    with ExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix=".bento-bench-", dir=near)))
        node = stack.enter_context(Node(programs, policy, f'storage = "{gigabytes + 1} GiB"', near))
        file, back = directory / "file", directory / "back"
        with file.open("wb") as out:
            for _ in range(gigabytes * 1_000_000_000 // BLOCK_BYTES + 1):
                out.write(os.urandom(BLOCK_BYTES))
        environment = {**os.environ, "XDG_DATA_HOME": str(directory / "data"), "XDG_CONFIG_HOME": str(directory / "config")}
        box = [str(programs / "bento"), "--json", "dropbox"]
        put = _Run("put", [*box, "put", "--node", "{}:{}".format(*node.address), str(file)], environment, node)
        get = _Run("get", [*box, "get", "--force", "-o", str(back), put.told["link"]], environment, node)
        if not filecmp.cmp(file, back, shallow=False):
            raise Trouble("what came back is not what was sent")
        size = file.stat().st_size / 1e9
    for run in put, get:
        print(f"{run.name} of {size:g} GB in {run.seconds:.1f} s, {1000 * size / run.seconds:.0f} MB/s; most resident memory, and CPU time per GB:")
        for name, most in run.most.items():
            print(f"  {name:10} {most / 1024:7.1f} MiB {run.cpu[name] / size:7.2f} s")
        print("  MiB over the run: " + "; ".join(f"{name} {_spread(seen)}" for name, seen in run.seen.items()))
        figure(f"dropbox_large_{run.name}_mb_s", 1000 * size / run.seconds, "MB/s")
        figure(f"dropbox_large_{run.name}_cpu", sum(run.cpu.values()) / size, "s/GB")
    for name in put.most:
        figure(f"dropbox_large_{name}_mib", max(put.most[name], get.most[name]) / 1024, "MiB")


class _Run:
    """One command, watched."""

    def __init__(self, name: str, words: list[str], environment: dict[str, str], node: Node) -> None:
        self.name = name
        self._node = node
        self.seen: dict[str, list[int]] = {"function": [], "node": [], "client": []}
        before = self._used()
        began = time.perf_counter()
        client = subprocess.Popen(words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE)
        ended = threading.Event()
        watch = threading.Thread(target=self._watch, args=(client.pid, ended))
        watch.start()
        late = threading.Timer(SECONDS_MAX, client.kill)
        late.start()
        said, complaint = client.stdout.read(), client.stderr.read()
        # Not `wait`, which tells nothing of what it used.
        _, status, own = os.wait4(client.pid, 0)
        self.seconds = time.perf_counter() - began
        late.cancel()
        ended.set()
        watch.join()
        if status:
            raise Trouble(f"{' '.join(words[:4])} ended with {os.waitstatus_to_exitcode(status)}\n{complaint.decode(errors='replace')}")
        self.told = json.loads(said)
        after = self._used()
        self.cpu = {who: sum(now - before[who].get(pid, 0) for pid, now in used.items()) for who, used in after.items()}
        self.cpu["client"] = own.ru_utime + own.ru_stime
        # The kernel's own account of the most, which no look can miss.
        self.most = {"function": max(map(_most, below(node.process.pid, "python"))), "node": _most(node.process.pid), "client": own.ru_maxrss}

    def _used(self) -> dict:
        pids = {"function": [*below(self._node.process.pid, "python"), *below(self._node.process.pid, "bento-jail")], "node": [self._node.process.pid]}
        return {who: {pid: cpu_seconds(pid) for pid in found} for who, found in pids.items()}

    def _watch(self, client: int, ended: threading.Event) -> None:
        while not ended.wait(LOOK_SECONDS):
            functions = [_status(pid, "VmRSS") for pid in below(self._node.process.pid, "python")]
            self.seen["function"].append(max(functions, default=0))
            self.seen["node"].append(_status(self._node.process.pid, "VmRSS"))
            self.seen["client"].append(_status(client, "VmRSS"))


def _most(pid: int) -> int:
    return _status(pid, "VmHWM")


def _status(pid: int, key: str) -> int:
    """A number of KiB that the kernel tells of a process; 0 of one that is gone."""
    try:
        text = Path(f"/proc/{pid}/status").read_text()
    except OSError:
        return 0
    return next((int(line.split()[1]) for line in text.splitlines() if line.startswith(f"{key}:")), 0)


def _spread(seen: list[int]) -> str:
    """A few of the numbers, evenly spread over the run."""
    step = max(1, len(seen) // 8)
    return " ".join(f"{kib / 1024:.0f}" for kib in seen[::step])
