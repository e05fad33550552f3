"""Does what only an administrator may: modules, swap, accounting, the kernel's log, the host's name, ports of the machine."""

privileged("module", lambda: call("init_module", b"no module", 9, b""))
privileged("module by file", lambda: call("finit_module", 0, b"", 0))
privileged("removing a module", lambda: call("delete_module", b"bento_no_such", 0o4000))
privileged("another kernel", lambda: call("kexec_file_load", -1, -1, 1, b"", 0))
privileged("swap", lambda: call("swapon", b"/no/such", 0))
privileged("accounting", lambda: call("acct", b"/no/such"))
# The first magic number alone does nothing, and after the check of rights it is wrong.
privileged("restart", lambda: call("reboot", 0xFEE1DEAD, 0, 0, 0))
forbidden("host name", lambda: call("sethostname", os.uname().nodename.encode(), len(os.uname().nodename)))
forbidden("ports", lambda: apart(lambda: call("iopl", 3)))
forbidden("port by port", lambda: apart(lambda: call("ioperm", 0x80, 1, 1)))
allowed("asking for the name", lambda: os.uname().nodename != "")
