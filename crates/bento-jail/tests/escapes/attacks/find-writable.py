"""Looks through everything it can see for a directory in which it can write."""

found = []


def look(path, depth):
    if os.path.realpath(path) == os.path.realpath(SCRATCH) or path in ("/proc", "/sys", "/dev/fd"):
        return
    probe = os.path.join(path, f"bento-battery-{os.getpid()}")
    try:
        with open(probe, "x"):
            found.append(path)
        os.unlink(probe)
    except OSError:
        pass
    if depth < 3:
        try:
            inside = [entry.path for entry in os.scandir(path) if entry.is_dir(follow_symlinks=False)][:60]
        except OSError:
            return
        for each in inside:
            look(each, depth + 1)


def search():
    for path in "/", "/dev", "/var", "/run", "/usr", "/etc", "/opt", "/mnt", "/srv", os.path.dirname(os.__file__), WORLD["directory"]:
        look(path, 0)
    return bool(found)


forbidden("a writable directory", search)
allowed("own scratch", writes)
