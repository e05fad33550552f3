"""Makes files that are in no file system, and so in no bound of one."""

forbidden("memfd", lambda: os.close(call("memfd_create", b"name", 0)))
forbidden("huge pages", lambda: os.close(call("memfd_create", b"name", 4)))
forbidden("secret memory", lambda: os.close(call("memfd_secret", 0)))
forbidden("unnamed file elsewhere", lambda: os.close(os.open("/dev/shm", os.O_TMPFILE | os.O_RDWR, 0o600)))
allowed("own scratch", writes)
