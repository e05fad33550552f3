"""Placeholder."""


def measure(rounds: int = 10) -> None:
    """Fetch a page with `bento browse` through a private Tor network, as a ratio to plain Tor"""
