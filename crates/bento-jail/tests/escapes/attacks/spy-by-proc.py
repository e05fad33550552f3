"""Reads the victim by /proc: its arguments, environment, memory, files."""

pid = WORLD["victim"]["pid"]


def memory():
    with open(f"/proc/{pid}/mem", "rb", buffering=0) as file:
        return MARK in os.pread(file.fileno(), WORLD["victim"]["length"], WORLD["victim"]["address"])


forbidden("its arguments", lambda: MARK in open(f"/proc/{pid}/cmdline", "rb").read())
forbidden("its environment", lambda: MARK in open(f"/proc/{pid}/environ", "rb").read())
forbidden("its memory", memory)
forbidden("its file", lambda: MARK in open(f"/proc/{pid}/fd/{WORLD['victim']['descriptor']}", "rb").read())


def anybody():
    """Whoever holds a secret of the battery: the launcher above all."""
    for each in os.listdir("/proc"):
        if each.isdecimal() and int(each) != os.getpid():
            for name in "cmdline", "environ":
                try:
                    if MARK in open(f"/proc/{each}/{name}", "rb").read():
                        return True
                except OSError:
                    pass
    return False


forbidden("anybody's", anybody)
allowed("itself", lambda: os.getpid() > 0)
