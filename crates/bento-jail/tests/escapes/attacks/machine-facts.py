"""Asks who and where the machine is: its name, its number, its interfaces, its load."""

forbidden("host name", lambda: os.uname().nodename == WORLD["hostname"])
forbidden("by socket", lambda: socket.gethostname() == WORLD["hostname"])
for path in "/etc/hostname", "/etc/machine-id", "/etc/resolv.conf", "/etc/hosts", "/proc/sys/kernel/random/boot_id", "/sys/class/dmi/id/product_uuid", "/proc/loadavg":
    forbidden(path, lambda: open(path).read())
forbidden("interfaces", lambda: [name for _, name in socket.if_nameindex() if name != "lo"] != [])
forbidden("memory and load", lambda: call("sysinfo", (ctypes.c_ulong * 16)()))
forbidden("disk", lambda: os.statvfs(os.path.dirname(os.__file__)))
allowed("system", lambda: os.uname().sysname == "Linux")
allowed("time", lambda: __import__("time").time() > 0)
