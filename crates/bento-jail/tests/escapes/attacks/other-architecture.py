"""Makes a system call as a 32-bit program does, where numbers mean other calls."""

import mmap

allowed("exchange", echo)
tell_allowed()
memory = mmap.mmap(-1, 4096, prot=mmap.PROT_READ | mmap.PROT_WRITE | mmap.PROT_EXEC)
# mov eax, 20 (getpid there, writev here); int 0x80; ret
memory.write(b"\xb8\x14\0\0\0\xcd\x80\xc3")
run = ctypes.CFUNCTYPE(ctypes.c_int)(ctypes.addressof(ctypes.c_char.from_buffer(memory)))
forbidden("int 0x80", lambda: run() == os.getpid())
