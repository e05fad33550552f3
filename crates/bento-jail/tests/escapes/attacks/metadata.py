"""Asks the cloud for the machine's credentials, at the address where clouds answer."""


def ask(address, family=socket.AF_INET):
    with socket.socket(family) as client:
        client.settimeout(2)
        client.connect((address, 80))


forbidden("IPv4", lambda: ask("169.254.169.254"))
forbidden("IPv6", lambda: ask("fd00:ec2::254", socket.AF_INET6))
forbidden("containers'", lambda: ask("169.254.170.2"))
allowed("exchange", echo)
