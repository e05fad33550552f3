"""Asks for names around the node: by the resolver's own sockets."""

import struct


def question(address):
    query = struct.pack(">HHHHHH", 1, 0x100, 1, 0, 0, 0) + b"\x07example\x03com\0" + struct.pack(">HH", 1, 1)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.settimeout(2)
        client.sendto(query, address)


forbidden("a server", lambda: question(("127.0.0.1", WORLD["udp"])))
forbidden("another", lambda: question(("127.0.0.53", 53)))
forbidden("by file", lambda: b"nameserver" in open("/etc/resolv.conf", "rb").read())
allowed("numbers", lambda: socket.inet_aton("127.0.0.1") == b"\x7f\0\0\1")
