"""Frames of a flow: always full, of messages as far as there are any, else of nothing.

    frame    messages, then zero bytes up to its size
    message  kind (1 byte), number (4), length (2), and so many bytes; big endian; none crosses the end of a frame
    kind     0 nothing more in this frame, 1 data, 2 end, 3 give up

A number is a request's, chosen by who asks. Its question is data and an end, and so is the answer, whose end has a text in JSON:
`{"outcome": "returned"}` or `{"outcome": "failed", "text": "…"}`. Tor encrypts the stream, so that zero bytes look like all others.
"""

import json
import struct
import threading

TYPE_CHECKING = False
if TYPE_CHECKING:
    from collections.abc import Iterator

HEAD = struct.Struct(">BIH")

NOTHING, DATA, END, GIVE_UP = range(4)

WAITING_BYTES = 128 * 1024
"""What of one answer waits for its turn; who brings more of it waits as well."""

TEXT_CHARACTERS_MAX = 300
"""Of an end, so that its message finds room in a frame."""


class GivenUp(Exception):
    """Nobody wants this answer any more."""


class _Answer:
    def __init__(self) -> None:
        self.data = bytearray()
        self.end: bytes | None = None


class Outbox:
    """Answers that wait for their turn in the flow; all get equal parts of it."""

    def __init__(self, frame_bytes: int) -> None:
        self._frame_bytes = frame_bytes
        self._changed = threading.Condition()
        self._answers: dict[int, _Answer] = {}

    def open(self, number: int) -> None:
        """An answer will come."""
        with self._changed:
            self._answers[number] = _Answer()

    def is_open(self, number: int) -> bool:
        """Whether an answer is on its way."""
        with self._changed:
            return number in self._answers

    def count(self) -> int:
        """How many answers are on their way."""
        with self._changed:
            return len(self._answers)

    def put(self, number: int, data: bytes) -> None:
        """Some of an answer; waits while much of it waits already."""
        with self._changed:
            answer = self._answer(number)
            while len(answer.data) >= WAITING_BYTES:
                self._changed.wait()
                self._answer(number)
            answer.data += data

    def end(self, number: int, text: str | None = None) -> None:
        """An answer is whole, or failed and why."""
        told = {"outcome": "returned"} if text is None else {"outcome": "failed", "text": text[:TEXT_CHARACTERS_MAX]}
        end = json.dumps(told, ensure_ascii=False).encode("utf-8", "replace")
        room = self._frame_bytes - HEAD.size
        if len(end) > room:
            end = json.dumps({"outcome": "failed"}).encode()
        with self._changed:
            self._answer(number).end = end

    def give_up(self, number: int) -> None:
        """Forgets an answer; whoever brings it is told by `GivenUp`."""
        with self._changed:
            self._answers.pop(number, None)
            self._changed.notify_all()

    def close(self) -> None:
        """Forgets all."""
        with self._changed:
            self._answers.clear()
            self._changed.notify_all()

    def frame(self) -> bytes:
        """The next frame: what there is, and nothing for the rest."""
        frame = bytearray()
        with self._changed:
            while self._frame_bytes - len(frame) > HEAD.size:
                number = next((number for number, answer in self._answers.items() if answer.data or answer.end is not None), None)
                if number is None:
                    break
                # To the end of the line, so that the next frame begins with another one.
                answer = self._answers.pop(number)
                room = self._frame_bytes - len(frame) - HEAD.size
                if answer.data:
                    piece = answer.data[:room]
                    del answer.data[:room]
                    frame += HEAD.pack(DATA, number, len(piece)) + piece
                elif len(answer.end) <= room:
                    frame += HEAD.pack(END, number, len(answer.end)) + answer.end
                    continue
                else:
                    self._answers = {number: answer} | self._answers
                    break
                self._answers[number] = answer
            self._changed.notify_all()
        return bytes(frame.ljust(self._frame_bytes, b"\0"))

    def _answer(self, number: int) -> _Answer:
        if number not in self._answers:
            raise GivenUp
        return self._answers[number]


def messages(frame: bytes) -> "Iterator[tuple[int, int, bytes]]":
    """The messages of a frame: kind, number and bytes; `ValueError` for what is no frame."""
    at = 0
    while at + HEAD.size <= len(frame):
        kind, number, length = HEAD.unpack_from(frame, at)
        if kind == NOTHING:
            return
        at += HEAD.size
        if kind > GIVE_UP or at + length > len(frame):
            raise ValueError("the flow has a frame that is none")
        yield kind, number, frame[at : at + length]
        at += length
