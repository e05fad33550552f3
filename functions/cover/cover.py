"""Cover: streams that look the same whether they carry anything or not.

`stream` is a flow of one rate between this node and its client, in which pages arrive. `send` has the node send cover traffic through circuits
of its own, to a `sink` on other nodes, to itself, or to wherever somebody swallows it.
"""

import json
import threading
import time
from pathlib import Path

import flow
import pages
from schedule import Plan, paced

OVERHEAD_BYTES = 256 * 1024
"""Of the budget, for what no plan counts: tries to connect, and what is on its way when a stream ends."""

END_SECONDS = 30.0
"""How long the end of the client's own frames is waited for after the last of ours."""

BROWSER = Path(__file__).resolve().parent / "browser"


def stream(api, down: dict, up: dict, ramp: float = 0.0, traffic: int = 0, fetch: int = 0, browser: str | None = None) -> None:
    """Sends frames as the plan `down` says, and takes the client's, sent as `up` says: both exactly, whatever they carry.

    `down`, `up`: `{"frames", "bytes", "interval"}`. `traffic`: the bytes of the grant, of which the flow takes its own first; `fetch`: what of the
    rest may go to pages. `browser`: the node on which Browser fetches them; without one none can be asked for.
    """
    sent, received = _plan("down", down, ramp), _plan("up", up, ramp)
    needed = sent.total + received.total + OVERHEAD_BYTES + int(fetch)
    if needed > traffic:
        raise ValueError(f"this flow needs {needed} bytes of `traffic`, and it was given {traffic}")
    # All of it is known now, and said: there is no length, no chunk and no trailer left that could depend on what is carried.
    api.output.length(sent.total)
    outbox = flow.Outbox(sent.bytes)
    desk = pages.Pages(api, outbox, browser, BROWSER, int(fetch))
    wrong: list[Exception] = []

    def listen() -> None:
        try:
            for frame in pages.frames(api.input, received.bytes):
                desk.take(frame)
        except (ValueError, OSError) as error:
            wrong.append(error)
            outbox.close()

    listener = threading.Thread(target=listen, daemon=True)
    listener.start()
    try:
        pace = paced(sent.times(), sent.interval / 2)
        for _ in range(sent.frames):
            # Filled before its time has come, so that filling takes none of it.
            frame = outbox.frame()
            next(pace)
            api.output.write(frame)
    finally:
        outbox.close()
    listener.join(END_SECONDS)
    if wrong:
        raise wrong[0]


PORT = 80
"""Of a sink's onion service."""

CIRCUITS_MAX = 100

OPENING = 8
"""Circuits that are made at the same time at the start: together they would be one burst."""

OPEN_SECONDS, OPEN_PAUSE = 30.0, 3.0
"""How long, and how often, one of them is tried again if none could be made: an onion service that has just been published is not at once where
everybody looks for it."""

CIRCUIT_BYTES = 8 * 1024
"""Of the budget, for making one: what a node counts for its relays and for the connection."""

SERVICE_BYTES = 128 * 1024
"""Of the budget, for each sink: an onion service, or a bundle and what asking for one costs."""

LINE_BYTES = 256
"""Length of each line that is told."""


def send(
    api,
    circuits: int = 3,
    shape: str = "constant",
    rate: float = 5.0,
    seconds: float = 600.0,
    traffic: int = 0,
    sinks: list[str] | None = None,
    to: str | None = None,
    back: bool = False,
    machines: list[str] | None = None,
    every: float = 10.0,
) -> None:
    """Sends cover traffic through so many circuits for so long, and tells each `every` seconds, in a line of JSON, what became of it.

    `shape`: `constant` or `poisson`, of `rate` frames a second on each circuit, or `maybenot`, by these `machines`. `sinks`: nodes on which a sink is
    installed; `to`: `host:port` of whoever swallows what comes, by circuits that this function builds; without both it is its own sink. `back`: sinks send
    back what they get. `traffic`: the bytes of the grant, of which never more is used.
    """
    import random

    import traffic as lines

    if not isinstance(circuits, int) or not 1 <= circuits <= CIRCUITS_MAX:
        raise ValueError(f"there are 1 to {CIRCUITS_MAX} circuits")
    draw = random.SystemRandom().random
    if shape == "constant":
        shapes = [lines.Constant(_rate(rate), draw) for _ in range(circuits)]
    elif shape == "poisson":
        shapes = [lines.Poisson(_rate(rate), draw) for _ in range(circuits)]
    elif shape == "maybenot":
        from machines import Machined

        shapes = [Machined(one) for one in api.maybenot.start(machines or [], circuits)]
    else:
        raise ValueError("a shape is `constant`, `poisson` or `maybenot`")
    # What goes to itself passes this function twice, and what comes back does so again.
    times = (1 + bool(back)) * (1 if sinks or to else 2)
    left = int(traffic) - OVERHEAD_BYTES - circuits * CIRCUIT_BYTES - max(1, len(sinks or ())) * SERVICE_BYTES
    if shape != "maybenot":
        # Of a number at random with a mean of n, six deviations are never seen.
        frames = circuits * rate * seconds
        needed = int((frames + (6 * frames**0.5 if shape == "poisson" else circuits)) * lines.FRAME_BYTES * times)
        if needed > left:
            raise ValueError(f"this needs {int(traffic) - left + needed} bytes of `traffic`, and it was given {traffic}")
    with _Sinks(api, sinks, to, seconds, back) as where:
        made = _open(where, circuits)
        work = lines.Traffic(
            [lines.Line(form, connect, stream) for form, (connect, stream) in zip(shapes, made, strict=True)], seconds, left // times * (1 + bool(back))
        )
        work.run(lambda work: _tell(api, _state(work)), every)
        _tell(api, {"ended": True} | _state(work))


