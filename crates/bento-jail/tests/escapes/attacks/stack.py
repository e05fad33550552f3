"""Takes memory by stacks: one that is larger than all it may have, and recursion without an end."""

import threading


def large():
    before = threading.stack_size(2 * BOUNDS["memory_bytes"])
    try:
        one = threading.Thread(target=echo)
        one.start()
        one.join()
    finally:
        threading.stack_size(before)


def deep():
    return deep()


forbidden("a large one", large)
forbidden("recursion", deep)
forbidden("recursion in C", lambda: eval("-" * 100_000 + "1"))
allowed("some recursion", lambda: (lambda f, n: f(f, n))(lambda f, n: n == 0 or f(f, n - 1), 100))
