"""What an SEV-SNP machine measures of a guest that QEMU starts with a kernel: AMD's SNP firmware ABI (56860), 8.17, and edk2's and QEMU's tables.

Each page that the host puts into the guest before it starts is added to a chain of SHA-384; the last value is MEASUREMENT. The kernel, its root and its command line
come in as one page of digests, which the firmware compares with what the host hands it later.
"""

from __future__ import annotations

import hashlib
import struct
import uuid

from parts import Trouble

PAGE = 4096
FOUR_GIB = 1 << 32

# Types of pages (PAGE_INFO).
NORMAL, VMSA, ZERO, SECRETS, CPUID = 1, 2, 3, 5, 6
# A processor's registers have no address of the guest's; the firmware takes the last page below 2^52.
VMSA_ADDRESS = 0xFFFFFFFFF000

# Sections that the firmware names, and the type of their pages.
SECTIONS = {1: ZERO, 2: SECRETS, 3: CPUID, 4: ZERO, 0x10: NORMAL}
KERNEL_HASHES = 0x10

FOOTER = uuid.UUID("96b582de-1fb2-45f7-baea-a366c55a082d").bytes_le
HASH_TABLE = uuid.UUID("7255371f-3a3b-4b04-927b-1da6efa8d454").bytes_le
RESET_BLOCK = uuid.UUID("00f771de-1a7e-4fcb-890e-68c77e2fb44e").bytes_le
METADATA = uuid.UUID("dc886566-984a-4798-a75e-5585a7bf67cc").bytes_le
HASHES = uuid.UUID("9438d606-4f22-4cc9-b479-a793d411fd21").bytes_le
HASH_OF = [uuid.UUID(text).bytes_le for text in (
    "97d02dd8-bd20-4c94-aa78-e7714d36ab2a",  # command line
    "44baf731-3a2f-4bd7-9af1-41e29169781d",  # initrd
    "4de79437-abd2-427f-b835-d5b172d2045b",  # kernel
)]

# Models of QEMU's `-cpu`, and what a processor of theirs says of itself in CPUID 1: family, model, stepping. It is in a register at the start.
PROCESSORS = {"EPYC-v4": 0x800F12, "EPYC-Milan-v2": 0xA00F11, "EPYC-Genoa": 0xA10F10}


class Firmware:
    """A build of OVMF for SEV, which ends at 4 GiB and has a table 32 bytes before its end."""

    def __init__(self, content: bytes) -> None:
        self.content = content
        if not content or len(content) % PAGE:
            raise Trouble("the firmware is no number of whole pages", "build writes the one that is meant, OVMF.amdsev.fd")
        self.address = FOUR_GIB - len(content)
        # From its end: each entry is data, its length with this header, and a GUID. The last is the table's own.
        self.table: dict[bytes, bytes] = {}
        end = len(content) - 32
        length, guid = self._header(end)
        begin = end - length if guid == FOOTER else end
        end -= 18
        while end - 18 >= begin:
            length, guid = self._header(end)
            if length < 18:
                break
            self.table[guid] = content[end - length:end - 18]
            end -= length

    def _header(self, end: int) -> tuple[int, bytes]:
        return struct.unpack_from("<H", self.content, end - 18)[0], self.content[end - 16:end]

    def number(self, guid: bytes) -> int:
        """The 32 bits at the beginning of an entry."""
        if guid not in self.table:
            raise Trouble("this firmware is not for SEV-SNP with a kernel", "build writes the one that is meant, OVMF.amdsev.fd")
        return struct.unpack_from("<I", self.table[guid])[0]

    def sections(self) -> list[tuple[int, int, int]]:
        """Address, length and kind of what the host prepares for it."""
        begin = len(self.content) - self.number(METADATA)
        signature, _, version, count = struct.unpack_from("<4sIII", self.content, begin)
        if signature != b"ASEV" or version != 1:
            raise Trouble("the firmware's SEV metadata have a form that is not known", "look at edk2's OvmfSevMetadata.asm")
        return [struct.unpack_from("<III", self.content, begin + 16 + 12 * index) for index in range(count)]


