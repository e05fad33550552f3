"""The lock file is renewed from what Debian signed, of the suite that was asked for and of today, and never goes back."""

from __future__ import annotations

import hashlib
import lzma
import os
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType

import pytest

import parts
from conftest import program

DAY = 24 * 60 * 60
SUITES = [("debian", "bookworm"), ("debian", "bookworm-updates"), ("debian-security", "bookworm-security"), ("debian", "forky")]
KERNEL = "linux-image-6.12.117+deb12-cloud-amd64"


def date(days: float) -> str:
    """So many days from now, as Debian writes it."""
    return time.strftime("%a, %d %b %Y %H:%M:%S UTC", time.gmtime(time.time() + days * DAY))


def head(codename: str = "bookworm", signed: float = -1, until: float | None = 6) -> str:
    """The beginning of an index."""
    end = "" if until is None else f"Valid-Until: {date(until)}\n"
    return f"Origin: Debian\nSuite: oldstable\nCodename: {codename}\nDate: {date(signed)}\n{end}"


@pytest.fixture(scope="module")
def sign() -> Iterator[Callable[[str], bytes]]:
    """Signs in place of Debian, with a key that is made here."""
    # A short path: the agent has a socket in it.
    with tempfile.TemporaryDirectory() as home:
        def gpg(*arguments: str, text: bytes = b"") -> bytes:
            return subprocess.run(["gpg", "--homedir", home, "--batch", "--quiet", *arguments], input=text, capture_output=True, check=True, timeout=60).stdout

        try:
            gpg("--passphrase", "", "--pinentry-mode", "loopback", "--quick-generate-key", "a test <test@example.org>", "ed25519", "sign", "never")
            keys = Path(home, "keys.gpg")
            keys.write_bytes(gpg("--export"))

            def signer(text: str) -> bytes:
                return gpg("--clear-sign", text=text.encode())

            signer.keys = str(keys)  # type: ignore[attr-defined]
            yield signer
        finally:
            subprocess.run(["gpgconf", "--homedir", home, "--kill", "all"], check=False, timeout=60)


@pytest.fixture
def debian(sign: Callable[[str], bytes], monkeypatch: pytest.MonkeyPatch) -> tuple[ModuleType, Callable[..., None]]:
    """The script, and what puts a suite where it looks."""
    renew = program("renew")
    there: dict[str, bytes] = {}

    def suite(archive: str, name: str, packages: dict[str, str], beginning: str | None = None) -> None:
        listed = "\n".join(f"Package: {package}\nVersion: {version}\nSHA256: {'a' * 64}\nFilename: pool/{package}.deb\n" for package, version in packages.items())
        packed = lzma.compress(listed.encode())
        base = f"{renew.MIRROR}/{archive}/dists/{name}"
        there[f"{base}/InRelease"] = sign((beginning or head(name)) + f"SHA256:\n {hashlib.sha256(packed).hexdigest()} {len(packed)} main/binary-amd64/Packages.xz\n")
        there[f"{base}/main/binary-amd64/Packages.xz"] = packed

    suite.there = there  # type: ignore[attr-defined]
    monkeypatch.setattr(renew, "get", there.__getitem__)
    monkeypatch.setattr(renew, "KEYS", sign.keys)  # type: ignore[attr-defined]
    return renew, suite


@pytest.mark.parametrize(("beginning", "why"), [
    (head(), None),
    (head(signed=-300, until=None), None),
    (head(signed=0.5), None),
    (head("bookworm-updates"), "one of bookworm-updates"),
    (head("bullseye"), "one of bullseye"),
    (head().replace("Codename: ", "Name: "), "one of no suite"),
    (head(signed=-8, until=-0.01), "was valid until"),
    (head(signed=3), "in the future"),
    (head(signed=3, until=None), "in the future"),
    (head().replace("Date: ", "When: "), "cannot be read"),
    (head().replace("Valid-Until: ", "Valid-Until: soon after "), "cannot be read"),
])
def test_an_index_is_of_the_suite_that_was_asked_for_and_of_today(debian, beginning: str, why: str | None) -> None:  # noqa: ANN001
    """Also where the signature is right."""
    renew, suite = debian
    suite("debian", "bookworm", {"hello": "1"}, beginning)
    if why is None:
        assert [(package["Package"], package["archive"]) for package in renew.index("debian", "bookworm")] == [("hello", "debian")]
    else:
        with pytest.raises(parts.Trouble, match=why):
            renew.index("debian", "bookworm")


