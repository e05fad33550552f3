"""Moves pages between files and pipes, where a page of a read-only file once could be written (Dirty Pipe)."""

source = os.open(os.__file__, os.O_RDONLY)
read, write = os.pipe()
forbidden("splice", lambda: call("splice", source, words(0), write, 0, 1, 0))
page = ctypes.create_string_buffer(4096)
forbidden("vmsplice", lambda: call("vmsplice", write, words(ctypes.addressof(page), 4096), 1, 8))
allowed("write", lambda: os.write(write, b"x"))
forbidden("tee", lambda: call("tee", read, os.pipe()[1], 1, 2))
allowed("sendfile", lambda: os.sendfile(write, source, 0, 10) == 10)
