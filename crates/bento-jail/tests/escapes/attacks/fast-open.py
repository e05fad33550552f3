"""Connects without connecting: by the first data of a stream, and by a datagram."""


def fast():
    with socket.socket() as client:
        client.settimeout(3)
        client.sendto(b"x", socket.MSG_FASTOPEN, ("127.0.0.1", WORLD["tcp"]))


def datagram():
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", ("127.0.0.1", WORLD["udp"]))


forbidden("fast open", fast)
forbidden("datagram", datagram)
allowed("exchange", echo)
