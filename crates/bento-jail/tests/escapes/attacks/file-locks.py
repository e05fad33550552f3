"""Locks a file that all functions share: others would see it, and wait."""
import fcntl


def lock():
    with open(os.__file__, "rb") as shared:
        fcntl.flock(shared, fcntl.LOCK_EX | fcntl.LOCK_NB)


def own_lock():
    with open(own("locked"), "wb") as file:
        fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


forbidden("flock", lock)
allowed("a lock of one's own file", own_lock)
