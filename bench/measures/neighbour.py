"""A well-behaved function beside others that are not: how much longer its invocations take."""

import gc
import os
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

from measures import client
from measures.machine import ROOT, figure, line, percentile
from measures.programs import Node, Trouble, build, knows, lines

ROUNDS = 6
"""Of invocations alone and beside the others, alternating."""

INVOCATIONS = 700
WARM_UP_INVOCATIONS = 200

SETTLE_SECONDS = 1.0
"""Until the others are well under way, or well gone."""

GONE_SECONDS_MAX = 30

BAD = {
    "spinning": "def bad(api):\n    while True:\n        pass\n",
    "allocating": """\
def bad(api):
    while True:
        held = []
        try:
            while True:
                held.append(bytearray(1 << 20))
        except MemoryError:
            held.clear()
""",
    "starting threads": """\
import _thread, time
def bad(api):
    while True:
        try:
            _thread.start_new_thread(time.sleep, (0.001,))
        except (MemoryError, RuntimeError):
            pass
""",
    # Calls to the node whose answers it does not wait for.
    "flooding its socket": """\
def bad(api):
    while True:
        api._ask("log", {"text": "x" * 900})
""",
    "writing": """\
def bad(api):
    data = bytes(1 << 16)
    while True:
        with open("/tmp/file", "wb", buffering=0) as file:
            for _ in range(64):
                file.write(data)
""",
}

WIDE = {"cpu": '"1 h"', "lifetime": '"1 h"', "memory": '"256 MiB"', "scratch": '"16 MiB"'}
"""What the others are granted; all else is what a function gets that asks for nothing."""


def measure(rounds: int = ROUNDS) -> None:
    """99th percentile of a function's warm invocations beside five that take all they can get, as a ratio to it alone"""
    programs = build("bento-node", "bento-jail")
    offers = '[offers]\negress = ["direct"]\n' + lines(WIDE)
    alone: list[float] = []
    beside: list[float] = []
    each: dict[str, list[float]] = {name: [] for name in BAD}
    with ExitStack() as stack:
        # Jails kept ready would be counted among those of functions, and have no part in a warm invocation.
        node = stack.enter_context(Node(programs, offers, "ready = 0" if knows("ready", "bentod.toml") else ""))
        session = stack.enter_context(client.Session(node.address))
        tokens = client.Tokens()
        # Its lifetime ends with the node; its CPU time has to last for all invocations.
        bundle = client.pack(
            {
                "manifest.toml": 'name = "hello"\nmethods = ["hello"]\n[needs]\ncpu = "1 h"\nlifetime = "1 h"\n',
                "function.py": (ROOT / "functions/hello/hello.py").read_text(),
            }
        )
        client.expect(session.ask(tokens.install(bundle)), 201)
        request = tokens.invoke("hello", {"name": "Ada"})
        _first_in_line()

        def sample(count: int) -> list[float]:
            times = []
            gc.disable()
            for _ in range(count):
                answer = session.ask(request)
                times.append(time.perf_counter() - answer.sent)
                client.expect(answer, 200, b"Hello, Ada!\n")
            gc.enable()
            return times

        sample(WARM_UP_INVOCATIONS)
        for _ in range(rounds):
            alone += sample(INVOCATIONS)
            with _others(node, list(BAD)):
                beside += sample(INVOCATIONS)
            for name in BAD:
                with _others(node, [name]):
                    each[name] += sample(INVOCATIONS // len(BAD))
    print(f"others     {', '.join(BAD)}: a function each, all at the same time; {rounds} rounds of {INVOCATIONS} invocations, alternating")
    line("alone", alone)
    line("beside all of them", beside)
    for name, times in {"alone": alone, "beside all of them": beside, **{f"beside the one {name}": times for name, times in each.items()}}.items():
        print(f"{name:36}  p50 {1000 * percentile(times, 0.5):8.3f}  p90 {1000 * percentile(times, 0.9):8.3f}  p99 {1000 * percentile(times, 0.99):8.3f} ms")
    figure("neighbour_alone_p99_ms", 1000 * percentile(alone, 0.99), "ms")
    figure("neighbour_beside_p99_ms", 1000 * percentile(beside, 0.99), "ms")
    figure("neighbour_p50_ratio", percentile(beside, 0.5) / percentile(alone, 0.5), "x")
    figure("neighbour_p99_ratio", percentile(beside, 0.99) / percentile(alone, 0.99), "x")


def _first_in_line() -> None:
    """Lets this client, which is elsewhere in real life, wait for no function of this machine."""
    try:
        os.sched_setscheduler(0, os.SCHED_RR, os.sched_param(1))
        print("client     before all others on this machine (SCHED_RR), so that it is the node and the function that are measured")
    except PermissionError:
        print("client     an ordinary process of this machine: what it waits for a core is measured as well (root would put it first)")


@contextmanager
def _others(node: Node, names: list[str]) -> Iterator[None]:
    before = len(node.below("python"))
    with ExitStack() as stack:
        ending = stack.enter_context(client.Session(node.address))
        running = []
        for name in names:
            tokens = client.Tokens()
            manifest = 'name = "bad"\nmethods = ["bad"]\n[needs]\n' + lines(WIDE)
            session = stack.enter_context(client.Session(node.address))
            client.expect(session.ask(tokens.install(client.pack({"manifest.toml": manifest, "function.py": BAD[name]}))), 201)
            session.begin(tokens.invoke("bad", {}))
            running.append((name, tokens, session))
        time.sleep(SETTLE_SECONDS)
        yield
        for name, _, session in running:
            # One that has been ended for what it did would make the neighbour's life too easy.
            said = session.said()
            if said:
                raise Trouble(f"the one {name} has ended: {said[:500]!r}")
        for _, tokens, _ in running:
            client.expect(ending.ask(tokens.end()), 204)
    end = time.monotonic() + GONE_SECONDS_MAX
    while len(node.below("python")) > before:
        if time.monotonic() > end:
            raise Trouble("functions that were ended are still there")
        time.sleep(0.05)
    time.sleep(SETTLE_SECONDS)
