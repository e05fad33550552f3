"""Opens a file by its handle, without any path: the way out of a container that "Shocker" took."""

handle = WORLD["handle"] or {"type": 1, "bytes": "0000000000000000"}
data = bytes.fromhex(handle["bytes"])
asked = len(data).to_bytes(4, "little") + handle["type"].to_bytes(4, "little") + data
for path in SCRATCH, os.path.dirname(os.__file__), "/":
    try:
        mount = os.open(path, os.O_RDONLY | os.O_DIRECTORY)
    except OSError:
        mount = os.open(SCRATCH, os.O_RDONLY | os.O_DIRECTORY)
    forbidden(path, lambda: MARK in os.read(call("open_by_handle_at", mount, asked, os.O_RDONLY), 100))
    room = (ctypes.c_int * 34)(128, 0)
    number = ctypes.c_int()
    forbidden(f"handle of {path}", lambda: call("name_to_handle_at", -100, path.encode(), room, ctypes.addressof(number), 0))
allowed("by path", lambda: os.close(os.open(os.__file__, os.O_RDONLY)))
