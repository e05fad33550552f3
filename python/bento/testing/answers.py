"""What the parts of a `FakeApi` share: an answer's error, and streams as a node hands them over."""

import _socket
import threading
from collections.abc import Callable


class Failure(Exception):
    """An answer's error. `code`: another node's word for why it refused."""

    def __init__(self, kind: str, text: str, code: str | None = None) -> None:
        super().__init__(text)
        self.kind = kind
        self.code = code


def served(play: Callable[[_socket.socket], object]) -> _socket.socket:
    """The function's end of a stream whose other end `play` has, in a thread of its own."""
    near, far = _socket.socketpair(_socket.AF_UNIX, _socket.SOCK_STREAM)

    def run() -> None:
        try:
            play(far)
        except ConnectionError:
            pass  # The function has closed its end.
        finally:
            far.close()

    threading.Thread(target=run, daemon=True).start()
    return near


def received(stream: _socket.socket, limit: int | None = None) -> bytearray:
    """All that comes until the end; a byte more than the limit, if there is more."""
    found = bytearray()
    while limit is None or len(found) <= limit:
        part = stream.recv(65_536)
        if not part:
            break
        found += part
    return found
