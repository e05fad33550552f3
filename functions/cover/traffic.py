"""Cover traffic over many circuits at once: each has its own times, and one loop sends for all.

It knows sockets and times. Where a socket leads is the caller's affair, and what is a good time a shape's.
"""

import heapq
import math
import queue
import selectors
import socket
import threading
import time

from schedule import poisson

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Callable

FRAME_BYTES = 498
"""What one of Tor's cells carries of a stream."""

READ_BYTES = 65_536

AGAIN_SECONDS = 15.0
"""Before a connection that was lost is made again: circuits that break at once must not become a flood of new ones."""


class Constant:
    """A frame each `1 / rate` seconds, from a moment within the first such time that differs from circuit to circuit."""

    def __init__(self, rate: float, draw: "Callable[[], float]") -> None:
        self._interval = 1 / rate
        self._first = draw() * self._interval
        self._fired = 0

    def due(self) -> float | None:
        """When something is to be done next, in seconds from the start."""
        return self._first + self._fired * self._interval

    def fire(self, _now: float) -> bool:
        """That time has come: whether a frame is to be sent."""
        self._fired += 1
        return True

    def heard(self, _now: float, _frames: int) -> None:
        """Frames came back."""


class Poisson:
    """Frames at random, `rate` a second in the mean, each independent of all others."""

    def __init__(self, rate: float, draw: "Callable[[], float]") -> None:
        self._times = poisson(rate, math.inf, draw)
        self._next = next(self._times)

    def due(self) -> float | None:
        """When something is to be done next, in seconds from the start."""
        return self._next

    def fire(self, _now: float) -> bool:
        """That time has come: whether a frame is to be sent."""
        self._next = next(self._times)
        return True

    def heard(self, _now: float, _frames: int) -> None:
        """Frames came back."""


class Line:
    """One circuit: its socket while there is one, and what went over it."""

    def __init__(self, shape: object, connect: "Callable[[], socket.socket]", stream: "socket.socket | None" = None) -> None:
        self.shape = shape
        self.connect = connect
        self.socket = stream
        self.planned = 0
        """Which of its entries in the loop's queue counts."""
        self.since = 0.0
        """When it was lost, or made again last."""
        self.frames = 0
        """Frames that were due."""
        self.sent = 0
        self.held = 0
        """Frames that were left out."""
        self.received = 0
        """Bytes that came back."""
        self.lost = 0
        """How often it broke."""
        self.rest = b""
        """What its circuit has not taken yet of a frame."""


