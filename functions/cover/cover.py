"""Cover: streams that look the same whether they carry anything or not.

`stream` is a flow of one rate between this node and its client, in which pages arrive.
"""

import threading
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


def _plan(name: str, given: dict, ramp: float) -> Plan:
    try:
        return Plan(**given, ramp=ramp)
    except TypeError:
        raise ValueError(f"`{name}` has `frames`, `bytes` and `interval`, and nothing else") from None