def test_an_index_that_was_changed_after_it_was_signed_is_refused(debian) -> None:  # noqa: ANN001
    """Its end, or the list that it names; what stands outside of the signed text says nothing."""
    renew, suite = debian
    at, listed = (f"{renew.MIRROR}/debian/dists/bookworm/{name}" for name in ("InRelease", "main/binary-amd64/Packages.xz"))
    suite("debian", "bookworm", {"hello": "1"}, head(signed=-8, until=-1))
    old = suite.there[at]
    suite.there[at] = old.replace(date(-1)[:16].encode(), date(9)[:16].encode())
    assert suite.there[at] != old
    with pytest.raises(parts.Trouble, match="not signed by Debian"):
        renew.index("debian", "bookworm")
    suite.there[at] = f"Valid-Until: {date(9)}\n\n".encode() + old
    with pytest.raises(parts.Trouble, match="was valid until|not signed by Debian"):
        renew.index("debian", "bookworm")
    suite("debian", "bookworm", {"hello": "1"})
    suite.there[listed] += b"!"
    with pytest.raises(parts.Trouble, match="not the one that was signed"):
        renew.index("debian", "bookworm")


@pytest.mark.parametrize(("changed", "why"), [
    ({}, None),
    ({"libc6": "2.36-9+deb12u15"}, None),
    ({"libc6": "2.36-9+deb12u9"}, "libc6 2.36-9.deb12u9 is behind libc6 2.36-9.deb12u14"),
    ({"libc6": "2.36-9+deb12u14~rc1"}, "is behind"),
    ({KERNEL: None, "linux-image-6.12.118+deb12-cloud-amd64": "6.12.118-1~deb12u1"}, None),
    ({KERNEL: None, "linux-image-6.12.99+deb12-cloud-amd64": "6.12.99-1~deb12u1"}, "is behind"),
    ({"ovmf-amdsev": "2025.02-9"}, "is behind"),
])
def test_nothing_goes_back_behind_the_lock_file(debian, monkeypatch: pytest.MonkeyPatch, tmp_path: Path, changed: dict[str, str | None], why: str | None) -> None:  # noqa: ANN001
    """A stable suite has no end, so an old one of Debian's own is signed and valid for ever. Where one package is behind, the lock file stays as it was."""
    renew, suite = debian
    had = {name: "1" for name in renew.PACKAGES} | {"libc6": "2.36-9+deb12u14", KERNEL: "6.12.117-1~deb12u1", "ovmf-amdsev": "2026.08+ds-2"}
    before = "snapshot x\n" + "".join(f"debian {name} {version} {'b' * 64} pool/{name}.deb\n" for name, version in had.items())
    (tmp_path / "lock").write_text(before)
    has = {name: version for name, version in (had | changed).items() if version}
    for archive, name in SUITES:
        suite(archive, name, {package: version for package, version in has.items() if (name == "forky") == (package == "ovmf-amdsev") and name in ("forky", "bookworm")})
    monkeypatch.setattr(renew, "HERE", tmp_path)
    monkeypatch.setattr(renew, "toolchain", lambda: {"gcc": "12"})
    if why is None:
        renew.main()
        assert {package.name: package.version for package in parts.read_lock(tmp_path / "lock").packages} == has
    else:
        with pytest.raises(parts.Trouble, match=why):
            renew.main()
        assert (tmp_path / "lock").read_text() == before


def test_a_lock_file_names_the_compilers_of_a_machine_that_has_them(debian, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:  # noqa: ANN001
    """As gcc, rustc and dpkg say; without one of them none is written."""
    renew, suite = debian
    (tmp_path / "lock").write_text("snapshot x\n")
    for archive, name in SUITES:
        suite(archive, name, {"ovmf-amdsev": "1"} if name == "forky" else dict.fromkeys([*renew.PACKAGES, KERNEL], "1"))
    monkeypatch.setattr(renew, "HERE", tmp_path)
    tools = tmp_path / "tools"
    tools.mkdir()
    for tool, says in {"rustc": "echo rustc 1.2.3", "gcc": "echo gcc 4.5.6", "dpkg-query": 'echo "7-$4"'}.items():
        (tools / tool).write_text(f"#!/bin/sh\n{says}\n")
        (tools / tool).chmod(0o755)
    monkeypatch.setenv("PATH", f"{tools}:{os.environ['PATH']}")
    renew.main()
    before = parts.read_lock(tmp_path / "lock")
    assert before.toolchain == {"rustc": "1.2.3", "gcc": "4.5.6", "binutils": "7-binutils", "libc6-dev": "7-libc6-dev"}
    (tools / "gcc").write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(parts.Trouble, match="has no gcc"):
        renew.main()
    assert parts.read_lock(tmp_path / "lock") == before


@pytest.mark.parametrize("text", [None, "nonsense\n"])
def test_without_a_good_lock_file_nothing_is_asked_and_the_hint_is_where_it_is(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, text: str | None) -> None:
    renew = program("renew")
    monkeypatch.setattr(renew, "HERE", tmp_path)
    monkeypatch.setattr(renew, "index", lambda archive, suite: pytest.fail("Debian was asked"))
    if text is not None:
        (tmp_path / "lock").write_text(text)
    with pytest.raises(parts.Trouble, match="go back behind") as told:
        renew.main()
    assert told.value.hint == "git checkout packaging/conclave/image/lock"
