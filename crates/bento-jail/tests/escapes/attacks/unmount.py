"""Takes away mounts, so that what is below them can be seen, and changes the root."""

os.mkdir(own("r"))
place = own("r").encode()
# EINVAL: that is no mount, as outside a jail.
none = (errno.EINVAL,)
forbidden("scratch", lambda: call("umount2", SCRATCH.encode(), 2), none)
try:
    call("mount", b"tmpfs", place, b"tmpfs", 0, 0)
except OSError:
    pass  # Where it cannot mount, it has nothing of its own to unmount.
forbidden("own mount", lambda: call("umount2", place, 2), none)
forbidden("pivot_root", lambda: call("pivot_root", place, place), none)
allowed("directory", lambda: os.listdir(own("r")))
