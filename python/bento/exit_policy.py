"""Where a function may connect: Tor's exit-policy grammar as a node reads it (`spec/policy.md`), for `bento.testing`.

Not part of the jail: a node decides by itself. What matches no rule is rejected, and an `accept` reaches a private address only where
it names one.
"""

import ipaddress
import re
from collections.abc import Iterable

Address = ipaddress.IPv4Address | ipaddress.IPv6Address

Block = tuple[int, int]
"""The first and the last number of a block. IPv4 addresses count as their IPv4-mapped ones, so that both families have one space."""

_MAPPED = 0xFFFF_0000_0000
_ALL_V4 = (_MAPPED, _MAPPED + 0xFFFF_FFFF)
_ALL = (0, (1 << 128) - 1)

_PRIVATE_NETWORKS = """
0.0.0.0/8 10.0.0.0/8 100.64.0.0/10 127.0.0.0/8 169.254.0.0/16 172.16.0.0/12 192.0.0.0/24 192.0.2.0/24 192.88.99.0/24 192.168.0.0/16
198.18.0.0/15 198.51.100.0/24 203.0.113.0/24 224.0.0.0/3
100::/8 2001::/23 2001:db8::/32 2002::/16 3fff::/20 5f00::/16 fc00::/7 fe80::/10 fec0::/10 ff00::/8
"""


class RuleError(ValueError):
    """A text is no rule; `part` says which part of it is wrong."""

    def __init__(self, part: str, text: str) -> None:
        super().__init__(f"`{text}` is no rule of an exit policy: its {part} is wrong")
        self.part = part


def number(address: Address) -> int:
    """The address in the one space of both families."""
    return int(address) + (_MAPPED if address.version == 4 else 0)


def _block(network: ipaddress.IPv4Network | ipaddress.IPv6Network) -> Block:
    return number(network.network_address), number(network.broadcast_address)


# Of ::/8 all but the mapped IPv4 addresses, which are judged as IPv4.
PRIVATE: tuple[Block, ...] = (
    (0, _MAPPED - 1),
    (_ALL_V4[1] + 1, (1 << 120) - 1),
    *(_block(ipaddress.ip_network(text)) for text in _PRIVATE_NETWORKS.split()),
)


def is_private(address: Address) -> bool:
    """Is it nobody's on the public Internet, or does it lead to one that is not?"""
    return any(first <= number(address) <= last for first, last in PRIVATE)


class Rule:
    """One rule, such as `accept 192.0.2.0/24:80-443`."""

    def __init__(self, text: str) -> None:
        verb, *rest = text.split(maxsplit=1)[:2] or [""]
        if verb not in ("accept", "reject") or not rest:
            raise RuleError("verb", text)
        self.accept = verb == "accept"
        rest = rest[0].rstrip()
        # The port follows the last colon, unless that colon is inside the brackets of an IPv6 address.
        pattern, colon, ports = rest.rpartition(":")
        if not colon or "]" in ports:
            pattern, ports = rest, "*"
        self._pattern = pattern
        self._block = _addresses(pattern, text)
        self._ports = _ports(ports, text)
        self._names_private = any(first <= self._block[0] and self._block[1] <= last for first, last in PRIVATE)

    def matches(self, address: Address, port: int) -> bool:
        """Is it for this destination?"""
        if not self.has_port(port):
            return False
        place = number(address)
        if self._pattern == "private":
            return is_private(address)
        inside = self._block[0] <= place <= self._block[1]
        if self._pattern == "*6":
            inside = not _ALL_V4[0] <= place <= _ALL_V4[1]
        # An accept reaches private addresses only where it names them; a reject reaches all that it covers.
        return inside and (not self.accept or self._names_private or not is_private(address))

    def is_one_of(self, patterns: tuple[str, ...]) -> bool:
        """Is its pattern one of these?"""
        return self._pattern in patterns

    def has_port(self, port: int) -> bool:
        """Is the port one of its?"""
        return self._ports[0] <= port <= self._ports[1]


class ExitPolicy:
    """Rules, of which the first that matches decides."""

    def __init__(self, rules: Iterable[str]) -> None:
        self.rules = [Rule(text) for text in rules]

    def accepts(self, address: Address, port: int) -> bool:
        """May a connection go there?"""
        return next((rule.accept for rule in self.rules if rule.matches(address, port)), False)

    def accepts_onion(self, port: int) -> bool:
        """May a connection go to an onion service at this port? Those rules decide that are about every address of a family."""

        def everywhere(patterns: tuple[str, ...]) -> bool:
            return next((rule.accept for rule in self.rules if rule.has_port(port) and rule.is_one_of(patterns)), False)

        return everywhere(("*", "*4", "0.0.0.0/0", "[::]/0")) and everywhere(("*", "*6", "[::]/0"))

    def may_accept_port(self, port: int) -> bool:
        """Is there a rule that accepts anything at this port? Asked before a name is resolved."""
        return any(rule.accept and rule.has_port(port) for rule in self.rules)


def _addresses(pattern: str, text: str) -> Block:
    if pattern in ("*", "*6", "private"):
        return _ALL
    if pattern == "*4":
        return _ALL_V4
    found = re.fullmatch(r"(?:\[([0-9A-Fa-f:.]+)\]|([0-9.]+))(?:/([0-9]+))?", pattern, re.ASCII)
    if not found:
        raise RuleError("address", text)
    six, four, prefix = found.groups()
    try:
        address: Address = ipaddress.IPv6Address(six) if six else ipaddress.IPv4Address(four)
    except ValueError:
        raise RuleError("address", text) from None
    try:
        return _block(ipaddress.ip_network((address, int(prefix) if prefix else address.max_prefixlen)))
    except ValueError:
        raise RuleError("prefix", text) from None


def _ports(ports: str, text: str) -> tuple[int, int]:
    if ports == "*":
        return 1, 65_535
    found = re.fullmatch(r"([0-9]+)(?:-([0-9]+))?", ports, re.ASCII)
    first, last = (int(found[1]), int(found[2] or found[1])) if found else (0, 0)
    if not 1 <= first <= last <= 65_535:
        raise RuleError("port", text)
    return first, last
