"""A function that is awake: how long one invocation takes, and what memory it holds in between."""

import gc
import multiprocessing
import statistics
import time
from contextlib import ExitStack

from measures import client
from measures.machine import ROOT, figure, line, percentile
from measures.programs import Node, Trouble, build, private_kib

ROUNDS = 5000
WARM_UP_ROUNDS = 200
CONNECTIONS = 4

AWAKE = 3
"""Functions that are awake while their memory is looked at."""

SETTLE_SECONDS = 0.5
"""Before that."""


def measure(rounds: int = ROUNDS) -> None:
    """Invoke functions/hello on a node without Tor, warm, over one kept-alive connection and over four; its memory when idle"""
    programs = build("bento-node", "bento-jail")
    with Node(programs, limits="ready = 0") as node:
        times, _ = _client(node.address, rounds)
        memory = _memory(node)
        # Processes, not threads, so that the clients do not wait for each other; each has a function of its own.
        with multiprocessing.get_context("fork").Pool(CONNECTIONS) as pool:
            began = time.perf_counter()
            several = pool.starmap(_client, [(node.address, max(rounds // 2, 1))] * CONNECTIONS, chunksize=1)
            took = time.perf_counter() - began
    together = [seconds for sample, _ in several for seconds in sample]
    spans = [span for _, span in several]
    line("one connection", times)
    line(f"{CONNECTIONS} connections, a function each", together)
    # From the first beginning to the last end: both are by the same clock of the machine.
    busy = max(end for _, end in spans) - min(start for start, _ in spans)
    print(f"{CONNECTIONS} connections: {len(together) / busy:.0f} invocations a second, clients on the same cores ({took:.1f} s with installs)")
    if memory is not None:
        figure("idle_private_kib", memory, "KiB")
    figure("invoke_4_median_ms", 1000 * statistics.median(together), "ms")
    figure("invoke_4_p99_ms", 1000 * percentile(together, 0.99), "ms")
    figure("invoke_median_ms", 1000 * statistics.median(times), "ms")
    figure("invoke_p99_ms", 1000 * percentile(times, 0.99), "ms")


def _client(address: tuple[str, int], rounds: int) -> tuple[list[float], tuple[float, float]]:
    """Installs a function, invokes it, ends it. From each request's first byte to its answer's last."""
    times = []
    with client.Session(address) as session:
        tokens = client.Tokens()
        client.expect(session.ask(tokens.install(client.bundle(ROOT / "functions/hello"))), 201)
        request = tokens.invoke("hello", {"name": "Ada"})
        gc.disable()
        for number in range(WARM_UP_ROUNDS + rounds):
            if number == WARM_UP_ROUNDS:
                times.clear()
                began = time.perf_counter()
            answer = session.ask(request)
            times.append(time.perf_counter() - answer.sent)
            client.expect(answer, 200, b"Hello, Ada!\n")
        ended = time.perf_counter()
        gc.enable()
        client.expect(session.ask(tokens.end()), 204)
    return times, (began, ended)


def _memory(node: Node) -> int | None:
    """Prints, and gives in KiB, what a function holds that waits for its next invocation."""
    # Several are awake: with one alone, pages of Python's own files would be its alone as well, though the next function shares them.
    with ExitStack() as stack:
        for _ in range(AWAKE):
            session = stack.enter_context(client.Session(node.address))
            tokens = client.Tokens()
            client.expect(session.ask(tokens.install(client.bundle(ROOT / "functions/hello"))), 201)
            stack.callback(session.ask, tokens.end())
            client.expect(session.ask(tokens.invoke("hello", {})), 200)
        time.sleep(SETTLE_SECONDS)
        functions, keepers = node.below("python3.11") or node.below("python3"), node.below("bento-jail")
        if len(functions) != AWAKE or len(keepers) != AWAKE:
            raise Trouble(f"{AWAKE} functions are awake, and below the node are {len(functions)} and {len(keepers)} bento-jail")
        try:
            function, keeper = statistics.median(map(private_kib, functions)), statistics.median(map(private_kib, keepers))
        except PermissionError:
            print("awake and idle: this kernel does not show the memory of a jailed process to this user")
            return None
    print(f"awake and idle, one of {AWAKE} functions: {function} KiB private, and {keeper} KiB for the bento-jail that keeps it")
    return function + keeper
