"""Enters the namespaces of others: by their process, by /proc, by a socket that came from outside."""

import fcntl

NEWUTS, NEWNET = 0x04000000, 0x40000000
victim = WORLD["victim"]["pid"]


def by_process():
    handle = call("pidfd_open", victim, 0)
    apart(lambda: call("setns", handle, NEWUTS))


forbidden("by process", by_process)
forbidden("by file", lambda: apart(lambda: call("setns", os.open(f"/proc/{victim}/ns/uts", os.O_RDONLY), NEWUTS)))
pair = socket.socketpair()
for name, descriptor in ("a pair", pair[0].fileno()), ("what came from outside", WORLD["out"]):
    forbidden(f"network of {name}", lambda: apart(lambda: call("setns", fcntl.ioctl(descriptor, 0x894C), NEWNET)), (errno.ENOTTY,))
allowed("exchange", echo)
