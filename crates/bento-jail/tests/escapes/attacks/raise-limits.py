"""Changes its own limits. The new ones are no higher, and for the core file that is the attack: 0 starts a handler, 1 does not."""

forbidden("core file", lambda: apart(lambda: call("prlimit64", 0, 4, words(0, 0), 0)))
forbidden("memory", lambda: apart(lambda: call("prlimit64", 0, 9, words((1 << 64) - 1, (1 << 64) - 1), 0)))
forbidden("CPU time", lambda: apart(lambda: call("prlimit64", 0, 0, words((1 << 64) - 1, (1 << 64) - 1), 0)))
forbidden("setrlimit", lambda: apart(lambda: call("setrlimit", 4, words(0, 0))))
limits = words(0, 0)
allowed("reading them", lambda: call("prlimit64", 0, 9, 0, limits) == 0 and limits[0] > 0)
