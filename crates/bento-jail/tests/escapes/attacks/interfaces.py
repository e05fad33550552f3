"""Asks for the machine's network interfaces, and changes them."""

import fcntl
import struct


def ask(request):
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as one:
        return fcntl.ioctl(one, request, struct.pack("16s24x", b"lo"))


forbidden("address", lambda: ask(0x8915))
forbidden("flags", lambda: ask(0x8913))
pair = socket.socketpair()
# A local socket passes such requests on to the network's own code.
privileged("list, by a local socket", lambda: fcntl.ioctl(pair[0], 0x8912, struct.pack("iQ", 0, 0)))
forbidden("names", lambda: socket.if_nameindex())
allowed("exchange", echo)
