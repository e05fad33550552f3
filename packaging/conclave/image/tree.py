"""A tree of files in memory, and the archive that a kernel unpacks as its first root. The same tree gives the same bytes, always and everywhere."""

from __future__ import annotations

import stat
from dataclasses import dataclass


@dataclass(frozen=True)
class Entry:
    """A file, a directory or a link. All are root's, and of 1970."""

    mode: int
    content: bytes = b""


class Tree:
    """Paths without a slash in front, and what is there."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}

    def directory(self, path: str, mode: int = 0o755) -> None:
        """Makes a directory, and those above it."""
        parts = path.split("/")
        for length in range(1, len(parts)):
            self.entries.setdefault("/".join(parts[:length]), Entry(stat.S_IFDIR | 0o755))
        self.entries[path] = Entry(stat.S_IFDIR | mode)

    def file(self, path: str, content: bytes, mode: int = 0o644) -> None:
        """Writes a file."""
        self._above(path)
        self.entries[path] = Entry(stat.S_IFREG | mode, content)

    def link(self, path: str, target: str) -> None:
        """Makes a symbolic link."""
        self._above(path)
        self.entries[path] = Entry(stat.S_IFLNK | 0o777, target.encode())

    def _above(self, path: str) -> None:
        above = path.rpartition("/")[0]
        if above and above not in self.entries:
            self.directory(above)

    def archive(self) -> bytes:
        """
        A "newc" cpio archive, which is not compressed: what a compressor makes depends on its version.

        070701 inode mode uid gid links mtime size device(2) special(2) length-of-name 0    each 8 hexadecimal digits; name and content padded to 4
        """
        out = bytearray()

        def add(inode: int, name: str, entry: Entry, links: int) -> None:
            encoded = name.encode() + b"\0"
            numbers = (inode, entry.mode, 0, 0, links, 0, len(entry.content), 0, 0, 0, 0, len(encoded), 0)
            out.extend(b"070701" + "".join(f"{number:08x}" for number in numbers).encode() + encoded)
            out.extend(b"\0" * (-len(out) % 4))
            out.extend(entry.content)
            out.extend(b"\0" * (-len(out) % 4))

        # Sorted, a directory comes before what is in it.
        for inode, (path, entry) in enumerate(sorted(self.entries.items()), 1):
            add(inode, path, entry, 2 if stat.S_ISDIR(entry.mode) else 1)
        add(0, "TRAILER!!!", Entry(0), 1)
        return bytes(out)
