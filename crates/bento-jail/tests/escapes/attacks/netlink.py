"""Talks to the kernel's own services: routes, interfaces, audit, device events."""

import struct


def routes():
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as link:
        link.bind((0, 0))
        # RTM_GETLINK for all interfaces.
        link.send(struct.pack("=IHHII", 32, 18, 0x301, 1, 0) + bytes(16))
        link.settimeout(3)
        return len(link.recv(4096)) > 16


forbidden("interfaces", routes)
for name, protocol in ("sockets", 4), ("audit", 9), ("netfilter", 12), ("devices", 15), ("generic", 16):
    forbidden(name, lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol).close())
allowed("exchange", echo)
