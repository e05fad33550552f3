"""Lays filters of its own over the one it has, to answer calls in the kernel's place, and walls to hide behind."""


def listener():
    call("prctl", 38, 1, 0, 0, 0)
    program = ctypes.create_string_buffer(b"\x06\0\0\0\0\0\xff\x7f")
    os.close(call("seccomp", 1, 8, words(1, ctypes.addressof(program))))


forbidden("listener", lambda: apart(listener))
action = (ctypes.c_uint * 1)(0x7FFF0000)
forbidden("asking", lambda: call("seccomp", 2, 0, action))
forbidden("landlock", lambda: os.close(call("landlock_create_ruleset", words(1, 0), 8, 0)))
allowed("exchange", echo)
