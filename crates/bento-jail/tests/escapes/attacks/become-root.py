"""Becomes somebody else."""

# EINVAL: there is no such user here.
none = (errno.EINVAL,)
forbidden("user", lambda: apart(lambda: os.setuid(0)), none)
forbidden("all three", lambda: apart(lambda: os.setresuid(0, 0, 0)), none)
forbidden("group", lambda: apart(lambda: os.setgid(0)), none)
forbidden("groups", lambda: apart(lambda: os.setgroups([0])), none)
forbidden("capabilities", lambda: apart(lambda: call("capset", words(0x20080522), words(0xFFFFFFFF00000000 | 1, 0, 0))))
forbidden("root already", lambda: os.getuid() == 0)
allowed("asking", lambda: os.getresuid()[0] == os.getuid())
