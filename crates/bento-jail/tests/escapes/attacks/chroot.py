"""Leaves its root by entering another one with a descriptor of the first in hand."""

os.mkdir(own("jail"))


def leave():
    above = os.open("/" if os.access("/", os.R_OK) else SCRATCH, os.O_RDONLY)
    os.chroot(own("jail"))
    os.fchdir(above)
    for _ in range(40):
        os.chdir("..")
    os.chroot(".")
    return MARK in open(WORLD["secret_file"], "rb").read()


forbidden("chroot twice", lambda: apart(leave))
forbidden("chroot", lambda: apart(lambda: os.chroot(own("jail"))))
allowed("chdir", lambda: os.chdir(own("jail")))
