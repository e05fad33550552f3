"""Slows other processes down: their priority, their cores, their limits. Each change is to what it is already."""

victim = WORLD["victim"]["pid"]
forbidden("priority", lambda: os.setpriority(os.PRIO_PROCESS, victim, 0))
forbidden("cores", lambda: os.sched_setaffinity(victim, os.sched_getaffinity(victim)))
limits = words(0, 0)
forbidden("limits", lambda: call("prlimit64", victim, 4, 0, limits))
forbidden("disk priority", lambda: call("ioprio_set", 1, victim, 0))
allowed("own limits", lambda: call("prlimit64", 0, 4, 0, limits) == 0)
allowed("yield", os.sched_yield)
