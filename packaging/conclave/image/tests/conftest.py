"""What the tests of the image share: packages, programs, and images of both kinds, which are built once."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import os
import subprocess
import sys
import time
from pathlib import Path
from types import ModuleType

import pytest

HERE = Path(__file__).resolve().parent
IMAGE = HERE.parent
sys.path.insert(0, str(IMAGE))

import parts  # noqa: E402

KEPT = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "bento/packages"


def program(name: str) -> ModuleType:
    """The script beside these tests, as a module."""
    loader = importlib.machinery.SourceFileLoader(name, str(IMAGE / name))
    spec = importlib.util.spec_from_loader(name, loader)
    assert spec
    module = importlib.util.module_from_spec(spec)
    loader.exec_module(module)
    return module


def signed(measured: str, directory: Path) -> tuple[Path, str]:
    """A list of measurements as the page beside the image says that one is made, and its publisher's key."""

    def openssl(*arguments: str | Path) -> bytes:
        return subprocess.run(["openssl", *arguments], capture_output=True, check=True).stdout

    body = f"version = 1\nexpires = {int(time.time()) + 86400}\n\n[snp_minimum.milan]\nbootloader = 4\ntee = 0\nsnp = 24\nmicrocode = 219\n\n{measured}"
    key, said, listed = (directory / name for name in ("publisher.pem", "signed", "list"))
    openssl("genpkey", "-algorithm", "ed25519", "-out", key)
    publisher = openssl("pkey", "-in", key, "-pubout", "-outform", "DER")[-32:].hex()
    said.write_text(f"bento measurements 1\n{body}")
    signature = openssl("pkeyutl", "-sign", "-rawin", "-inkey", key, "-in", said).hex()
    listed.write_text(f"bento measurements, signed: {signature}\n{body}")
    return listed, publisher


@pytest.fixture(scope="session")
def packages() -> dict[parts.Package, bytes]:
    """All of the lock file. Debian keeps at hand only what is current; the rest may be out of reach."""
    lock = parts.read_lock(IMAGE / "lock")
    try:
        return {package: parts.fetch(package, lock.snapshot, KEPT) for package in lock.packages}
    except parts.Trouble as trouble:
        pytest.skip(f"SKIPPED: {trouble}")


@pytest.fixture(scope="session")
def programs() -> Path:
    """Where the programs of this tree are, as `./check` built them."""
    return Path(os.environ["BENTO_BIN"])


@pytest.fixture(scope="session")
def built(packages: dict[parts.Package, bytes], programs: Path, tmp_path_factory: pytest.TempPathFactory):  # noqa: ANN201
    """Builds images as a person would; says where one is and what was printed."""
    found = {}

    def build(*arguments: str, number: int = 0) -> tuple[Path, str]:
        if (arguments, number) not in found:
            out = tmp_path_factory.mktemp("image")
            command = [IMAGE / "build", out, "--programs", programs, "--kept", KEPT, *arguments]
            done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
            assert done.returncode == 0, done.stderr
            found[arguments, number] = (out, done.stdout)
        return found[arguments, number]

    return build
