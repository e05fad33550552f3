"""Climbs above its root: by dots, by descriptors, by openat2."""

up = "../" * 40
forbidden("dots", lambda: MARK in open(SCRATCH + "/" + up + WORLD["secret_file"][1:], "rb").read())
here = os.open(SCRATCH, os.O_RDONLY)
forbidden("openat", lambda: os.close(os.open(up + WORLD["secret_file"][1:], os.O_RDONLY, dir_fd=here)))
forbidden("openat2", lambda: os.close(call("openat2", here, (up + WORLD["secret_file"][1:]).encode(), words(0, 0, 0), 24)))


def walk():
    for _ in range(40):
        os.chdir("..")
    try:
        return MARK in open(WORLD["secret_file"][1:], "rb").read()
    finally:
        os.chdir(SCRATCH)


forbidden("walk", walk)
library = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
forbidden("from an opening", lambda: os.close(os.open(up + WORLD["secret_file"][1:], os.O_RDONLY, dir_fd=library)))
allowed("down again", lambda: os.close(os.open("os.py", os.O_RDONLY, dir_fd=library)))
allowed("up within", lambda: (os.mkdir(own("d")), os.listdir(own("d/.."))))
