"""Reaches local sockets by their files, and makes such files."""


def connect(path):
    with socket.socket(socket.AF_UNIX) as client:
        client.connect(path)


forbidden("outside", lambda: connect(WORLD["socket_file"]))
for path in "/run/systemd/notify", "/run/dbus/system_bus_socket", "/var/run/docker.sock", "/run/tor/control":
    forbidden(path, lambda: connect(path))


def link():
    os.symlink(WORLD["socket_file"], own("s"))
    connect(own("s"))


forbidden("by a link", link)
allowed("exchange", echo)
