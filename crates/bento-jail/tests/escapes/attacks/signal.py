"""Sends signals to other processes: by number, by group, to everybody. Signal 0 asks only whether it could."""

victim = WORLD["victim"]["pid"]
information = (ctypes.c_int * 32)(0, 0, -1)
# Found out first, as the last ends the victim.
forbidden("everybody", lambda: os.kill(-1, 0))
forbidden("the first after us", lambda: os.kill(os.getpid() + 1, 0))
forbidden("its parent", lambda: os.kill(os.getppid(), 0) if os.getppid() else False)
forbidden("its thread", lambda: call("tkill", victim, 0))
forbidden("its group", lambda: os.kill(-victim, 0))
forbidden("with a message", lambda: call("rt_sigqueueinfo", victim, 0, information))


def by_handle():
    call("pidfd_send_signal", call("pidfd_open", victim, 0), 0, 0, 0)


forbidden("by a handle", by_handle)
forbidden("the victim", lambda: os.kill(victim, 15))
import signal

caught = []
signal.signal(signal.SIGUSR1, lambda *_: caught.append(1))
# The group is its own alone, so where it may ask at all, nobody else hears.
forbidden("our launcher's group", lambda: os.getpgid(0) != os.getpid() and os.getpgid(0) != 0 and os.kill(0, 0) is None)
allowed("itself", lambda: signal.raise_signal(signal.SIGUSR1))
allowed("caught", lambda: caught == [1])
