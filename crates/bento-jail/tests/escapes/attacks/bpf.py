"""Loads programs into the kernel."""

instructions = words(0x00000000000000B7, 0x0000000000000095)
licence = ctypes.create_string_buffer(b"GPL")
forbidden("map", lambda: os.close(call("bpf", 0, words(2 | 4 << 32, 4 | 1 << 32, 0, 0, 0, 0, 0, 0), 64)))
program = words(1 | 2 << 32, ctypes.addressof(instructions), ctypes.addressof(licence), 0, 0, 0, 0, 0, 0)
forbidden("program", lambda: os.close(call("bpf", 5, program, 64)))
pair = socket.socketpair()
filters = ctypes.create_string_buffer(b"\x06\0\0\0\xff\xff\xff\xff")
classic = words(1, ctypes.addressof(filters))
forbidden("classic filter", lambda: pair[0].setsockopt(socket.SOL_SOCKET, 26, bytes(classic)))
allowed("exchange", echo)
