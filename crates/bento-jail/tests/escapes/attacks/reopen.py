"""Opens its own descriptors once more, with other rights than they were given with."""

read, write = os.pipe()
for path in f"/proc/self/fd/{read}", f"/dev/fd/{read}", f"/proc/thread-self/fd/{read}":
    forbidden(path, lambda: os.close(os.open(path, os.O_WRONLY)))
forbidden("stdin", lambda: os.close(os.open("/dev/stdin", os.O_RDONLY)))
forbidden("library to write", lambda: os.close(os.open(f"/proc/self/fd/{os.open(os.__file__, os.O_RDONLY)}", os.O_WRONLY)))
allowed("copy", lambda: os.close(os.dup(read)))
