#!/usr/bin/python3
"""Makes the certificates of a SEV-SNP machine that is none, with every flaw that a verifier must see. Run by hand; what it made is here.

Needs python3-cryptography. The keys are thrown away, but for the chip's (`vcek.pk8`), with which the tests sign reports.
"""

import datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.x509.oid import NameOID

HERE = Path(__file__).parent
AMD = "1.3.6.1.4.1.3704.1"
CHIP = bytes(range(1, 65))
FIRMWARE = {1: 3, 2: 0, 3: 8, 8: 0xCE}
"""Boot loader, tee, SNP, microcode: the last one has a leading zero as an INTEGER."""

PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA384()), salt_length=48)
FROM = datetime.datetime(2026, 1, 1)
UNTIL = datetime.datetime(2046, 1, 1)


def name(text: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bento"), x509.NameAttribute(NameOID.COMMON_NAME, text)])


def certificate(subject, key, issuer, by, serial, authority=True, extensions=(), until=UNTIL, how=PSS) -> bytes:
    made = x509.CertificateBuilder().subject_name(name(subject)).issuer_name(name(issuer)).public_key(key.public_key())
    made = made.serial_number(serial).not_valid_before(FROM).not_valid_after(until)
    if authority is not None:
        made = made.add_extension(x509.BasicConstraints(ca=authority, path_length=None), critical=True)
    for oid, value in extensions:
        made = made.add_extension(x509.UnrecognizedExtension(x509.ObjectIdentifier(f"{AMD}.{oid}"), value), critical=False)
    return made.sign(by, hashes.SHA384(), rsa_padding=how).public_bytes(serialization.Encoding.DER)


def integer(value: int) -> bytes:
    content = value.to_bytes(2 if value >= 0x80 else 1)
    return bytes([2, len(content)]) + content


def chip(firmware=FIRMWARE, chip_id=CHIP) -> list[tuple[str, bytes]]:
    return [(f"3.{part}", integer(version)) for part, version in firmware.items()] + ([("4", chip_id)] if chip_id else [])


def crl(issuer, by, revoked=(), until=UNTIL, since=FROM) -> bytes:
    made = x509.CertificateRevocationListBuilder().issuer_name(name(issuer)).last_update(since).next_update(until)
    for serial in revoked:
        made = made.add_revoked_certificate(x509.RevokedCertificateBuilder().serial_number(serial).revocation_date(since).build())
    return made.sign(by, hashes.SHA384(), rsa_padding=PSS).public_bytes(serialization.Encoding.DER)


def main() -> None:
    ark, ask, other = (rsa.generate_private_key(65537, 2048) for _ in range(3))
    vcek = ec.generate_private_key(ec.SECP384R1())
    root, signing, leaf = "Bento development root, neither Intel's nor AMD's", "Bento development signing key", "Bento development chip"
    early = datetime.datetime(2026, 6, 1)
    late = datetime.datetime(2030, 1, 1)

    def of_chip(extensions, **more) -> bytes:
        return certificate(leaf, vcek, signing, ask, 3, authority=None, extensions=extensions, **more)

    files = {
        "ark": certificate(root, ark, root, ark, 1),
        "ask": certificate(signing, ask, root, ark, 2),
        "ask_expired": certificate(signing, ask, root, ark, 2, until=early),
        "ask_no_authority": certificate(signing, ask, root, ark, 2, authority=False),
        "ask_of_another_root": certificate(signing, ask, root, other, 2),
        "vcek": of_chip(chip()),
        "vcek_expired": of_chip(chip(), until=early),
        "vcek_other_chip": of_chip(chip(chip_id=bytes(64))),
        "vcek_no_chip": of_chip(chip(chip_id=None)),
        "vcek_older": of_chip(chip(FIRMWARE | {3: 7})),
        "vcek_no_microcode": of_chip(chip({part: version for part, version in FIRMWARE.items() if part != 8})),
        "vcek_other_algorithm": of_chip(chip(), how=padding.PKCS1v15()),
        "vcek_of_the_root": certificate(leaf, vcek, root, ark, 3, authority=None, extensions=chip()),
        "vcek_self_made": certificate(leaf, vcek, signing, other, 3, authority=None, extensions=chip()),
        "crl": crl(root, ark),
        "crl_other": crl(root, ark, [77]),
        "crl_ask": crl(root, ark, [77, 2]),
        "crl_vcek": crl(root, ark, [3]),
        "crl_expired": crl(root, ark, until=early),
        "crl_future": crl(root, ark, since=late),
        "crl_of_another": crl(root, other),
        "crl_of_the_signing_key": crl(signing, ask),
    }
    for file, content in files.items():
        (HERE / f"{file}.der").write_bytes(content)
    private = vcek.private_bytes(serialization.Encoding.DER, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    (HERE / "vcek.pk8").write_bytes(private)


if __name__ == "__main__":
    main()
