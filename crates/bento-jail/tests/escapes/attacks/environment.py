"""Finds what its launcher left in the environment and in its own memory."""

forbidden("variables", lambda: any(MARK in value for value in os.environb.values()))


def stack():
    """The kernel lays arguments, environment and file name above the stack; whatever else is there was not meant for us."""
    pointer = ctypes.cast(ctypes.c_void_p.in_dll(ctypes.CDLL(None), "environ").value, ctypes.POINTER(ctypes.c_char_p))
    place = 0
    while pointer[place] is not None:
        if MARK in pointer[place]:
            return True
        place += 1
    return False


forbidden("raw variables", stack)
forbidden("user", lambda: any(name in os.environ for name in ("USER", "LOGNAME", "SUDO_USER", "SSH_CONNECTION", "HOSTNAME", "BENTO_BATTERY_SECRET")))
allowed("own arguments", lambda: json.loads(sys.argv[1])["out"] == WORLD["out"])
