"""`api.link`: addresses under which one method can be run without a token, in Tor Browser for example."""

TYPE_CHECKING = False
if TYPE_CHECKING:
    from bento.api import Ask


class Links:
    """Whoever has such an address may run this method, with these arguments, and nothing else."""

    def __init__(self, ask: "Ask") -> None:
        self._ask = ask

    def make(self, method: str, arguments: dict | None = None, *, seconds: float) -> str:
        """The path of a new link, which follows the node's address: `/l/…`. It ends after so many seconds, and with the function.

        What the visitor's address has behind it reaches the method as one more argument, `path`.
        """
        answer, _ = self._ask("link.make", {"method": method, "arguments": arguments or {}, "seconds": seconds}).result()
        return answer["path"]

    def end(self, path: str) -> None:
        """Ends a link before its time."""
        self._ask("link.end", {"path": path}).result()
