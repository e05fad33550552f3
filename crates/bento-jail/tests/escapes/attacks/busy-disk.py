"""Makes the machine's disk work for nothing: writing out what is written, forgetting what was read."""
import errno
import mmap

shared = os.open(os.__file__, os.O_RDONLY)
reads, writes = os.pipe()


def reaches(name, act):
    """The kernel says that a pipe has nothing to write out. Who is told that it was done has not reached the kernel."""

    def attempt():
        try:
            act()
        except OSError as error:
            if error.errno not in (errno.EINVAL, errno.ESPIPE, errno.ENOMEM):
                raise
            return True
        return False

    forbidden(name, attempt)


reaches("fsync", lambda: os.fsync(reads))
reaches("fdatasync", lambda: os.fdatasync(reads))
reaches("fadvise", lambda: os.posix_fadvise(reads, 0, 0, os.POSIX_FADV_DONTNEED))
reaches("sync_file_range", lambda: call("sync_file_range", reads, 0, 0, 7))
# Of what is no page, the kernel says so.
reaches("msync", lambda: call("msync", 1, mmap.PAGESIZE, 4))


def keep():
    with open(own("kept"), "wb") as file:
        file.write(b"x")
        file.flush()
        os.fsync(file)
    os.posix_fadvise(shared, 0, 0, os.POSIX_FADV_WILLNEED)


allowed("asking for it", keep)
