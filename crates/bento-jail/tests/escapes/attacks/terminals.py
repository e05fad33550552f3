"""Types into terminals, and asks descriptors for what they are not for."""

import fcntl
import struct

(read, write) = os.pipe()
file = os.open(own("f"), os.O_RDWR | os.O_CREAT)
# An answer like ENOTTY comes from the driver, so the request got there: with a terminal in hand it would have worked.
privileged("typing", lambda: fcntl.ioctl(read, 0x5412, b"x"))
privileged("console", lambda: fcntl.ioctl(read, 0x541C, b"\x02"))
privileged("line discipline", lambda: fcntl.ioctl(read, 0x5423, struct.pack("i", 0)))
privileged("file flags", lambda: fcntl.ioctl(file, 0x80086601, bytes(8)))
privileged("clone of a range", lambda: fcntl.ioctl(file, 0x40049409, read))
allowed("is it a terminal", lambda: os.isatty(read) is False)
allowed("how much is there", lambda: fcntl.ioctl(read, 0x541B, bytes(4)) == bytes(4))
