"""Takes twice the memory it may have by mappings: private, shared, of files, growing ones."""

import mmap

size = 2 * BOUNDS["memory_bytes"]
for name, flags in ("private", mmap.MAP_PRIVATE), ("shared", mmap.MAP_SHARED):
    forbidden(name, lambda: mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS).close())
    forbidden(f"{name}, not reserved", lambda: mmap.mmap(-1, size, flags | mmap.MAP_ANONYMOUS | 0x4000).close())


def pieces():
    kept = []
    for _ in range(size >> 24):
        one = mmap.mmap(-1, 16 << 20)
        kept.append(one)
        for place in range(0, 16 << 20, 4096):
            one[place] = 1


def again():
    """One page of a file, mapped again and again."""
    file = os.open(own("f"), os.O_CREAT | os.O_RDWR)
    os.truncate(file, 1 << 20)
    made = []
    try:
        for _ in range(size >> 20):
            made.append(call("mmap", 0, 1 << 20, mmap.PROT_READ | mmap.PROT_WRITE, mmap.MAP_SHARED, file, 0))
    finally:
        for address in made:
            call("munmap", address, 1 << 20)


forbidden("pieces", pieces)
forbidden("the same again", again)
allowed("some", lambda: mmap.mmap(-1, 8 << 20).close())
