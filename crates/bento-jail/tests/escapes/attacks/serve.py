"""Serves others on the machine's addresses."""


def serve(family, address):
    with socket.socket(family) as server:
        server.bind(address)
        server.listen()


forbidden("TCP", lambda: serve(socket.AF_INET, ("127.0.0.1", 0)))
forbidden("TCP for all", lambda: serve(socket.AF_INET, ("0.0.0.0", 0)))
forbidden("TCP, IPv6", lambda: serve(socket.AF_INET6, ("::1", 0)))
forbidden("UDP", lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM).bind(("127.0.0.1", 0)))
allowed("exchange", echo)
