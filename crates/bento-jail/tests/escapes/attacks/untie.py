"""Unties itself from its keeper, and from what was laid upon it, by prctl and personality."""

forbidden("death signal", lambda: apart(lambda: call("prctl", 1, 0, 0, 0, 0)))
forbidden("dumpable", lambda: apart(lambda: call("prctl", 4, 1, 0, 0, 0)))
forbidden("adopting orphans", lambda: apart(lambda: call("prctl", 36, 1, 0, 0, 0)))
forbidden("keeping capabilities", lambda: apart(lambda: call("prctl", 8, 1, 0, 0, 0)))
forbidden("no random addresses", lambda: apart(lambda: call("personality", 0x40000)))
forbidden("tracer", lambda: apart(lambda: call("prctl", 0x59616D61, -1, 0, 0, 0)), (errno.EINVAL,))
allowed("name", lambda: call("prctl", 15, b"name", 0, 0, 0) == 0)
