"""Runs programs of its own making: a file from its scratch, mapped code, a script."""

import mmap
import struct

os.set_inheritable(WORLD["out"], True)
text = b"forbidden: escaped a program of its own ran\n"
# write(out, text, length); exit(0)
code = b"\xb8\x01\0\0\0\xbf" + struct.pack("<I", WORLD["out"]) + b"\x48\x8d\x35\x10\0\0\0\xba" + struct.pack("<I", len(text)) + b"\x0f\x05\xb8\x3c\0\0\0\x31\xff\x0f\x05" + text
base = 0x400000
whole = 120 + len(code)
program = (
    b"\x7fELF\x02\x01\x01" + bytes(9) + struct.pack("<HHIQQQIHHHHHH", 2, 62, 1, base + 120, 64, 0, 0, 64, 56, 1, 0, 0, 0)
    + struct.pack("<IIQQQQQQ", 1, 5, 0, base, base, whole, whole, 4096) + code
)
for name, content in ("program", program), ("script", b"#!/bin/sh\necho forbidden: escaped a script ran >&%d\n" % WORLD["out"]):
    with open(own(name), "wb") as file:
        file.write(content)
    os.chmod(own(name), 0o755)
opened = os.open(own("program"), os.O_RDONLY)
forbidden("map as code", lambda: mmap.mmap(opened, whole, mmap.MAP_PRIVATE, mmap.PROT_READ | mmap.PROT_EXEC).close())
allowed("map as data", lambda: mmap.mmap(opened, whole, mmap.MAP_PRIVATE, mmap.PROT_READ).close())
loader = next((path for path in ("/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-x86-64.so.2") if os.path.exists(path)), "/lib64/ld-linux-x86-64.so.2")
forbidden("by its descriptor", lambda: apart(lambda: call("execveat", opened, b"", words(0), words(0), 0x1000)))
forbidden("program", lambda: apart(lambda: os.execv(own("program"), ["program"])))
forbidden("script", lambda: apart(lambda: os.execv(own("script"), ["script"])))
forbidden("by the loader", lambda: apart(lambda: os.execv(loader, ["ld.so", own("program")])) and False)
