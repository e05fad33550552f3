"""Reaches out by links: symbolic, hard, to files and to directories."""

target = WORLD["secret_file"]
os.symlink(target, own("soft"))
os.symlink(WORLD["directory"], own("directory"))
os.symlink("/proc/1/root" + target, own("root"))
forbidden("symbolic link", lambda: MARK in open(own("soft"), "rb").read())
forbidden("link to a directory", lambda: os.listdir(own("directory")))
forbidden("link by proc", lambda: MARK in open(own("root"), "rb").read())
forbidden("hard link", lambda: (os.link(target, own("hard")), os.unlink(own("hard"))))
forbidden("hard link of an opening", lambda: (os.link(os.__file__, own("hard")), os.unlink(own("hard"))))
forbidden("rename in", lambda: (os.rename(WORLD["writable_directory"], own("in")), os.rename(own("in"), WORLD["writable_directory"])))
os.mkdir(own("sub"))
allowed("own link", lambda: (os.symlink("sub", own("link")), os.listdir(own("link"))))
