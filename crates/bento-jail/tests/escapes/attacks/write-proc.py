"""Opens switches of the kernel for writing."""

for name in "sys/kernel/core_pattern", "sys/kernel/modprobe", "sys/vm/drop_caches", "sysrq-trigger", "sys/kernel/hostname", "self/oom_score_adj", "self/mem", "self/uid_map", "self/setgroups", "self/coredump_filter", "irq/default_smp_affinity":
    forbidden(name, lambda: os.close(os.open("/proc/" + name, os.O_WRONLY)))
forbidden("modprobe", lambda: os.close(os.open("/proc/sys/kernel/modprobe", os.O_WRONLY)))
allowed("own scratch", writes)
