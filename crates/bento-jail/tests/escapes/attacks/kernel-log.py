"""Reads the kernel's log, where addresses and devices are told."""

buffer = ctypes.create_string_buffer(4096)
forbidden("call", lambda: call("syslog", 3, ctypes.addressof(buffer), 4096))
forbidden("file", lambda: os.close(os.open("/dev/kmsg", os.O_RDONLY | os.O_NONBLOCK)))
forbidden("proc", lambda: os.close(os.open("/proc/kmsg", os.O_RDONLY | os.O_NONBLOCK)))
allowed("exchange", echo)
