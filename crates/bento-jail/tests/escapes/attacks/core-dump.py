"""Leaves a core file, or has a handler started for one."""

limits = words(0, 0)
call("prlimit64", 0, 4, 0, limits)
# 0 is no file, and yet starts a handler where the machine has one; 1 does neither.
forbidden("limit", lambda: limits[0] != 1)
forbidden("raising", lambda: apart(lambda: call("prlimit64", 0, 4, words(limits[1], limits[1]), 0)))
allowed("asking", lambda: call("prlimit64", 0, 4, 0, limits) == 0)
