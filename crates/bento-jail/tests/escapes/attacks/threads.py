"""Starts twice the threads it may have."""

import threading

gate = threading.Event()
started = []


def bomb():
    for _ in range(2 * BOUNDS["processes"]):
        one = threading.Thread(target=gate.wait, daemon=True)
        one.start()
        started.append(one)


threading.stack_size(64 << 10)
forbidden("bomb", bomb)
gate.set()
for one in started:
    one.join()
allowed("some", lambda: threading.Thread(target=echo).start())
