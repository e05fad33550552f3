"""Bytes passed on: what a gigabyte costs in CPU time, beside a TCP stream proxy."""

import multiprocessing
import shutil
import socket
import statistics
import time
from collections.abc import Callable
from contextlib import ExitStack, closing
from pathlib import Path
from tempfile import TemporaryDirectory

from measures import client
from measures.machine import figure
from measures.programs import Node, Program, Trouble, build, cpu_seconds, lines

ROUNDS = 7
WARM_UP_ROUNDS = 1

RELAY_BYTES = 1_000_000_000
PYTHON_BYTES = 250_000_000
"""A function copies more slowly, and the time is for all rounds."""

CHUNK = 1 << 18

NGINX = """\
daemon off;
worker_processes 1;
pid {directory}/nginx.pid;
error_log stderr warn;
load_module {module};
events {{ worker_connections 64; }}
stream {{ server {{ listen 127.0.0.1:{port}; proxy_pass 127.0.0.1:{to}; }} }}
"""
"""All else as it comes, the 16 KiB buffer included."""

MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")

COPY = """\
def copy(api, port, count):
    with api.connect("127.0.0.1", port) as far:
        far.sendall(count.to_bytes(8, "big"))
        while chunk := far.recv(65536):
            api.output.write(chunk)
"""


def measure(rounds: int = ROUNDS) -> None:
    """CPU seconds per GB of the node's own copying, and of a Python function that copies, as ratios to an nginx TCP stream proxy"""
    nginx = shutil.which("nginx") or shutil.which("/usr/sbin/nginx")
    if not nginx or not MODULE.exists():
        raise Trouble("there is no nginx with its stream module here\nHint: apt-get install nginx libnginx-mod-stream")
    programs = build("bento-node", "bento-jail", examples=("join",))
    with ExitStack() as stack:
        directory = Path(stack.enter_context(TemporaryDirectory(prefix="bento-bench-")))
        source = _source(stack)
        join = stack.enter_context(Program("join", [str(programs / "examples/join"), f"127.0.0.1:{source}"], directory / "join.log"))
        join_port = int(join.wait_for(r"listening address=[\d.]+:(\d+)").group(1))
        nginx_port = _nginx(stack, nginx, directory, source)
        node, function = _function(stack, programs)
        workers = [pid for pid in _children(nginx_port[1].process.pid)]
        if len(workers) != 1:
            raise Trouble(f"nginx has the worker processes {workers}, and one was asked for")

        def relay(port: int, pid: int) -> tuple[float, float]:
            return _taken(lambda: [pid], RELAY_BYTES, lambda: _through(port, RELAY_BYTES))

        def python() -> tuple[float, float]:
            def invoke() -> int:
                return _invoked(node, function, source, PYTHON_BYTES)

            return _taken(lambda: [node.process.pid, *node.below()], PYTHON_BYTES, invoke)

        sides = {
            "nginx stream proxy": lambda: relay(nginx_port[0], workers[0]),
            "meter::join, as the node copies": lambda: relay(join_port, join.process.pid),
            "through a Python function": python,
        }
        samples: dict[str, list[tuple[float, float]]] = {name: [] for name in sides}
        for number in range(WARM_UP_ROUNDS + rounds):
            for name, side in sides.items():
                taken = side()
                if number >= WARM_UP_ROUNDS:
                    samples[name].append(taken)
    print(f"one stream, source to client, {RELAY_BYTES / 1e9:g} GB each ({PYTHON_BYTES / 1e9:g} GB through the function); {rounds} rounds, alternating")
    for name, sample in samples.items():
        costs = sorted(cost for cost, _ in sample)
        rate = statistics.median(rate for _, rate in sample)
        print(f"{name:34} min {costs[0]:6.3f}  median {statistics.median(costs):6.3f}  max {costs[-1]:6.3f} CPU s/GB   {rate:7.0f} MB/s")
    proxy, join_cost, python_cost = (statistics.median(cost for cost, _ in sample) for sample in samples.values())
    figure("stream_python_cpu_ratio", python_cost / proxy, "x")
    figure("stream_cpu_ratio", join_cost / proxy, "x")


