"""Changes the files it is given to read; each change is to what they are already."""

library = os.path.dirname(os.__file__)
path = os.__file__
status = os.stat(path)
forbidden("open to write", lambda: os.close(os.open(path, os.O_WRONLY)))
forbidden("open to append", lambda: os.close(os.open(path, os.O_RDWR | os.O_APPEND)))
forbidden("truncate", lambda: os.truncate(path, status.st_size))
forbidden("chmod", lambda: os.chmod(path, status.st_mode & 0o7777))
forbidden("chown", lambda: os.chown(path, status.st_uid, status.st_gid))
forbidden("utime", lambda: os.utime(path, ns=(status.st_atime_ns, status.st_mtime_ns)))
forbidden("xattr", lambda: (os.setxattr(path, "user.bento", b"x"), os.removexattr(path, "user.bento")))
forbidden("new file", lambda: (open(library + "/bento-battery", "x").close(), os.unlink(library + "/bento-battery")))
forbidden("rename", lambda: os.rename(path, path))
forbidden("new directory", lambda: (os.mkdir(library + "/bento-battery"), os.rmdir(library + "/bento-battery")))
allowed("read", lambda: open(path, "rb").read(1))
allowed("own chmod", lambda: (open(own("f"), "w").close(), os.chmod(own("f"), 0o600), os.utime(own("f")), os.unlink(own("f"))))
