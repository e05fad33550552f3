"""Makes twice the files it may have, of each kind."""

limit = 2 * BOUNDS["inodes"]


def many(make, remove):
    made = 0
    try:
        for number in range(limit):
            make(own(f"bomb{number}"))
            made += 1
    finally:
        for number in range(made):
            remove(own(f"bomb{number}"))


forbidden("files", lambda: many(lambda path: open(path, "x").close(), os.unlink))
forbidden("directories", lambda: many(os.mkdir, os.rmdir))
forbidden("links", lambda: many(lambda path: os.symlink("x" * 100, path), os.unlink))
allowed("own scratch", writes)
