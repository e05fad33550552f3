"""Connects to servers on the machine's loopback, where the node's own, its Tor and its control port would be."""

port = WORLD["tcp"]


def connect(family, address):
    with socket.socket(family, socket.SOCK_STREAM) as client:
        client.settimeout(3)
        client.connect(address)


forbidden("loopback", lambda: connect(socket.AF_INET, ("127.0.0.1", port)))
forbidden("another of it", lambda: connect(socket.AF_INET, ("127.0.0.2", port)))
forbidden("any", lambda: connect(socket.AF_INET, ("0.0.0.0", port)))
forbidden("IPv6", lambda: connect(socket.AF_INET6, ("::1", WORLD["tcp6"] or port)))
forbidden("IPv4 in IPv6", lambda: connect(socket.AF_INET6, ("::ffff:127.0.0.1", port)))
allowed("exchange", echo)
