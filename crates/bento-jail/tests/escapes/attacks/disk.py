"""Writes twice what it may, in one file, in many, by a hole, by reserving."""

size = 2 * BOUNDS["scratch_bytes"]


def one():
    with open(own("big"), "wb") as file:
        for _ in range(size >> 16):
            file.write(bytes(1 << 16))
            file.flush()


def many():
    for number in range(16):
        with open(own(f"part{number}"), "wb") as file:
            file.write(bytes(size >> 4))


def reserve():
    file = os.open(own("reserved"), os.O_CREAT | os.O_RDWR)
    try:
        os.posix_fallocate(file, 0, size)
    finally:
        os.close(file)


def clear():
    for name in os.listdir(SCRATCH):
        if os.path.isfile(own(name)):
            os.unlink(own(name))


for name, act in ("one file", one), ("many files", many), ("reserving", reserve):
    forbidden(name, act)
    clear()
forbidden("a hole", lambda: os.close(os.open(own("hole"), os.O_CREAT)) or os.truncate(own("hole"), size))
clear()
allowed("half", lambda: open(own("half"), "wb").write(bytes(BOUNDS["scratch_bytes"] // 2)))
clear()
