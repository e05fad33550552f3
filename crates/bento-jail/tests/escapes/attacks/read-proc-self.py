"""Learns by /proc how it was made: environment, memory, mounts, name spaces, cgroup."""

for name in "environ", "cmdline", "maps", "mem", "exe", "root", "cwd", "fd", "ns/net", "mounts", "mountinfo", "cgroup", "status", "attr/current", "task":
    forbidden(name, lambda: os.stat("/proc/self/" + name))
for name in "version", "cpuinfo", "meminfo", "mounts", "net/dev", "kallsyms", "keys", "timer_list", "self":
    forbidden(name, lambda: os.lstat("/proc/" + name))
allowed("its own number", lambda: os.getpid() > 0)
allowed("its own arguments", lambda: sys.orig_argv[1] == "-I")
