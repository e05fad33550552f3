"""Reads and writes another process's memory without being its debugger."""

victim = WORLD["victim"]
length = victim["length"]
buffer = ctypes.create_string_buffer(length)
here = words(ctypes.addressof(buffer), length)
there = words(victim["address"], length)


def read():
    call("process_vm_readv", victim["pid"], here, 1, there, 1, 0)
    return MARK in buffer.raw


def write():
    # What it holds already, where the reading worked.
    call("process_vm_writev", victim["pid"], here, 1, there, 1, 0)


forbidden("read", read)
forbidden("write", write)
mine = ctypes.create_string_buffer(b"mine", length)
forbidden("pages", lambda: call("move_pages", victim["pid"], 1, words(victim["address"] & ~4095), 0, ctypes.addressof(buffer), 0))


def advise():
    handle = call("pidfd_open", victim["pid"], 0)
    call("process_madvise", handle, words(victim["address"] & ~4095, 4096), 1, 20, 0)


forbidden("advice", advise)
allowed("own memory", lambda: ctypes.string_at(ctypes.addressof(mine), 4) == b"mine")
