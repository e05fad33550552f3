"""What attacks are aimed at: makes the targets, says where they are, waits for the end of its input, and says which were touched.

Protocol: attacks/README.md. Needs nothing but Python, and leaves nothing behind.
"""

import ctypes
import json
import os
import select
import shutil
import socket
import subprocess
import sys
import tempfile

NOBODY = 65534
MARK = "bento-battery-" + "secret-"

VICTIM = r'''
import ctypes, json, os, resource, sys
libc = ctypes.CDLL(None, use_errno=True)
libc.syscall.restype = ctypes.c_long
libc.shmat.restype = ctypes.c_void_p
secret = os.environ["BENTO_BATTERY_SECRET"].encode()
# Any process of its user may attach to it: it is the attacker's walls that must hold.
libc.prctl(0x59616D61, ctypes.c_ulong(-1), 0, 0, 0)
memory = ctypes.create_string_buffer(secret)
# Keys and shared memory that anybody may use who can name them. Both go with this process.
key = libc.syscall(248, b"user", b"bento-battery", secret, len(secret), ctypes.c_long(-2))
libc.syscall(250, 5, key, 0x3F3F3F3F)
shared = libc.shmget(0, 4096, 0o1666)
address = libc.shmat(shared, None, 0)
libc.shmctl(shared, 0, None)
ctypes.memmove(address, secret, len(secret))
before = lambda: (os.getpriority(os.PRIO_PROCESS, 0), resource.getrlimit(resource.RLIMIT_CORE), os.sched_getscheduler(0), sorted(os.sched_getaffinity(0)))
was = before()
file = os.open(sys.argv[1], os.O_RDONLY)
print(json.dumps({"pid": os.getpid(), "address": ctypes.addressof(memory), "descriptor": file, "length": len(secret), "key": key, "shared": shared}), flush=True)
sys.stdin.read()
print(json.dumps(memory.value == secret and ctypes.string_at(address, len(secret)) == secret and before() == was), flush=True)
'''


def main() -> None:
    """The program."""
    # Not below /tmp, where a jail may have its own scratch: a target shall not be hidden by its name alone.
    directory = tempfile.mkdtemp(prefix="bento-battery-", dir="/var/tmp")
    try:
        _run(directory)
    finally:
        shutil.rmtree(directory)


def _run(directory: str) -> None:
    os.chmod(directory, 0o755)
    secret = MARK + os.urandom(16).hex()
    inside = lambda name: os.path.join(directory, name)
    for name, text, mode in [("secret", secret, 0o644), ("open", "as it was", 0o666)]:
        with open(inside(name), "w") as file:
            file.write(text)
        os.chmod(inside(name), mode)
    os.mkdir(inside("drop"))
    os.chmod(inside("drop"), 0o1777)
    # A program with somebody else's rights, if we can make one.
    shutil.copyfile("/bin/sh", inside("setuid"))
    os.chmod(inside("setuid"), 0o4755)

    addresses, listeners = _listen(inside("socket"))
    user = {"user": NOBODY, "group": NOBODY, "extra_groups": []} if os.geteuid() == 0 else {}
    environment = {"BENTO_BATTERY_SECRET": secret, "LANG": "C.UTF-8"}
    words = [sys.executable, "-I", "-S", "-c", VICTIM, inside("secret"), secret]
    victim = subprocess.Popen(words, stdin=subprocess.PIPE, stdout=subprocess.PIPE, env=environment, start_new_session=True, **user)
    world = {
        "directory": directory,
        "secret_file": inside("secret"),
        "writable_file": inside("open"),
        "writable_directory": inside("drop"),
        "setuid_file": inside("setuid"),
        "socket_file": inside("socket"),
        "handle": _handle(inside("secret")),
        "hostname": os.uname().nodename,
        "victim": json.loads(victim.stdout.readline()),
        **addresses,
    }
    print(json.dumps(world), flush=True)
    sys.stdin.read()

    waiting, _, _ = select.select(listeners.values(), [], [], 0)
    touched = {name for name, listener in listeners.items() if listener in waiting}
    # Closing its input lets the victim end by itself, if it still can.
    victim.stdin.close()
    ready, _, _ = select.select([victim.stdout], [], [], 5)
    if not ready or victim.stdout.readline().strip() != b"true":
        touched.add("victim")
    victim.kill()
    victim.wait()
    with open(inside("open")) as file:
        if file.read() != "as it was":
            touched.add("writable_file")
    for name, expected in [("secret", 0o644), ("open", 0o666), ("drop", 0o1777)]:
        if os.stat(inside(name)).st_mode & 0o7777 != expected:
            touched.add(name)
    if os.listdir(inside("drop")):
        touched.add("writable_directory")
    print(json.dumps(sorted(touched)), flush=True)


def _listen(path: str) -> tuple[dict, dict[str, socket.socket]]:
    """Listeners of each kind, and how to reach them. Nobody accepts: whoever connected or sent is found waiting at the end."""
    abstract = f"bento-battery-{os.getpid()}"
    tcp, udp, named, hidden = (socket.socket(*kind) for kind in [(2, 1), (2, 2), (1, 1), (1, 1)])
    tcp.bind(("127.0.0.1", 0))
    udp.bind(("127.0.0.1", 0))
    named.bind(path)
    os.chmod(path, 0o777)
    hidden.bind("\0" + abstract)
    sockets = {"tcp": tcp, "udp": udp, "socket_file": named, "abstract": hidden}
    world = {"tcp": tcp.getsockname()[1], "udp": udp.getsockname()[1], "abstract": abstract, "tcp6": None}
    try:
        six = socket.socket(socket.AF_INET6)
        six.bind(("::1", 0))
        sockets["tcp6"], world["tcp6"] = six, six.getsockname()[1]
    except OSError:
        pass  # A machine without IPv6 has one target less.
    for each in sockets.values():
        if each.type == socket.SOCK_STREAM:
            each.listen()

    return world, sockets


def _handle(path: str) -> dict | None:
    """The handle by which a file can be opened without a path, if its file system has such."""
    libc = ctypes.CDLL(None)
    handle = (ctypes.c_int * 34)(128, 0)
    mount = ctypes.c_int()
    if libc.name_to_handle_at(-100, path.encode(), handle, ctypes.byref(mount), 0) != 0:
        return None
    return {"type": handle[1], "bytes": bytes(handle)[8 : 8 + handle[0]].hex()}


if __name__ == "__main__":
    main()
