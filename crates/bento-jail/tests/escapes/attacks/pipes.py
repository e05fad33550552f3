"""Makes the kernel hold data for it, in pipes that are larger than usual."""

import fcntl

read, write = os.pipe()
# F_SETPIPE_SZ
forbidden("a large pipe", lambda: fcntl.fcntl(write, 1031, 1 << 20))
allowed("the usual pipe", lambda: os.write(write, bytes(4096)))
