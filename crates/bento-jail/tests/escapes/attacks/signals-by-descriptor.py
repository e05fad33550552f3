"""Has the kernel signal another process, as the owner of a descriptor on which something happens."""

import fcntl

victim = WORLD["victim"]["pid"]
a, b = socket.socketpair()


def owner():
    fcntl.fcntl(a, fcntl.F_SETOWN, victim)
    fcntl.fcntl(a, 10, 15)
    fcntl.fcntl(a, fcntl.F_SETFL, fcntl.fcntl(a, fcntl.F_GETFL) | os.O_ASYNC)
    b.send(b"x")


forbidden("owner", owner)
forbidden("extended", lambda: fcntl.fcntl(a, 15, (ctypes.c_int * 2)(1, victim)))
forbidden("lease", lambda: fcntl.fcntl(os.open(own("l"), os.O_CREAT | os.O_RDWR), fcntl.F_SETLEASE, fcntl.F_WRLCK))
allowed("flags", lambda: fcntl.fcntl(a, fcntl.F_SETFL, os.O_NONBLOCK))
