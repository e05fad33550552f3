"""Makes refused calls under other numbers, and with arguments that a careless filter compares wrongly."""

X32 = 0x40000000
READ = (ctypes.c_char * 64)()
iovec = words(ctypes.addressof(READ), 8)
forbidden("keyctl, x32", lambda: call(X32 + 250, 0, -3, 1))
forbidden("getpid, x32", lambda: call(X32 + 39))
forbidden("ptrace, x32", lambda: call(X32 + 521, 0, 0, 0, 0))
# The kernel takes 32 bits of a family, so a bit above must not hide it.
forbidden("netlink, with a bit above", lambda: os.close(call("socket", 16 | 1 << 32, 3, 0)))
forbidden("TIOCSTI, with a bit above", lambda: call("ioctl", 0, 0x5412 | 1 << 32, b"x"), (errno.ENOTTY, errno.EIO))
forbidden("prctl, with a bit above", lambda: apart(lambda: call("prctl", 36 | 1 << 32, 1, 0, 0, 0)), (errno.EINVAL,))
forbidden("no such call", lambda: call(1000))
allowed("getpid", lambda: call("getpid") == os.getpid())
