"""Makes namespaces of its own, in which it has all capabilities."""

NEWUSER, NEWNET, NEWNS, NEWPID = 0x10000000, 0x40000000, 0x00020000, 0x20000000
forbidden("user", lambda: apart(lambda: call("unshare", NEWUSER)))
forbidden("network in user", lambda: apart(lambda: call("unshare", NEWUSER | NEWNET)))
forbidden("mounts in user", lambda: apart(lambda: call("unshare", NEWUSER | NEWNS)))


def cloned(*arguments):
    pid = call(*arguments)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


forbidden("clone", lambda: cloned("clone", NEWUSER | 17, 0, 0, 0, 0))
forbidden("clone of a thread", lambda: apart(lambda: call("clone", NEWUSER | 0x10F00, 0, 0, 0, 0)), (errno.EINVAL,))
forbidden("clone3", lambda: cloned("clone3", words(NEWUSER | NEWPID, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88))
allowed("exchange", echo)
