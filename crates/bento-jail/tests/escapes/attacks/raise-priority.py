"""Takes precedence over everybody else on the machine."""

forbidden("nice", lambda: apart(lambda: os.setpriority(os.PRIO_PROCESS, 0, -10)))
forbidden("real time", lambda: apart(lambda: os.sched_setscheduler(0, os.SCHED_FIFO, os.sched_param(1))))
forbidden("disk", lambda: apart(lambda: call("ioprio_set", 1, 0, 1 << 13)))
forbidden("deadline", lambda: apart(lambda: call("sched_setattr", 0, words(48 | 6 << 32, 0, 0, 1 << 20, 1 << 22, 1 << 22), 0)))
allowed("yield", os.sched_yield)
