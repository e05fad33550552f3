"""Reads files of the machine that every user may read."""

forbidden("secret file", lambda: MARK in open(WORLD["secret_file"], "rb").read())
for path in "/etc", "/var", "/root", "/home", "/boot", WORLD["directory"]:
    forbidden(path, lambda: os.listdir(path))
allowed("own library", lambda: open(os.__file__, "rb").read(1))
allowed("own scratch", writes)
