"""Counts events of the processor: the finest clock there is, and a wide part of the kernel."""

attributes = words(1 | 128 << 32, 1, 0, 0, 0, 1 << 5, *[0] * 10)
forbidden("task clock", lambda: os.close(call("perf_event_open", attributes, 0, -1, -1, 0)))
forbidden("the victim", lambda: os.close(call("perf_event_open", attributes, WORLD["victim"]["pid"], -1, -1, 0)))
allowed("coarser clock", lambda: __import__("time").perf_counter() > 0)
