"""Reaches local sockets without a file, which no mount hides."""


def connect(address):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(address)


def send(address):
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as client:
        client.sendto(b"x", address)


forbidden("outside", lambda: connect("\0" + WORLD["abstract"]))
forbidden("datagram", lambda: send("\0" + WORLD["abstract"]))
for name in "/tmp/.X11-unix/X0", "/tmp/dbus-session":
    forbidden(name, lambda: connect("\0" + name))
allowed("exchange", echo)
