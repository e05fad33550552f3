"""Mounts a /proc of its own over the one that is missing."""

MNT_DETACH = 2
os.mkdir(own("proc"))


def old():
    call("mount", b"proc", own("proc").encode(), b"proc", 0, 0)
    call("umount2", own("proc").encode(), MNT_DETACH)


def new():
    context = call("fsopen", b"proc", 0)
    call("fsconfig", context, 6, 0, 0, 0)
    os.close(call("fsmount", context, 0, 0))
    os.close(context)


forbidden("mount", old)
forbidden("fsopen", new)
allowed("directory", lambda: os.listdir(own("proc")))
