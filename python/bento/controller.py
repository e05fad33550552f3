"""Stem's controller over a stream from the node (`tor.controller`). Needs the package `stem`, as the image `tor` has it."""

import socket

import stem.control
import stem.socket

from bento.streams import opened

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bento.api import Ask


class NodeSocket(stem.socket.ControlSocket):
    """A control connection that the node makes. Stem makes another one after the first has ended, when it is asked to connect again."""

    def __init__(self, ask: "Ask") -> None:
        super().__init__()
        self._ask = ask
        self.connect()

    def is_localhost(self) -> bool:
        """As for every control connection; scripts ask before they look for a process."""
        return True

    def _make_socket(self) -> socket.socket:
        try:
            _, stream = self._ask("tor.controller", {}).result()
            stream = opened(stream)
        except OSError as error:
            raise stem.SocketError(error) from error
        return socket.socket(stream.family, stream.type, 0, stream.detach())


def controller(ask: "Ask") -> stem.control.Controller:
    """An authenticated controller."""
    found = stem.control.Controller(NodeSocket(ask))
    try:
        found.authenticate()
    except BaseException:
        found.close()
        raise
    return found
