"""What SEV-SNP hardware measures, compared with what another implementation says."""

from __future__ import annotations

import os
import shutil
import socket
import struct
import subprocess
from pathlib import Path

import pytest

import snp
from conftest import IMAGE, signed
from parts import Trouble


def firmware(kinds: tuple[int, ...] = (1, 2, 3, 4, 0x10)) -> bytes:
    """The least firmware: two pages, a table, and sections of these kinds."""
    metadata = struct.pack("<4sIII", b"ASEV", 16 + 12 * len(kinds), 1, len(kinds))
    metadata += b"".join(struct.pack("<III", 0x800000 + 0x10000 * kind, 0x3000 if kind in (1, 4) else 0x1000, kind) for kind in kinds)
    content = bytearray(index * 7 % 251 for index in range(8192))
    content[4096:4096 + len(metadata)] = metadata

    def entry(data: bytes, guid: bytes) -> bytes:
        return data + struct.pack("<H", len(data) + 18) + guid

    table = entry(struct.pack("<II", 0x900C00, 0x400), snp.HASH_TABLE)
    table += entry(struct.pack("<I", 0x80B004), snp.RESET_BLOCK) + entry(struct.pack("<I", 4096), snp.METADATA)
    table += struct.pack("<H", len(table) + 18) + snp.FOOTER
    content[8192 - 32 - len(table):8192 - 32] = table
    return bytes(content)


# From sev-snp-measure 0.0.13 of virtee (Apache-2.0), of the firmware above, this kernel, root and command line.
GOLDEN = {
    (1, "EPYC-v4", 1): "c3587700209d7528d2ee80ce6a30fa3297a0f705daa8fee6a69697a5e981eddf3e3cbf71a077704588a2168f0177b700",
    (2, "EPYC-v4", 1): "244c8cb288f9b7c3402ee3ae4cb08dd425962f281390fa661a8b56fac2d0ce4af32a061ed8a1d48973d3d1e9d025e2b8",
    (4, "EPYC-Milan-v2", 1): "a69231a6b3d64972b466dc26c1438ab00acbaf0adfc494cfd9409655ac8a5065685395e4b52cfa4ced53c6febccfb7bc",
    (3, "EPYC-Genoa", 0x21): "ac1df25254fb80ae5b2ce02bae65da2d5fd55930e4823969c213008d02704e43a5de30d53b3acfd3a40127be87a1bae9",
}
PARTS = (b"a kernel", b"its root", b"console=ttyS0")


@pytest.mark.parametrize(("machine", "digest"), GOLDEN.items())
def test_a_measurement_is_what_another_implementation_says(machine: tuple[int, str, int], digest: str) -> None:
    """And another one with one byte changed anywhere."""
    processors, cpu, features = machine

    def measured(*content: bytes) -> str:
        return snp.measurement(*content, processors, snp.PROCESSORS[cpu], features).hex()

    good = (firmware(), *PARTS)
    assert measured(*good) == digest
    for index in range(4):
        changed = list(good)
        changed[index] = bytes([changed[index][0] ^ 1]) + changed[index][1:]
        assert measured(*changed) != digest


def test_firmware_that_does_not_look_at_the_kernel_is_refused() -> None:
    """It would start any kernel, under the same measurement."""
    for kinds, says in (((1, 2, 3), "does not look at a kernel"), ((1, 2, 3, 9, 0x10), "kind 0x9")):
        with pytest.raises(Trouble, match=says):
            snp.measurement(firmware(kinds), *PARTS, 1, 0)
    with pytest.raises(Trouble, match="not for SEV-SNP"):
        snp.measurement(bytes(8192), *PARTS, 1, 0)


def test_one_command_says_what_is_pinned_and_says_nothing_of_an_image_that_protects_from_nobody(built) -> None:  # noqa: ANN001
    """In the form of the list of measurements."""
    image, _ = built()
    said = [subprocess.run([IMAGE / "measure", image, *more], capture_output=True, text=True, check=True).stdout for more in ([], [], ["--processors", "3"])]
    assert said[0] == said[1] != said[2]
    # The tests' programs are not those that everybody compiles.
    own = "# Not what others build of the same source: it has programs of its own.\n"
    assert said[0].startswith(own + '[[measurement]]\nname = "bento-conclave on 2 processors EPYC-v4"\nkind = "snp"\nmeasurement = "') and "policy = 0x30000" in said[0]
    simulated, printed = built("--simulated")
    assert "SIMULATED-initramfs" in printed and not (simulated / "initramfs").exists()
    refused = subprocess.run([IMAGE / "measure", simulated], capture_output=True, text=True, check=False)
    assert refused.returncode != 0 and not refused.stdout and "protects from nobody" in refused.stderr
    # Nobody gets such an image by leaving something out.
    unsaid = subprocess.run([IMAGE / "build", simulated, "--simulated"], capture_output=True, text=True, check=False)
    assert unsaid.returncode != 0 and "--programs" in unsaid.stderr


def test_what_the_command_prints_is_what_clients_take_when_a_publisher_signed_it(built, programs: Path, tmp_path: Path) -> None:  # noqa: ANN001
    """As the page beside the image says it is done. With one letter changed, no client takes it."""
    image, _ = built()
    measured = subprocess.run([IMAGE / "measure", image], capture_output=True, text=True, check=True).stdout
    listed, publisher = signed(measured, tmp_path)
    environment = os.environ | {"XDG_CONFIG_HOME": str(tmp_path), "XDG_STATE_HOME": str(tmp_path), "XDG_DATA_HOME": str(tmp_path)}
    # Bound and not listened at, so that nobody is there.
    with socket.socket() as nobody:
        nobody.bind(("127.0.0.1", 0))
        place = f"127.0.0.1:{nobody.getsockname()[1]}"
        for change, says in (("EPYC", "nothing answers at the node's address"), ("EPIC", "is not signed by its publisher")):
            listed.write_text(listed.read_text().replace("EPYC", change))
            verified = subprocess.run(
                [programs / "bento", "verify", place, "--measurements", listed, "--publisher", publisher],
                capture_output=True, text=True, check=False, timeout=60, env=environment,
            )
            assert verified.returncode != 0 and says in verified.stderr, verified


def test_parts_that_are_not_of_one_build_are_not_measured(built, tmp_path: Path) -> None:  # noqa: ANN001
    """Neither one that was changed, nor what a build left that was killed."""
    image = tmp_path / "image"
    shutil.copytree(built()[0], image)
    assert subprocess.run([IMAGE / "measure", image], capture_output=True, check=False).returncode == 0
    (image / "cmdline").write_text("init=/bin/sh")
    changed = subprocess.run([IMAGE / "measure", image], capture_output=True, text=True, check=False)
    assert changed.returncode != 0 and "cmdline is not what was built with the others" in changed.stderr
    # As a build leaves it that is killed.
    (image / "image.json").unlink()
    broken = subprocess.run([IMAGE / "measure", image], capture_output=True, text=True, check=False)
    assert broken.returncode != 0 and "did not come to its end" in broken.stderr
