"""Opens twice the descriptors it may have, of each kind."""

import select

limit = 2 * BOUNDS["descriptors"]


def many(make):
    kept = []
    try:
        for _ in range(limit):
            kept.append(make())
    finally:
        kept.clear()


forbidden("files", lambda: many(lambda: open(os.__file__)))
forbidden("pairs", lambda: many(socket.socketpair))
forbidden("waiting lists", lambda: many(select.epoll))
forbidden("copies", lambda: many(lambda: os.fdopen(os.dup(0), "rb", closefd=True)))
allowed("some", lambda: [os.close(os.dup(0)) for _ in range(1000)])
