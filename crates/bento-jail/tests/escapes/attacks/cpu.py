"""Uses more CPU time than it may, in several threads, deaf to the signal that announces the end."""

import signal
import threading
import time

signal.signal(signal.SIGXCPU, signal.SIG_IGN)
allowed("waiting", lambda: time.sleep(0.1))
tell_allowed()


def spin():
    import zlib

    while time.process_time() < BOUNDS["cpu_seconds"] + 2:
        zlib.crc32(bytes(1 << 20))
    return True


threading.Thread(target=spin, daemon=True).start()
forbidden("spinning", spin)
