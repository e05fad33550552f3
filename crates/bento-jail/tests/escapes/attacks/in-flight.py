"""Keeps more files open than it may, by sending them and not receiving them."""

held = []


def hoard():
    a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    held.append((a, b))
    for number in range(2 * BOUNDS["descriptors"]):
        file = os.open(os.__file__, os.O_RDONLY)
        try:
            if number % 8 == 0:
                a, b = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
                held.append((a, b))
            socket.send_fds(a, [b"x"], [file])
        finally:
            os.close(file)


forbidden("hoard", hoard)
# EINVAL: there is no such user here.
forbidden("claiming another identity", lambda: socket.socketpair()[0].sendmsg([b"x"], [(socket.SOL_SOCKET, 2, bytes((ctypes.c_int * 3)(1, 0, 0)))]), (errno.EINVAL,))
held.clear()
allowed("exchange", echo)
