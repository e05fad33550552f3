"""Holds the kernel at a page fault, the way many of its faults were exploited."""

forbidden("call", lambda: os.close(call("userfaultfd", os.O_CLOEXEC | 1)))
forbidden("device", lambda: os.close(os.open("/dev/userfaultfd", os.O_RDWR)))
allowed("exchange", echo)