class Traffic:
    """Keeps the shapes of all lines until the end, within a number of bytes.

    A frame that a circuit does not take when it is due, since it is behind, is left out and counted as held: what piles up behind a slow circuit would
    come in a flood when it moves.
    """

    def __init__(self, lines: list[Line], seconds: float, budget: int, clock: "Callable[[], float]" = time.monotonic) -> None:
        self.lines = lines
        self.seconds = seconds
        self.budget = budget
        self.spent = 0
        """Bytes so far, both ways."""
        self.late = 0.0
        """By how much the latest frame was late, in seconds."""
        self.elapsed = 0.0
        """Seconds since the start."""
        self._clock = clock
        self._selector = selectors.DefaultSelector()
        self._frame = bytes(FRAME_BYTES)
        self._queue: list[tuple[float, int, int]] = []
        self._made: queue.SimpleQueue = queue.SimpleQueue()
        self._making = False

    def run(self, report: "Callable[[Traffic], object] | None" = None, every: float = 10.0) -> None:
        """Sends until the end, and reports each `every` seconds."""
        start = self._clock()
        for index, line in enumerate(self.lines):
            self._register(line)
            self._plan(index)
        told = every
        while self.elapsed < self.seconds and self.spent + FRAME_BYTES <= self.budget:
            self._take_made()
            if report is not None and self.elapsed >= told:
                report(self)
                told += every
            fired = []
            while self._queue and self._queue[0][0] <= self.elapsed:
                at, index, planned = heapq.heappop(self._queue)
                line = self.lines[index]
                if planned == line.planned:
                    self.late = max(self.late, self.elapsed - at)
                    if line.shape.fire(self.elapsed):
                        self._send(line)
                    fired.append(index)
            # After all have sent: what a shape wants next may take a question to the node.
            for index in fired:
                self._plan(index)
            self.elapsed = self._clock() - start
            until = min(self._queue[0][0] if self._queue else self.seconds, self.seconds, told, self.elapsed + 1)
            self._hear(until - self.elapsed)
            self.elapsed = self._clock() - start
        for line in self.lines:
            if line.socket is not None:
                line.socket.close()
        self._selector.close()

    def _plan(self, index: int) -> None:
        line = self.lines[index]
        line.planned += 1
        at = line.shape.due()
        if at is not None and at < self.seconds:
            heapq.heappush(self._queue, (at, index, line.planned))

    def _send(self, line: Line) -> None:
        line.frames += 1
        if line.socket is None:
            line.held += 1
            if not self._making and self.elapsed - line.since >= AGAIN_SECONDS:
                self._making, line.since = True, self.elapsed
                threading.Thread(target=self._make, args=(line,), daemon=True).start()
            return
        try:
            # A frame of which the circuit has taken a part is ended before another begins.
            if line.rest:
                line.rest = line.rest[line.socket.send(line.rest, socket.MSG_DONTWAIT) :]
            if line.rest or self.spent + FRAME_BYTES > self.budget:
                line.held += 1
                return
            count = line.socket.send(self._frame, socket.MSG_DONTWAIT)
            line.rest = self._frame[count:]
            line.sent += 1
            self.spent += FRAME_BYTES
        except BlockingIOError:
            line.held += 1
        except OSError:
            self._lose(line)

    def _hear(self, left: float) -> None:
        """Waits for the next time, and reads what comes meanwhile."""
        if not self._selector.get_map():
            time.sleep(max(0.0, left))
            return
        for key, _ in self._selector.select(max(0.0, left)):
            index = key.data
            line = self.lines[index]
            try:
                count = len(line.socket.recv(READ_BYTES, socket.MSG_DONTWAIT))
            except BlockingIOError:
                continue
            except OSError:
                count = 0
            if not count:
                self._lose(line)
                continue
            before = line.received // FRAME_BYTES
            line.received += count
            self.spent += count
            line.shape.heard(self.elapsed, line.received // FRAME_BYTES - before)
            self._plan(index)

    def _register(self, line: Line) -> None:
        if line.socket is not None:
            self._selector.register(line.socket, selectors.EVENT_READ, self.lines.index(line))

    def _lose(self, line: Line) -> None:
        self._selector.unregister(line.socket)
        line.socket.close()
        line.socket, line.rest, line.since = None, b"", self.elapsed
        line.lost += 1

    def _make(self, line: Line) -> None:
        """In a thread of its own: a new circuit takes its time."""
        try:
            self._made.put((line, line.connect()))
        except OSError:
            self._made.put((line, None))

    def _take_made(self) -> None:
        while not self._made.empty():
            line, line.socket = self._made.get()
            self._making = False
            self._register(line)


def swallow(streams: "Callable[[float], list[socket.socket]]", seconds: float, back: bool, report: "Callable[[int], object]", every: float = 10.0) -> int:
    """Reads whatever comes over streams, for so long, and sends it back if wanted; how many bytes came.

    `streams(timeout)` gives those that are new.
    """
    selector = selectors.DefaultSelector()
    end, told, received = time.monotonic() + seconds, time.monotonic() + every, 0
    while (now := time.monotonic()) < end:
        if now >= told:
            report(received)
            told += every
        for stream in streams(0.0 if selector.get_map() else 0.2):
            selector.register(stream, selectors.EVENT_READ)
        if not selector.get_map():
            continue
        for key, _ in selector.select(0.2):
            stream = key.fileobj
            try:
                data = stream.recv(READ_BYTES, socket.MSG_DONTWAIT)
                if data and back:
                    # What it does not take now is dropped: it is nothing.
                    stream.send(data, socket.MSG_DONTWAIT)
            except BlockingIOError:
                continue
            except OSError:
                data = b""
            received += len(data)
            if not data:
                selector.unregister(stream)
                stream.close()
    for key in list(selector.get_map().values()):
        key.fileobj.close()
    selector.close()
    return received
