"""Sets up io_uring, which does system calls that no filter sees."""

forbidden("setup", lambda: os.close(call("io_uring_setup", 4, (ctypes.c_char * 120)())))
allowed("exchange", echo)
