"""Becomes another program, by every call that could."""

os.set_inheritable(WORLD["out"], True)
says = f"echo forbidden: escaped another program ran >&{WORLD['out']}"
again = f"import os; os.write({WORLD['out']}, b'forbidden: escaped Python ran again\\n')"
allowed("exchange", echo)
tell_allowed()
forbidden("shell", lambda: apart(lambda: os.execv("/bin/sh", ["sh", "-c", says])))
forbidden("Python", lambda: apart(lambda: os.execv(sys.executable, ["python", "-I", "-S", "-c", again])))
forbidden("loader", lambda: apart(lambda: os.execv("/lib64/ld-linux-x86-64.so.2", ["ld.so", sys.executable, "-I", "-S", "-c", again])))
strings = [ctypes.create_string_buffer(word.encode()) for word in ("python", "-I", "-S", "-c", again)]
vector = words(*[ctypes.addressof(string) for string in strings], 0)
forbidden("execveat", lambda: apart(lambda: call("execveat", -100, sys.executable.encode(), vector, words(0), 0)))
program = os.open(sys.executable, os.O_RDONLY)
forbidden("by its descriptor", lambda: apart(lambda: call("execveat", program, b"", vector, words(0), 0x1000)))
