"""Mounts: a tmpfs without bounds, a bind of the machine, its scratch without its restrictions."""

BIND, REMOUNT, DETACH = 4096, 32, 2
os.mkdir(own("m"))
place = own("m").encode()


def mounted(*arguments):
    call("mount", *arguments)
    call("umount2", place, DETACH)


forbidden("tmpfs", lambda: mounted(b"tmpfs", place, b"tmpfs", 0, 0))
forbidden("bind", lambda: mounted(b"/", place, 0, BIND, 0))
forbidden("new tmpfs", lambda: os.close(call("fsopen", b"tmpfs", 0)))
forbidden("copy of a tree", lambda: os.close(call("open_tree", -100, b"/", 1)))
# Not a mount outside a jail, hence EINVAL there.
forbidden("remount", lambda: call("mount", 0, SCRATCH.encode(), 0, REMOUNT | BIND, 0), (errno.EINVAL,))
forbidden("attributes", lambda: call("mount_setattr", -100, SCRATCH.encode(), 0, words(0, 1 | 2 | 4 | 8, 0, 0), 32), (errno.EINVAL,))
allowed("directory", lambda: os.listdir(own("m")))
