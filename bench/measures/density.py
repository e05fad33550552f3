"""Many functions installed: what each takes of the node's memory while it sleeps, and while it is awake."""

import statistics
import subprocess
import time
from pathlib import Path

from measures import client
from measures.machine import ROOT, figure
from measures.programs import Node, Trouble, build, knows, private_kib

ROUNDS = 2000
"""Functions asleep."""

AWAKE = 60

WARM_UP = 50
"""Installed before memory is looked at for the first time, so that what the node keeps of its own is there already."""

SLEEP = 'sleep = "1 s"'

ASLEEP_SECONDS_MAX = 120

SETTLE_SECONDS = 1.0


def measure(rounds: int = ROUNDS) -> None:
    """Install many functions: resident memory for each that sleeps, private memory of each that is awake"""
    programs = build("bento-node", "bento-jail")
    hello = client.bundle(ROOT / "functions/hello")
    policy = f'[offers]\negress = ["direct"]\nlifetime = "24 h"\nfunctions = {rounds + WARM_UP + AWAKE}\n'
    # Installs of one day are bounded as well, where that bound exists.
    if knows("functions_per_day"):
        policy += f"functions_per_day = {rounds + WARM_UP + AWAKE}\n"
    with Node(programs, policy) as node, client.Session(node.address) as session:
        _install(session, hello, 3)
        before = _resident(node.process.pid)
        _install(session, hello, AWAKE, invoke=True)
        time.sleep(SETTLE_SECONDS)
        functions, keepers = node.below("python"), node.below("bento-jail")
        private = [private_kib(pid) for pid in functions], [private_kib(pid) for pid in keepers]
        own = (_resident(node.process.pid) - before) / AWAKE
        # More keepers than functions are jails that wait for one.
        each = statistics.mean(private[0]) + statistics.median(private[1])
        print(f"awake and idle, {AWAKE} functions: {statistics.mean(private[0]):.0f} KiB private each (most {max(private[0])}),")
        print(f"  {statistics.median(private[1]):.0f} KiB its bento-jail ({len(keepers)} of them), {own:.1f} KiB more in the node itself")
        figure("awake_private_mib", (each + max(own, 0)) / 1024, "MiB")
    if not knows("sleep", "bentod.toml"):
        print("asleep     not measured: this node lets no function sleep (there is no `sleep` under [limits])")
        return
    with Node(programs, policy, SLEEP) as node, client.Session(node.address) as session:
        _install(session, hello, WARM_UP)
        _asleep(programs, node)
        before, processes = _all(node)
        began = time.monotonic()
        tokens = _install(session, hello, rounds)
        took = time.monotonic() - began
        _asleep(programs, node)
        after, later = _all(node)
        print(f"asleep, {rounds} functions (installed in {took:.0f} s): node and all below it {before} KiB before, {after} KiB after,")
        print(f"  {processes} processes before, {later} after")
        # That they only sleep: some of them are woken, and answer.
        for some in tokens[:: max(1, rounds // 10)]:
            client.expect(session.ask(some.invoke("hello", {"name": "Ada"})), 200, b"Hello, Ada!\n")
        figure("asleep_kib", (after - before) / rounds, "KiB")


def _install(session: client.Session, bundle: bytes, count: int, invoke: bool = False) -> list[client.Tokens]:
    made = []
    for _ in range(count):
        tokens = client.Tokens()
        client.expect(session.ask(tokens.install(bundle)), 201)
        if invoke:
            client.expect(session.ask(tokens.invoke("hello", {})), 200)
        made.append(tokens)
    return made


def _asleep(programs: Path, node: Node) -> None:
    """Waits until the node says that no function is awake."""
    end = time.monotonic() + ASLEEP_SECONDS_MAX
    while True:
        # functions    2050 of at most 2110, 17 awake
        said = subprocess.run([programs / "bentod", "status", "--config", node.config], capture_output=True, text=True, check=True).stdout
        awake = next(text.split()[-2] for text in said.splitlines() if text.startswith("functions"))
        if awake == "0":
            time.sleep(SETTLE_SECONDS)
            return
        if time.monotonic() > end:
            raise Trouble(f"{awake} functions do not go to sleep")
        time.sleep(0.2)


def _all(node: Node) -> tuple[int, int]:
    """Resident KiB of the node and of everything below it, and how many processes that is. What is shared counts in full."""
    pids = [node.process.pid, *node.below()]
    return sum(map(_resident, pids)), len(pids)


def _resident(pid: int) -> int:
    for text in Path(f"/proc/{pid}/status").read_text().splitlines():
        if text.startswith("VmRSS:"):
            return int(text.split()[1])
    return 0