def sink(api, seconds: float, back: bool = False, every: float = 10.0) -> None:
    """Swallows what comes to an onion service, whose address is told in the first line, or sends it back."""
    with _Own(api) as own:
        _tell(api, {"address": own.address})
        received = own.serve(seconds, back, lambda received: _tell(api, {"received": received}), every)
    _tell(api, {"ended": True, "received": received})


def _tell(api, line: dict) -> None:
    # All of one length: what is told of cover traffic shall not itself be a trace of it.
    api.output.write(json.dumps(line).encode().ljust(LINE_BYTES - 1) + b"\n")


def _state(work) -> dict:
    return {
        "elapsed": round(work.elapsed, 1), "open": sum(line.socket is not None for line in work.lines), "due": sum(line.frames for line in work.lines),
        "sent": sum(line.sent for line in work.lines), "held": sum(line.held for line in work.lines), "lost": sum(line.lost for line in work.lines),
        "received": sum(line.received for line in work.lines), "late": round(work.late, 4),
    }  # fmt: skip


def _rate(rate: float) -> float:
    if isinstance(rate, bool) or not isinstance(rate, (int, float)) or not 0.01 <= rate <= 100:
        raise ValueError("a rate is 0.01 to 100 frames a second")
    return float(rate)


def _open(where: "_Sinks", count: int) -> list:
    """Connections to the sinks in turn, some at a time. Those that cannot be made now are made later, if any can."""
    from concurrent.futures import ThreadPoolExecutor

    failed: list[OSError] = []

    def one(number: int):
        connect = where.way(number)
        try:
            return connect, connect()
        except OSError as error:
            failed.append(error)
            return connect, None

    with ThreadPoolExecutor(OPENING) as pool:
        made = list(pool.map(one, range(count)))
        end = time.monotonic() + OPEN_SECONDS
        while all(stream is None for _, stream in made):
            # What the grant refuses it will refuse again.
            if isinstance(failed[-1], PermissionError) or time.monotonic() + OPEN_PAUSE > end:
                raise failed[-1]
            time.sleep(OPEN_PAUSE)
            made[0] = one(0)
            if made[0][1] is not None:
                made[1:] = pool.map(one, range(1, count))
    return made


class _Own:
    """An onion service of this function that swallows what comes to it."""

    def __init__(self, api) -> None:
        import queue

        self._service = api.tor.onion_service(PORT, discard_key=True)
        self.address = self._service.address
        self._new: queue.SimpleQueue = queue.SimpleQueue()
        threading.Thread(target=self._accept, daemon=True).start()

    def __enter__(self) -> "_Own":
        return self

    def __exit__(self, *_: object) -> None:
        self._service.close()

    def _accept(self) -> None:
        try:
            while True:
                self._new.put(self._service.accept()[0])
        except OSError:
            pass  # It was closed.

    def serve(self, seconds: float, back: bool, report, every: float) -> int:
        """Swallows for so long."""
        import queue

        import traffic as lines

        def new(timeout: float) -> list:
            found = []
            try:
                found.append(self._new.get(timeout=timeout) if timeout else self._new.get_nowait())
            except queue.Empty:
                pass
            return found

        return lines.swallow(new, seconds, back, report, every)


class _Sinks:
    """Where the circuits lead."""

    def __init__(self, api, nodes: "list[str] | None", to: str | None, seconds: float, back: bool) -> None:
        self._api = api
        self._to = to
        self._own: _Own | None = None
        self._remotes: list = []
        self._addresses: list[str] = []
        try:
            if to is not None:
                host, colon, port = to.rpartition(":")
                if not colon or not port.isdecimal() or nodes:
                    raise ValueError("`to` is `host:port`, and then there are no `sinks`")
                self._to = (host, int(port))
            elif nodes:
                for node in nodes:
                    self._install(node, seconds, back)
            else:
                self._own = _Own(api)
                self._addresses.append(self._own.address)
                threading.Thread(target=self._own.serve, args=(seconds + 60, back, lambda _: None, 60.0), daemon=True).start()
        except BaseException:
            self.__exit__()
            raise

    def _install(self, node: str, seconds: float, back: bool) -> None:
        here = Path(__file__).resolve().parent
        files = {path.name: path.read_bytes() for path in here.iterdir() if path.is_file() and path.suffix in (".py", ".toml")}
        remote = self._api.nodes.install(node, files)
        self._remotes.append(remote)
        # Sinks last a little longer than what comes to them.
        result = remote.invoke("sink", seconds=seconds + 60, back=back)
        self._addresses.append(json.loads(result.readline())["address"])

        def follow() -> None:
            try:
                while result.readline():
                    pass
            except OSError:
                pass  # It was ended, or is lost; then its circuits end too.

        threading.Thread(target=follow, daemon=True).start()

    def way(self, number: int):
        """How to connect the circuit of this number."""
        if self._to is not None:
            host, port = self._to

            def by_circuit():
                circuit = self._api.tor.circuit(exit_port=port)
                try:
                    return circuit.connect(host, port)
                except OSError:
                    circuit.close()
                    raise

            return by_circuit
        address = self._addresses[number % len(self._addresses)]
        # Without an isolation each has a circuit of its own.
        return lambda: self._api.tor.connect(address, PORT)

    def __enter__(self) -> "_Sinks":
        return self

    def __exit__(self, *_: object) -> None:
        if self._own is not None:
            self._own.__exit__()
        for remote in self._remotes:
            try:
                remote.shutdown()
            except OSError:
                pass  # It ends with its lifetime.


def _plan(name: str, given: dict, ramp: float) -> Plan:
    try:
        return Plan(**given, ramp=ramp)
    except TypeError:
        raise ValueError(f"`{name}` has `frames`, `bytes` and `interval`, and nothing else") from None
