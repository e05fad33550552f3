"""Reads another's key, and leaves keys that outlive it."""

READ, UNLINK, USER = 11, 9, -4
buffer = ctypes.create_string_buffer(200)
forbidden("the victim's key", lambda: call("keyctl", READ, WORLD["victim"]["key"], ctypes.addressof(buffer), 200) and MARK in buffer.raw)


def leave():
    key = call("add_key", b"user", b"bento-battery-left", b"x", 1, USER)
    call("keyctl", UNLINK, key, USER, 0)


forbidden("a key of the user", leave)
forbidden("a session", lambda: apart(lambda: call("keyctl", 1, 0)))
forbidden("request", lambda: call("request_key", b"user", b"bento-battery-none", 0, USER), (errno.ENOENT,))
allowed("exchange", echo)
