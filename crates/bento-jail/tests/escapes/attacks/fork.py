"""Makes a second process, by every call that could."""


def cloned(*arguments):
    pid = call(*arguments)
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


def forked():
    pid = os.fork()
    if pid == 0:
        os._exit(0)
    os.waitpid(pid, 0)


forbidden("fork", forked)
forbidden("fork, raw", lambda: cloned("fork"))
# Its child shares this memory: without a wall it would have to end at once, so it is tried only behind one.
try:
    forked()
except OSError:
    forbidden("vfork", lambda: cloned("vfork"))
forbidden("clone", lambda: cloned("clone", 17, 0, 0, 0, 0))
forbidden("clone3", lambda: cloned("clone3", words(0, 0, 0, 0, 17, 0, 0, 0, 0, 0, 0), 88))
forbidden("posix_spawn", lambda: os.waitpid(os.posix_spawn(sys.executable, ["python", "-I", "-S", "-c", "pass"], {}), 0))


def thread():
    import threading

    one = threading.Thread(target=echo)
    one.start()
    one.join()


allowed("thread", thread)
