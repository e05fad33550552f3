"""Runs files with somebody else's rights, and makes such files."""

os.set_inheritable(WORLD["out"], True)


def run(path, *arguments):
    return apart(lambda: os.execv(path, [path, *arguments]))


forbidden("setuid shell", lambda: run(WORLD["setuid_file"], "-p", "-c", f"echo forbidden: escaped a setuid file ran >&{WORLD['out']}"))
for path in "/usr/bin/su", "/usr/bin/passwd", "/usr/bin/mount", "/bin/su", "/bin/mount":
    forbidden(path, lambda: run(path, "--version"))
with open(own("file"), "wb") as file:
    file.write(b"#!/bin/sh\n")
# The capability set of all, version 3, for root of this namespace.
capabilities = b"\x01\0\0\x03" + b"\xff" * 16 + bytes(4)
forbidden("file capabilities", lambda: os.setxattr(own("file"), "security.capability", capabilities))
# EINVAL: there is no such user here.
forbidden("owner", lambda: os.chown(own("file"), 0, 0), (errno.EINVAL,))
allowed("mode", lambda: os.chmod(own("file"), 0o6755))
allowed("own scratch", writes)
