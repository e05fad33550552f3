"""Makes timers, each of which the kernel holds memory for."""

made = []


def bomb():
    for _ in range(400):
        number = (ctypes.c_int * 1)()
        event = (ctypes.c_int * 16)(0, 0, 14, 0)
        call("timer_create", 1, event, number)
        made.append(number[0])


forbidden("bomb", bomb)
allowed("the usual one", lambda: __import__("signal").setitimer(0, 0))
