"""Takes hold of another process as a debugger. It seizes and does not attach: that would stop whoever is hit."""

victim = WORLD["victim"]["pid"]
SEIZE, DETACH, INTERRUPT, PEEK = 0x4206, 17, 0x4207, 2


def seize(pid):
    call("ptrace", SEIZE, pid, 0, 0)
    call("ptrace", INTERRUPT, pid, 0, 0)
    os.waitpid(pid, 0x40000000)
    call("ptrace", DETACH, pid, 0, 0)


forbidden("the victim", lambda: apart(lambda: seize(victim)))
allowed("exchange", echo)
