"""Meets others in memory that has no owner: System V's, and POSIX message queues."""

victim = WORLD["victim"]


def attach():
    address = call("shmat", victim["shared"], 0, 0o10000)
    return MARK in ctypes.string_at(address & (1 << 64) - 1, victim["length"])


def shared():
    number = call("shmget", 0, 4096, 0o1600)
    call("shmctl", number, 0, 0)


def semaphore():
    number = call("semget", 0, 1, 0o1600)
    call("semctl", number, 0, 0, 0)


def messages():
    number = call("msgget", 0, 0o1600)
    call("msgctl", number, 0, 0)


def queue():
    descriptor = call("mq_open", b"bento-battery", 0o102, 0o600, 0)
    call("mq_unlink", b"bento-battery")
    os.close(descriptor)


forbidden("the victim's", attach)
forbidden("memory", shared)
forbidden("semaphore", semaphore)
forbidden("messages", messages)
forbidden("queue", queue)


def mapped():
    import mmap

    with mmap.mmap(-1, 4096) as memory:
        memory[:1] = b"x"


allowed("own memory", mapped)
