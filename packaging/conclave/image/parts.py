"""The lock file, and the Debian packages that it names: fetched, checked, unpacked. Nothing that it does not name gets into an image."""

from __future__ import annotations

import hashlib
import io
import lzma
import os
import subprocess
import tarfile
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ARCHIVES = {"debian", "debian-security"}

# The first has what is current, the second what ever was.
STAMP = "image.json"
"""What a build writes last beside its parts: their digests, and what in them is not the source's."""

MIRROR = "http://deb.debian.org"
SNAPSHOT = "http://snapshot.debian.org/archive"

# A mirror that says nothing for so long is passed over.
SILENCE_S = 60

# Longest package; a kernel has 35 MB.
PACKAGE_BYTES_MAX = 128 * 1024 * 1024


class Trouble(Exception):
    """What happened, and what to try."""

    def __init__(self, what: str, hint: str) -> None:
        super().__init__(what)
        self.hint = hint


@dataclass(frozen=True)
class Package:
    """A line of the lock file."""

    archive: str
    name: str
    version: str
    sha256: str
    path: str


@dataclass(frozen=True)
class Lock:
    """All of it."""

    snapshot: str
    toolchain: dict[str, str]
    packages: tuple[Package, ...]

    def one(self, beginning: str) -> Package:
        """The package whose name begins so."""
        found = [package for package in self.packages if package.name.startswith(beginning)]
        if len(found) != 1:
            raise Trouble(f"the lock file names {len(found)} packages {beginning}…, and not one", "packaging/conclave/image/renew writes it")
        return found[0]


def read_lock(path: Path) -> Lock:
    """
    snapshot 20261130T000000Z
    toolchain rustc 1.95.0 (59807616e 2026-04-14)
    debian-security libc6 2.36-9+deb12u7 9f…e1 pool/updates/main/g/glibc/libc6_2.36-9+deb12u7_amd64.deb
    """
    snapshot, toolchain, packages = "", {}, []
    for number, line in enumerate(path.read_text().splitlines(), 1):
        words = line.split()
        if not words or line.startswith("#"):
            continue
        if words[0] == "snapshot" and len(words) == 2:
            snapshot = words[1]
        elif words[0] == "toolchain" and len(words) > 2:
            toolchain[words[1]] = " ".join(words[2:])
        elif words[0] in ARCHIVES and len(words) == 5 and len(words[3]) == 64 and ".." not in words[4]:
            packages.append(Package(*words))
        else:
            raise Trouble(f"line {number} of {path} says nothing that makes sense", "packaging/conclave/image/renew writes it")
    return Lock(snapshot, toolchain, tuple(packages))


def toolchain() -> dict[str, str]:
    """What compiles here: other compilers make other bytes. `none` is what is not there."""
    def said(*command: str) -> str:
        try:
            return subprocess.run(command, capture_output=True, text=True, check=True).stdout.splitlines()[0]
        except (OSError, subprocess.CalledProcessError, IndexError):
            return "none"

    def package(name: str) -> str:
        return said("dpkg-query", "-W", "-f", "${Version}\n", name)

    # Of binutils the assembler, for what crates have in C and assembly: rustc brings its own linker.
    return {
        "rustc": said("rustc", "--version").removeprefix("rustc "),
        "gcc": said("gcc", "--version").removeprefix("gcc "),
        "binutils": package("binutils"),
        "libc6-dev": package("libc6-dev"),
    }


def fetch(package: Package, snapshot: str, kept: Path) -> bytes:
    """The package's bytes, which have the digest of the lock file, or an error."""
    at = kept / package.sha256
    if at.is_file():
        found = at.read_bytes()
        if hashlib.sha256(found).hexdigest() == package.sha256:
            return found
        at.unlink()
    said = []
    for url in (f"{MIRROR}/{package.archive}/{package.path}", f"{SNAPSHOT}/{package.archive}/{snapshot}/{package.path}"):
        try:
            with urllib.request.urlopen(url, timeout=SILENCE_S) as answer:
                found = answer.read(PACKAGE_BYTES_MAX)
        except (urllib.error.URLError, OSError) as error:
            said.append(f"{url}: {error}")
            continue
        digest = hashlib.sha256(found).hexdigest()
        if digest == package.sha256:
            kept.mkdir(parents=True, exist_ok=True)
            new = at.with_name(f"{at.name}.{os.getpid()}")
            new.write_bytes(found)
            new.rename(at)
            return found
        said.append(f"{url}: SHA-256 {digest}")
    raise Trouble(f"{package.name} {package.version} with SHA-256 {package.sha256} is not to be had: {'; '.join(said)}",
                  "is there a network? Debian keeps what was replaced at snapshot.debian.org")


def members(package: bytes) -> Iterator[tuple[tarfile.TarInfo, bytes]]:
    """What a Debian package installs: an ar archive with a tar archive in it."""
    if not package.startswith(b"!<arch>\n"):
        raise Trouble("this is no Debian package", "look at the lock file")
    at = 8
    while at + 60 <= len(package):
        name, length = package[at:at + 16].decode("ascii").strip().rstrip("/"), int(package[at + 48:at + 58])
        if name in ("data.tar.xz", "data.tar"):
            data = package[at + 60:at + 60 + length]
            with tarfile.open(fileobj=io.BytesIO(lzma.decompress(data) if name.endswith(".xz") else data)) as archive:
                for member in archive:
                    handle = archive.extractfile(member) if member.isreg() else None
                    yield member, handle.read() if handle else b""
            return
        at += 60 + length + length % 2
    raise Trouble("this Debian package installs nothing that can be read", "its data.tar is compressed with neither xz nor nothing")
