"""Nothing gets into an image that the lock file does not name, and the same parts give the same bytes."""

from __future__ import annotations

import hashlib
import http.server
import subprocess
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

import parts
from conftest import IMAGE, program
from tree import Tree

GOOD = b"!<arch>\nwhat Debian has"


@pytest.fixture
def mirror(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, bytes]]:
    """A server in place of Debian's: paths and what is there."""
    there: dict[str, bytes] = {}

    class Answers(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            found = there.get(self.path)
            self.send_response(200 if found else 404)
            self.end_headers()
            self.wfile.write(found or b"")

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Answers)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    place = f"http://127.0.0.1:{server.server_port}"
    monkeypatch.setattr(parts, "MIRROR", f"{place}/now")
    monkeypatch.setattr(parts, "SNAPSHOT", f"{place}/then")
    yield there
    server.shutdown()
    server.server_close()


def package(content: bytes = GOOD) -> parts.Package:
    return parts.Package("debian", "hello", "1", hashlib.sha256(content).hexdigest(), "pool/hello.deb")


def test_a_package_is_what_the_lock_file_says_wherever_it_comes_from(mirror: dict[str, bytes], tmp_path: Path) -> None:
    """From the mirror, then from what was kept, then from the archive of all that ever was."""
    mirror["/now/debian/pool/hello.deb"] = GOOD
    assert parts.fetch(package(), "20260101T000000Z", tmp_path) == GOOD
    mirror.clear()
    assert parts.fetch(package(), "20260101T000000Z", tmp_path) == GOOD
    for kept in tmp_path.iterdir():
        kept.unlink()
    mirror["/then/debian/20260101T000000Z/pool/hello.deb"] = GOOD
    assert parts.fetch(package(), "20260101T000000Z", tmp_path) == GOOD


def test_a_package_with_one_other_byte_is_refused_and_one_that_was_changed_on_the_disk_is_fetched_again(mirror: dict[str, bytes], tmp_path: Path) -> None:
    """Also where both places agree on it."""
    mirror["/now/debian/pool/hello.deb"] = mirror["/then/debian/x/pool/hello.deb"] = GOOD + b"!"
    with pytest.raises(parts.Trouble, match="is not to be had"):
        parts.fetch(package(), "x", tmp_path)
    assert not list(tmp_path.iterdir())
    (tmp_path / package().sha256).write_bytes(b"spoilt")
    mirror["/now/debian/pool/hello.deb"] = GOOD
    assert parts.fetch(package(), "x", tmp_path) == GOOD


@pytest.mark.parametrize("line", ["debian hello 1 abc pool/hello.deb", f"elsewhere hello 1 {'a' * 64} pool/hello.deb", f"debian hello 1 {'a' * 64} ../hello.deb", "hello"])
def test_a_line_that_makes_no_sense_is_refused(line: str, tmp_path: Path) -> None:
    """And the shipped lock file makes sense."""
    (tmp_path / "lock").write_text(f"snapshot x\n{line}\n")
    with pytest.raises(parts.Trouble, match="line 2"):
        parts.read_lock(tmp_path / "lock")
    lock = parts.read_lock(IMAGE / "lock")
    assert lock.one("linux-image-").name.endswith("-cloud-amd64") and lock.one("ovmf-") and set(lock.toolchain) == set(parts.toolchain()) == {"rustc", "gcc", "binutils", "libc6-dev"}


def test_a_tree_gives_the_same_archive_in_whatever_order_it_was_made_and_cpio_reads_it(tmp_path: Path) -> None:
    """Sorted, of root, of 1970."""
    one, other = Tree(), Tree()
    one.file("a/b/c", b"text", 0o755)
    one.link("a/link", "b/c")
    one.directory("dev")
    other.directory("dev")
    other.link("a/link", "b/c")
    other.file("a/b/c", b"text", 0o755)
    assert one.archive() == other.archive()
    other.file("a/b/c", b"Text", 0o755)
    assert one.archive() != other.archive()
    read = subprocess.run(["busybox", "cpio", "-tv"], input=one.archive(), capture_output=True, check=True, env={"TZ": "UTC", "PATH": "/usr/bin:/bin"}).stdout.decode()
    assert [line.split()[-1] for line in read.splitlines() if "->" not in line] == ["a", "a/b", "a/b/c", "dev"]
    assert all("1970" in line and " 0/0 " in " ".join(line.split()) for line in read.splitlines()), read


def test_the_build_warns_of_each_tool_that_is_not_the_one_of_the_lock_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """And of no other. Nothing is compiled here."""
    build = program("build")
    done = subprocess.CompletedProcess([], 0)
    monkeypatch.setattr(build.subprocess, "run", lambda *_, **__: done)
    tools = {"rustc": "1", "gcc": "2", "binutils": "3", "libc6-dev": "4"}
    monkeypatch.setattr(build, "toolchain", lambda: tools)
    build.compiled(parts.Lock("x", tools, ()), tmp_path)
    assert "Warning" not in capsys.readouterr().err
    for tool in tools:
        build.compiled(parts.Lock("x", tools | {tool: "5"}, ()), tmp_path)
        warned = [line for line in capsys.readouterr().err.splitlines() if line.startswith("Warning")]
        assert len(warned) == 1 and f" {tool} is {tools[tool]} here, and 5 " in warned[0], warned


def test_an_image_is_the_same_when_it_is_built_again_and_another_with_another_policy(built, tmp_path: Path) -> None:  # noqa: ANN001
    """Nothing of this machine, its clock or its places is in it."""
    (one, said), (other, again) = built(), built(number=1)
    assert said == again and len(said.splitlines()) == 4
    assert (one / "initramfs").read_bytes() == (other / "initramfs").read_bytes()
    for name in ("conclave.toml", "policy.toml"):
        (tmp_path / name).write_bytes((IMAGE.parent / name).read_bytes())
    (tmp_path / "policy.toml").write_text((tmp_path / "policy.toml").read_text() + "# more\n")
    changed, _ = built("--configuration", str(tmp_path))
    assert (one / "initramfs").read_bytes() != (changed / "initramfs").read_bytes()
    assert (one / "vmlinuz").read_bytes() == (changed / "vmlinuz").read_bytes()


def test_an_image_has_what_its_programs_need_and_nothing_that_is_set_uid(packages, programs: Path) -> None:  # noqa: ANN001
    """Each shared library that is named is there."""
    build = program("build")
    found: dict[str, object] = {}
    original = Tree.archive

    def archive(tree: Tree) -> bytes:
        found.update(tree.entries)
        return original(tree)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Tree, "archive", archive)
        build.assemble(parts.read_lock(IMAGE / "lock"), packages, programs, IMAGE.parent, simulated=False)
    assert "usr/bin/bento-conclave" in found and "usr/bin/bento-simulated-conclave" not in found
    names = {path.rpartition("/")[2] for path in found}
    elves = [(path, entry) for path, entry in found.items() if entry.content.startswith(b"\x7fELF") and not path.endswith(".ko")]
    assert len(elves) > 40
    for path, entry in elves:
        listed = subprocess.run(["readelf", "-d", "/dev/stdin"], input=entry.content, capture_output=True, check=False).stdout.decode()
        for line in listed.splitlines():
            if "(NEEDED)" in line:
                assert line.partition("[")[2].rstrip("]") in names, (path, line)
    assert all(entry.mode & 0o6022 == 0 for entry in found.values() if entry.mode & 0o170000 != 0o120000)