def _taken(pids: Callable[[], list[int]], count: int, work: Callable[[], int]) -> tuple[float, float]:
    """CPU seconds per GB that processes need for some work, and its MB a second."""
    before = {pid: cpu_seconds(pid) for pid in pids()}
    began = time.perf_counter()
    got = work()
    took = time.perf_counter() - began
    if got != count:
        raise Trouble(f"{count} bytes were asked for, and {got} came")
    # What one of them still has to do for these bytes is done by then.
    time.sleep(0.05)
    used = sum(cpu_seconds(pid) - since for pid, since in before.items())
    return used / (count / 1e9), count / 1e6 / took


def _source(stack: ExitStack) -> int:
    """Somebody who sends as many bytes as the first eight say; in a process of its own, so that its time is nobody else's."""
    listener = socket.create_server(("127.0.0.1", 0))
    process = multiprocessing.get_context("fork").Process(target=_serve, args=(listener,), daemon=True)
    process.start()
    stack.callback(process.terminate)
    with listener:
        return listener.getsockname()[1]


def _serve(listener: socket.socket) -> None:
    data = bytes(CHUNK)
    while True:
        stream, _ = listener.accept()
        with stream:
            left = int.from_bytes(stream.recv(8, socket.MSG_WAITALL), "big")
            try:
                while left:
                    left -= stream.send(data[:left])
            except OSError:
                pass  # Whoever asked has seen enough.


def _through(port: int, count: int) -> int:
    buffer, got = bytearray(CHUNK), 0
    with socket.create_connection(("127.0.0.1", port), 60) as stream:
        stream.sendall(count.to_bytes(8, "big"))
        while length := stream.recv_into(buffer):
            got += length
    return got


def _nginx(stack: ExitStack, nginx: str, directory: Path, to: int) -> tuple[int, Program]:
    with closing(socket.create_server(("127.0.0.1", 0))) as free:
        port = free.getsockname()[1]
    config = directory / "nginx.conf"
    config.write_text(NGINX.format(directory=directory, module=MODULE, port=port, to=to))
    # Its prefix is ours as well: it makes directories for temporary files at its start.
    program = stack.enter_context(Program("nginx", [nginx, "-p", str(directory), "-c", str(config)], directory / "nginx.log"))
    end = time.monotonic() + 10
    while time.monotonic() < end and program.process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return port, program
        except ConnectionRefusedError:
            time.sleep(0.05)
    raise Trouble(f"nginx does not listen\n{program.log.read_text(errors='replace')}")


def _children(pid: int) -> list[int]:
    return [int(child) for path in Path(f"/proc/{pid}/task").glob("*/children") for child in path.read_text().split()]


def _function(stack: ExitStack, programs: Path) -> tuple[Node, client.Tokens]:
    wide = {"cpu": '"1 h"', "traffic": '"900 GiB"', "lifetime": '"1 h"', "rate": '"900 GiB/s"', "share": '"400 %"'}
    offers = '[offers]\negress = ["direct"]\nconnect = ["accept 127.0.0.1:*"]\n' + lines(wide)
    node = stack.enter_context(Node(programs, offers))
    manifest = 'name = "copy"\nmethods = ["copy"]\n[needs]\ncalls = ["net.connect"]\nconnect = ["accept 127.0.0.1:*"]\n' + lines(wide)
    tokens = client.Tokens()
    with client.Session(node.address) as session:
        client.expect(session.ask(tokens.install(client.pack({"manifest.toml": manifest, "function.py": COPY}))), 201)
    return node, tokens


def _invoked(node: Node, tokens: client.Tokens, source: int, count: int) -> int:
    with client.Session(node.address) as session:
        answer = session.ask(tokens.invoke("copy", {"port": source, "count": count}), keep=False)
        client.expect(answer, 200)
        return answer.length
