"""Writes where every user may write."""


def drop():
    path = os.path.join(WORLD["writable_directory"], "dropped")
    with open(path, "w") as file:
        file.write("x")
    os.unlink(path)


def change():
    with open(WORLD["writable_file"], "r+") as file:
        file.write("as it was")


forbidden("new file", drop)
forbidden("file of all", change)
for path in "/tmp", "/var/tmp", "/dev/shm", "/run/lock":
    if os.path.realpath(path) != os.path.realpath(SCRATCH):
        name = f"{path}/bento-battery-{os.getpid()}"
        forbidden(path, lambda: (open(name, "x").close(), os.unlink(name)))
allowed("own scratch", writes)
