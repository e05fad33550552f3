"""Starts twice the processes it may have, which start more in turn."""

import signal

started = []


def bomb():
    for _ in range(2 * BOUNDS["processes"]):
        pid = os.fork()
        if pid == 0:
            signal.alarm(10)
            signal.pause()
        started.append(pid)


forbidden("bomb", bomb)
for pid in started:
    os.kill(pid, 9)
    os.waitpid(pid, 0)
allowed("exchange", echo)
