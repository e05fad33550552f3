"""Uses descriptors that its launcher left open."""


def look():
    for number in range(1024):
        try:
            if MARK in os.pread(number, 100, 0):
                return True
        except OSError:
            pass
    return False


def another():
    """Anything beside the three usual ones and the one to tell on."""
    for number in range(1024):
        try:
            os.fstat(number)
        except OSError:
            continue
        if number not in (0, 1, 2, WORLD["out"]):
            return True
    return False


forbidden("the secret file", look)
forbidden("anything", another)
allowed("own file", lambda: os.close(os.open(os.__file__, os.O_RDONLY)))
