"""Gets hold of other processes and of their descriptors by handles."""

victim = WORLD["victim"]["pid"]
forbidden("a handle", lambda: os.close(call("pidfd_open", victim, 0)))


def steal():
    handle = call("pidfd_open", victim, 0)
    taken = call("pidfd_getfd", handle, WORLD["victim"]["descriptor"], 0)
    return MARK in os.pread(taken, 100, 0)


forbidden("its descriptor", steal)
forbidden("comparing", lambda: call("kcmp", os.getpid(), victim, 1, 0, 0))
pair = socket.socketpair()
forbidden("peer's handle", lambda: pair[0].getsockopt(socket.SOL_SOCKET, 77, 4))
allowed("exchange", echo)
