"""Outlives its keeper: as an orphan with a session of its own that ignores every signal."""

import signal
import time

allowed("time", lambda: time.monotonic() > 0)
tell_allowed()
for number in range(1, 65):
    try:
        signal.signal(number, signal.SIG_IGN)
    except (OSError, ValueError):
        pass
# Not for ever, where it works.
signal.signal(signal.SIGALRM, signal.SIG_DFL)
try:
    if os.fork():
        time.sleep(12)
        os._exit(0)
    os.setsid()
    if os.fork():
        os._exit(0)
except OSError:
    pass
try:
    os.setsid()
except OSError:
    pass
signal.alarm(12)
tell("ready")
while True:
    time.sleep(0.1)
