"""Shard's own path, from a file to sealed shards and back, beside zfec alone on the same bytes."""

import json
import os
import statistics
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from measures.machine import ROOT, figure
from measures.programs import Trouble

ROUNDS = 7
WARM_UP_ROUNDS = 1

FILE_BYTES = 64 * 1000 * 1000

K, N = 3, 10
"""Of which zfec's authors tell speeds, and others after them."""

WHEELS = Path(os.environ.get("BENTO_WHEELS") or Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bento" / "wheels")
"""Where `setup.sh` puts the package `raptorq`, which Debian does not have."""


class _Taken:
    """Seconds of both clocks that some work took, round after round."""

    def __init__(self) -> None:
        self.wall: list[float] = []
        self.cpu: list[float] = []

    def take(self, work: Callable[[], object]) -> object:
        """Does it, and remembers how long it took."""
        wall, cpu = time.perf_counter(), time.process_time()
        result = work()
        self.wall.append(time.perf_counter() - wall)
        self.cpu.append(time.process_time() - cpu)
        return result

    @property
    def rate(self) -> float:
        """MB of the file a second: median."""
        return FILE_BYTES / 1e6 / statistics.median(self.wall)

    def tell(self, what: str) -> None:
        """A line for people."""
        rates = sorted(FILE_BYTES / 1e6 / seconds for seconds in self.wall)
        cost = statistics.median(self.cpu) / (FILE_BYTES / 1e9)
        print(f"{what:48} min {rates[0]:7.1f}  median {self.rate:7.1f}  max {rates[-1]:7.1f} MB/s   {cost:6.2f} CPU s/GB", flush=True)


def measure(rounds: int = ROUNDS) -> None:
    """Make shards of a file and the file of its shards, as the function does it, beside zfec alone"""
    sys.path[:0] = [str(ROOT / "functions/shard"), str(ROOT / "python")]
    sys.path.append(str(WHEELS))
    try:
        import shard
        import zfec.easyfec
        from nacl import bindings  # noqa: F401
    except ImportError as error:
        raise Trouble(f"{error}\nHint: apt-get install python3-zfec python3-nacl") from None
    try:
        import raptorq  # noqa: F401

        modes = ["rs", "fountain"]
    except ImportError:
        modes = ["rs"]
        print("fountain   not measured: there is no package raptorq here (setup.sh fetches it)")
    data = os.urandom(FILE_BYTES)
    sides = {mode: (_Taken(), _Taken()) for mode in [*modes, "zfec"]}
    for number in range(WARM_UP_ROUNDS + rounds):
        if number == WARM_UP_ROUNDS:
            sides = {mode: (_Taken(), _Taken()) for mode in sides}
        for mode, (made, rebuilt) in sides.items():
            if mode == "zfec":
                _alone(zfec.easyfec, data, made, rebuilt)
            else:
                _whole(shard, mode, data, made, rebuilt)
    print(f"{FILE_BYTES / 1e6:g} MB of random bytes, {K} of {N} shards; back from {K} of which none is a part of the file; {rounds} rounds, alternating")
    for mode, (made, rebuilt) in sides.items():
        name = "zfec alone" if mode == "zfec" else f"Shard, {mode}"
        made.tell(f"{name}: file to shards")
        rebuilt.tell(f"{name}: shards to file")
    print("ratios are ours / zfec in speed: 1 is as fast, less is slower")
    for at, what in enumerate(("encode", "decode")):
        for mode in modes:
            prefix = "shard" if mode == "rs" else "shard_fountain"
            figure(f"{prefix}_{what}_mb_s", sides[mode][at].rate, "MB/s")
            figure(f"{prefix}_{what}_ratio", sides[mode][at].rate / sides["zfec"][at].rate, "x")
        figure(f"shard_{what}_zfec_mb_s", sides["zfec"][at].rate, "MB/s")


def _whole(shard, mode: str, data: bytes, made: _Taken, rebuilt: _Taken) -> None:
    """The function itself: `put`, then `get` without the shards that are parts of the file. Its nodes cost nothing."""
    world = _World()
    recipe = json.loads(made.take(lambda: world.run(shard.put, data, n=N, k=K, size=len(data), mode=mode, nodes=world.addresses)))
    recipe["shards"] = [entry for entry in recipe["shards"] if entry["number"] >= K][-K:]
    recipe["n"] = len(recipe["shards"])
    back = rebuilt.take(lambda: world.run(shard.get, json.dumps(recipe).encode()))
    if back != data:
        raise Trouble(f"{mode}: the file did not come back")


def _alone(easyfec, data: bytes, made: _Taken, rebuilt: _Taken) -> None:
    """zfec as its own package offers it for bytes, in stripes as long as Shard's."""
    stripe = K * 1024 * 1024
    encoder, decoder = easyfec.Encoder(K, N), easyfec.Decoder(K, N)
    view = memoryview(data)
    stripes = [bytes(view[at : at + stripe]) for at in range(0, len(data), stripe)]
    blocks = made.take(lambda: [encoder.encode(part) for part in stripes])
    chosen = list(range(N))[-K:]

    def back() -> list[bytes]:
        return [
            decoder.decode([each[number] for number in chosen], chosen, K * len(each[0]) - len(part))
            for each, part in zip(blocks, stripes)
        ]

    if rebuilt.take(back) != stripes:
        raise Trouble("zfec: the file did not come back")


class _World:
    """What the function is given in place of a node's API: other nodes that keep what they get in memory, at once."""

    addresses = [f"node{number}.onion" for number in range(N)]

    def __init__(self) -> None:
        self.nodes = self
        self._pieces: dict[str, dict[int, bytes]] = {}

    def run(self, method: Callable, data: bytes, **arguments: object) -> bytes:
        """Invokes a method with this input, and gives its output."""
        self.input, self.output = _Input(data), _Output()
        method(self, **arguments)
        return b"".join(self.output.written)

    def log(self, text: str) -> None:
        """For the client, who is not here."""

    def install(self, *_: object) -> None:
        """Does not fail."""

    def function(self, node: str, invocation: str, shutdown: str) -> "_Remote":
        """A Dropbox there."""
        return _Remote(self._pieces.setdefault(node, {}), invocation, shutdown)


class _Remote:
    def __init__(self, pieces: dict[int, bytes], invocation: str, shutdown: str) -> None:
        self._pieces = pieces
        self.invocation_token, self.shutdown_token = invocation, shutdown

    @contextmanager
    def invoke(self, method: str, input: bytes = b"", drop: str = "", **arguments: object) -> "Iterator[_Remote]":
        """`begin`, `put`, `finish` and `get` of a Dropbox that checks nothing."""
        if method == "put":
            self._pieces[arguments["offset"]] = input
            self._answer = b'{"offset": %d}' % (arguments["offset"] + len(input))
        else:
            there = b'{"offset": %d}' % sum(map(len, self._pieces.values()))
            self._answer = self._pieces[arguments["offset"]] if method == "get" else there
        yield self

    def read(self) -> bytes:
        """The answer."""
        return self._answer

    def shutdown(self) -> None:
        """Ends it."""


class _Input:
    def __init__(self, data: bytes) -> None:
        self._left = memoryview(data)

    def read(self, count: int) -> bytes:
        """So many bytes, or what is left."""
        taken, self._left = self._left[:count], self._left[count:]
        return bytes(taken)


class _Output:
    def __init__(self) -> None:
        self.written: list[bytes] = []

    def type(self, *_: object) -> None:
        """Nobody is told."""

    length = type

    def write(self, data: bytes) -> None:
        """Keeps them."""
        self.written.append(bytes(data))
