"""Reads /sys: devices, cgroups, firmware, tracing."""

for path in "/sys", "/sys/kernel", "/sys/class/net", "/sys/fs/cgroup", "/sys/devices/system/cpu", "/sys/firmware", "/sys/kernel/debug", "/sys/kernel/tracing", "/sys/module":
    forbidden(path, lambda: os.listdir(path))
forbidden("a cgroup", lambda: os.close(os.open("/sys/fs/cgroup/cgroup.procs", os.O_WRONLY)))
forbidden("release agent", lambda: os.close(os.open("/sys/fs/cgroup/memory/release_agent", os.O_WRONLY)))
forbidden("uevent helper", lambda: os.close(os.open("/sys/kernel/uevent_helper", os.O_WRONLY)))
allowed("own scratch", lambda: os.listdir(SCRATCH))
