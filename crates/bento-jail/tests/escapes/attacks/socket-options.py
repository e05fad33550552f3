"""Asks of its sockets what they are not for: filters, the peer's process, buffers without bounds."""

a, b = socket.socketpair()
SOL = socket.SOL_SOCKET
forbidden("peer", lambda: a.getsockopt(SOL, socket.SO_PEERCRED, 12))
forbidden("peer of what came from outside", lambda: socket.socket(fileno=os.dup(WORLD["out"])).getsockopt(SOL, socket.SO_PEERCRED, 12))
forbidden("credentials", lambda: a.setsockopt(SOL, socket.SO_PASSCRED, 1))
forbidden("peer's groups", lambda: a.getsockopt(SOL, 59, 256))
forbidden("sending buffer by force", lambda: a.setsockopt(SOL, 32, 1 << 30))
forbidden("receiving buffer by force", lambda: a.setsockopt(SOL, 33, 1 << 30))
forbidden("mark", lambda: a.setsockopt(SOL, 36, 1))
forbidden("out of band", lambda: a.send(b"x", socket.MSG_OOB))
allowed("buffer", lambda: a.setsockopt(SOL, socket.SO_RCVBUF, 65536))
allowed("exchange", echo)
