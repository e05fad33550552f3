"""Watches what others do with shared files: who imports which module when."""

watched = os.path.dirname(os.__file__).encode()


def inotify():
    notices = call("inotify_init1", 0)
    # Opening and closing, by anyone.
    call("inotify_add_watch", notices, watched, 0x28)
    os.close(notices)


forbidden("inotify", inotify)
forbidden("fanotify", lambda: os.close(call("fanotify_init", 0x200, 0)))


def notice():
    import fcntl
    import signal

    signal.signal(signal.SIGIO, signal.SIG_IGN)
    directory = os.open(os.path.dirname(os.__file__), os.O_RDONLY)
    fcntl.fcntl(directory, fcntl.F_NOTIFY, fcntl.DN_ACCESS)


forbidden("dnotify", notice)
allowed("looking once", lambda: os.listdir(watched))
