"""A function never seen before: how long until its first byte of output, beside the start of a bare Python."""

import gc
import os
import statistics
import time

from measures import client
from measures.machine import ROOT, figure, line
from measures.programs import Node, Trouble, build

ROUNDS = 60
WARM_UP_ROUNDS = 10

PEER = ["/usr/bin/python3", "-I", "-S", "-c", "pass"]

REST_SECONDS = 0.05
"""Between any two measurements: what the one before leaves to be cleared up (the kernel takes its time for namespaces) shall not
count for the one after, whichever that is."""


def measure(rounds: int = ROUNDS) -> None:
    """Install and invoke a new function at a node without Tor, as a ratio to the start of bare Python"""
    programs = build("bento-node", "bento-jail")
    # Neither locale coercion nor a long environment: the peer at its fastest.
    environment = {"LANG": "C.UTF-8", "PATH": "/usr/bin:/bin"}
    hello = ROOT / "functions/hello"
    times: dict[str, list[float]] = {"peer of run": [], "run": [], "peer of install": [], "install, invoke": [], "of these, install": []}
    with Node(programs) as node, client.Session(node.address) as session:
        gc.disable()
        for number in range(WARM_UP_ROUNDS + rounds):
            if number == WARM_UP_ROUNDS:
                for sample in times.values():
                    sample.clear()
            # Everything is made before its measurement begins.
            bundles = [client.bundle(hello, f"{number} {index} {os.urandom(8).hex()}") for index in range(2)]
            tokens = client.Tokens()
            run = client.run(bundles[0], "hello", {"name": "Ada"})
            install, invoke = tokens.install(bundles[1]), tokens.invoke("hello", {"name": "Ada"})

            times["peer of run"].append(_peer(environment))
            time.sleep(REST_SECONDS)
            answer = session.ask(run)
            times["run"].append(answer.seconds)
            client.expect(answer, 200, b"Hello, Ada!\n")
            time.sleep(REST_SECONDS)

            times["peer of install"].append(_peer(environment))
            time.sleep(REST_SECONDS)
            installed = session.ask(install)
            answer = session.ask(invoke)
            times["install, invoke"].append(answer.first - installed.sent)
            times["of these, install"].append(installed.seconds)
            client.expect(installed, 201)
            client.expect(answer, 200, b"Hello, Ada!\n")
            client.expect(session.ask(tokens.end()), 204)
            gc.collect()
            time.sleep(REST_SECONDS)
        gc.enable()
    print(f"peer       {' '.join(PEER)}, posix_spawn to exit")
    line("peer, alternating with the next", times["peer of run"])
    line("POST /v1/run to first output byte", times["run"])
    line("peer, alternating with the next", times["peer of install"])
    line("POST /v1/functions, then /v1/invoke", times["install, invoke"])
    line("  of these, the install", times["of these, install"])
    median = {name: statistics.median(sample) for name, sample in times.items()}
    print("cold_start_ratio is that of POST /v1/run, which installs and invokes a new function in one request")
    figure("cold_start_run_ms", 1000 * median["run"], "ms")
    figure("cold_start_python_ms", 1000 * median["peer of run"], "ms")
    figure("cold_start_install_invoke_ratio", median["install, invoke"] / median["peer of install"], "x")
    figure("cold_start_ratio", median["run"] / median["peer of run"], "x")


def _peer(environment: dict[str, str]) -> float:
    began = time.perf_counter()
    # The cheapest there is: glibc does it with CLONE_VM and CLONE_VFORK, so nothing of this process is copied.
    pid = os.posix_spawn(PEER[0], PEER, environment)
    _, status = os.waitpid(pid, 0)
    took = time.perf_counter() - began
    if status:
        raise Trouble(f"{' '.join(PEER)} ended with {status}")
    return took
