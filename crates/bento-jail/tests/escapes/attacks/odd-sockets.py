"""Makes sockets of every other family: virtual machines, cryptography, Bluetooth, and forty more."""

for family in range(2, 47):
    for kind in socket.SOCK_STREAM, socket.SOCK_DGRAM, socket.SOCK_SEQPACKET, socket.SOCK_RAW:
        forbidden(f"{family}/{kind}", lambda: socket.socket(family, kind).close())
forbidden("raw local", lambda: socket.socket(socket.AF_UNIX, socket.SOCK_RAW).close())
forbidden("a pair of another", lambda: [end.close() for end in socket.socketpair(socket.AF_TIPC, socket.SOCK_STREAM)])
allowed("exchange", echo)
allowed("pairs", lambda: [end.close() for kind in (1, 2, 5) for end in socket.socketpair(socket.AF_UNIX, kind)])
