"""Makes sockets that see or forge what others send."""

for name, family, kind, protocol in [
    ("raw", socket.AF_INET, socket.SOCK_RAW, socket.IPPROTO_ICMP),
    ("raw IPv6", socket.AF_INET6, socket.SOCK_RAW, socket.IPPROTO_ICMPV6),
    ("packets", socket.AF_PACKET, socket.SOCK_RAW, 0x0300),
    ("old packets", socket.AF_INET, 10, 0x0300),
]:
    forbidden(name, lambda: socket.socket(family, kind, protocol).close())
allowed("exchange", echo)
