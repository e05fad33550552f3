"""Locks memory, so that others have less."""

import mmap

page = mmap.mmap(-1, 4096)
address = ctypes.addressof(ctypes.c_char.from_buffer(page))
forbidden("a page", lambda: call("mlock", address, 4096))
forbidden("all to come", lambda: apart(lambda: call("mlockall", 2)))
forbidden("locked mapping", lambda: mmap.mmap(-1, 4096, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS | 0x2000).close())
allowed("advice", lambda: page.madvise(mmap.MADV_WILLNEED))
