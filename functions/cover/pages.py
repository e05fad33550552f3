"""Requests that come with the flow: each is a page that Browser fetches elsewhere, and whose bytes go into the flow as they come.

Each page has a Browser of its own, installed for it and ended after it, so that its bounds are those of one page and nothing is left of it. It
does not run in this process: what it costs to fetch and pack a page would be seen in the flow's timing.
"""

import contextlib
import io
import json
import threading

from bento.nodes import pack

import flow

TYPE_CHECKING = False
if TYPE_CHECKING:
    from os import PathLike

METHOD = "page"

REQUESTS_MAX = 4
"""At the same time."""

QUESTION_BYTES_MAX = 12 * 1024
"""Longest question: what the arguments of an invocation may have."""

SPARE_BYTES = 512 * 1024
"""Of the budget, for each request: what the node may have taken of an answer that is given up, and what asking costs besides the bundle."""

PIECE_BYTES = 16 * 1024


class Pages:
    """Takes questions from the flow and brings answers into it, within a budget of bytes."""

    def __init__(self, api: object, outbox: flow.Outbox, node: str | None, browser: "str | PathLike", budget: int) -> None:
        self._api = api
        self._outbox = outbox
        self._node = node
        self._browser = browser
        self._budget = budget
        self._turn = threading.Lock()
        # Only the thread that hears the client uses it.
        self._questions: dict[int, bytearray] = {}

    def take(self, frame: bytes) -> None:
        """One frame of the flow from the client."""
        for kind, number, data in flow.messages(frame):
            if kind == flow.GIVE_UP:
                self._questions.pop(number, None)
                self._outbox.give_up(number)
            elif kind == flow.DATA:
                question = self._questions.setdefault(number, bytearray())
                question += data
                if len(question) > QUESTION_BYTES_MAX or len(self._questions) > REQUESTS_MAX:
                    raise ValueError("the flow has a question that is too long, or too many at once")
            else:
                self._ask(number, bytes(self._questions.pop(number, b"")))

    def _ask(self, number: int, question: bytes) -> None:
        if self._outbox.is_open(number):
            raise ValueError("the flow has two questions of one number")
        busy = self._outbox.count() >= REQUESTS_MAX
        self._outbox.open(number)
        if busy:
            self._outbox.end(number, f"{REQUESTS_MAX} requests are on their way already; ask again when one has ended")
            return
        threading.Thread(target=self._answer, args=(number, question), daemon=True).start()

    def _answer(self, number: int, question: bytes) -> None:
        try:
            wrong = None
            try:
                self._fetch(number, question)
            except flow.GivenUp:
                raise
            except Exception as error:
                # Whatever it is: the flow goes on, and who asked is told.
                wrong = f"{type(error).__name__}: {error}"
            self._outbox.end(number, wrong)
        except flow.GivenUp:
            pass  # Nobody is left to tell.

    def _fetch(self, number: int, question: bytes) -> None:
        asked = json.loads(question)
        if not isinstance(asked, dict) or asked.get("method") != METHOD or not isinstance(asked.get("arguments"), dict):
            raise ValueError(f"a request is an object with `method`, which is `{METHOD}`, and `arguments`")
        if self._node is None:
            raise ValueError("this flow carries no pages: it was started without a node for Browser")
        self._spend(len(pack(self._browser)) + SPARE_BYTES)
        remote = self._api.nodes.install(self._node, self._browser)
        try:
            with remote.invoke(METHOD, **asked["arguments"]) as result:
                while piece := result.read1(PIECE_BYTES):
                    self._spend(len(piece))
                    self._outbox.put(number, piece)
        finally:
            # What cannot be reached ends with its lifetime.
            with contextlib.suppress(OSError):
                remote.shutdown()

    def _spend(self, count: int) -> None:
        with self._turn:
            if count > self._budget:
                raise OSError("what this flow may spend on pages is used up")
            self._budget -= count


def frames(source: io.BufferedIOBase, size: int):
    """The frames of a stream, until it ends."""
    while len(frame := source.read(size)) == size:
        yield frame
