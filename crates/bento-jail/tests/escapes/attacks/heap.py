"""Takes twice the memory it may have, bit by bit and at once."""

kept = []


def take():
    for _ in range(2 * BOUNDS["memory_bytes"] >> 23):
        kept.append(bytearray(b"x") * (8 << 20))


forbidden("bit by bit", take)
kept.clear()
forbidden("at once", lambda: bytearray(2 * BOUNDS["memory_bytes"]))
allowed("some", lambda: bytearray(8 << 20))