def page_of_hashes(kernel: bytes, root: bytes, command_line: bytes, offset: int) -> bytes:
    """As QEMU writes it with `kernel-hashes=on`."""
    digests = [hashlib.sha256(content).digest() for content in (command_line + b"\0", root, kernel)]
    entries = b"".join(guid + struct.pack("<H", 16 + 2 + 32) + digest for guid, digest in zip(HASH_OF, digests, strict=True))
    table = HASHES + struct.pack("<H", 16 + 2 + len(entries)) + entries
    return (bytes(offset) + table).ljust(PAGE, b"\0")


def registers(begin: int, signature: int, features: int) -> bytes:
    """A processor's state at its start (VMSA, AMD64 manual volume 2, table B-4), as QEMU and KVM set it."""
    page = bytearray(PAGE)

    def segment(offset: int, selector: int, attributes: int, base: int = 0) -> None:
        struct.pack_into("<HHIQ", page, offset, selector, attributes, 0xFFFF, base)

    for offset, attributes in ((0x00, 0x93), (0x20, 0x93), (0x30, 0x93), (0x40, 0x93), (0x50, 0x93), (0x60, 0), (0x70, 0x82), (0x80, 0), (0x90, 0x8B)):
        segment(offset, 0, attributes)
    segment(0x10, 0xF000, 0x9B, begin & 0xFFFF0000)
    for offset, value in {
        0x0D0: 0x1000,  # EFER: SVME
        0x148: 0x40,  # CR4: MCE
        0x158: 0x10,  # CR0
        0x160: 0x400,  # DR7
        0x168: 0xFFFF0FF0,  # DR6
        0x170: 0x2,  # RFLAGS
        0x178: begin & 0xFFFF,  # RIP
        0x268: 0x7040600070406,  # PAT
        0x310: signature,  # RDX
        0x3B0: features,  # SEV_FEATURES
        0x3E8: 0x1,  # XCR0
    }.items():
        struct.pack_into("<Q", page, offset, value)
    struct.pack_into("<I", page, 0x408, 0x1F80)  # MXCSR
    struct.pack_into("<H", page, 0x410, 0x37F)  # x87 control
    return bytes(page)


def measurement(firmware: bytes, kernel: bytes, root: bytes, command_line: bytes, processors: int, signature: int, features: int = 1) -> bytes:
    """MEASUREMENT of such a guest. `features`: SNP and nothing else, as KVM has it unless QEMU is told otherwise."""
    digest = bytes(48)

    def add(kind: int, address: int, content: bytes = bytes(48)) -> None:
        nonlocal digest
        # Digest so far, digest of the page, length of this, kind, no migration agent's, no rights of other levels, address.
        digest = hashlib.sha384(digest + content + struct.pack("<HBBBBBBQ", 0x70, kind, 0, 0, 0, 0, 0, address)).digest()

    parsed = Firmware(firmware)
    for offset in range(0, len(firmware), PAGE):
        add(NORMAL, parsed.address + offset, hashlib.sha384(firmware[offset:offset + PAGE]).digest())
    has_hashes = False
    for address, length, kind in parsed.sections():
        if kind not in SECTIONS:
            raise Trouble(f"the firmware has a section of kind {kind:#x}, which is not known", "look at edk2's OvmfSevMetadata.asm")
        if kind == KERNEL_HASHES:
            has_hashes = True
            page = page_of_hashes(kernel, root, command_line, parsed.number(HASH_TABLE) % PAGE)
            add(NORMAL, address, hashlib.sha384(page).digest())
            continue
        # Of secrets and CPUID there is one page each, whose content the processor checks and does not measure.
        for offset in range(0, length if SECTIONS[kind] == ZERO else PAGE, PAGE):
            add(SECTIONS[kind], address + offset)
    if not has_hashes:
        raise Trouble("this firmware does not look at a kernel's digest", "build writes the one that is meant, OVMF.amdsev.fd")
    for number in range(processors):
        begin = 0xFFFFFFF0 if number == 0 else parsed.number(RESET_BLOCK)
        add(VMSA, VMSA_ADDRESS, hashlib.sha384(registers(begin, signature, features)).digest())
    return digest
