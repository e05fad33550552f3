"""Opens devices: memory, disks, virtual machines, network interfaces, file systems."""

for name in "mem", "kmsg", "port", "vda", "sda", "nvme0n1", "tty0", "fuse", "kvm", "net/tun", "vhost-vsock", "userfaultfd", "loop-control", "mapper/control", "cuse", "snapshot", "hpet", "cpu/0/msr":
    forbidden(name, lambda: os.close(os.open("/dev/" + name, os.O_RDONLY | os.O_NONBLOCK | os.O_NOCTTY)))
allowed("null", lambda: os.write(os.open("/dev/null", os.O_WRONLY), b"x"))
allowed("random numbers", lambda: os.urandom(8))
