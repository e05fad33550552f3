"""Makes segments of the processor's own tables, another wide part of the kernel."""

entry = (ctypes.c_uint * 4)(0, 0, 0xFFFFF, 0x51)
forbidden("modify_ldt", lambda: apart(lambda: call("modify_ldt", 1, entry, 16)))
forbidden("reading it", lambda: call("modify_ldt", 0, (ctypes.c_char * 64)(), 64))
allowed("exchange", echo)
