//! AMD SEV-SNP: a report of 1,184 bytes, signed by a key of the chip, whose certificate goes back to AMD.
//!
//! ```text
//! 0x000 version        0x038 current TCB     0x0c0 host data       0x1a0 chip id
//! 0x004 guest SVN      0x040 platform info   0x140 report id       0x1e0 committed TCB
//! 0x008 policy         0x048 key info        0x160 its agent's     0x1f0 launch TCB
//! 0x030 VMPL           0x050 report data     0x180 reported TCB    0x2a0 signature: r, s, each 72 bytes, little-endian
//! 0x034 algorithm      0x090 measurement     0x188 family, model, stepping
//! ```

use data_encoding::HEXLOWER;
use der::asn1::ObjectIdentifier;
use ring::signature::{ECDSA_P384_SHA384_FIXED, UnparsedPublicKey};

use super::Appraised;
use super::x509::Certificate;
use crate::evidence::SnpCollateral;
use crate::measurements::{Measured, Product, SnpTcb};
use crate::platform::firmware as firmware_of;
use crate::policy::Policy;
use crate::refused::Refused;
use crate::report::SNP_BYTES;
use crate::wire::Malformed;

/// What the signature is over.
const SIGNED: usize = 0x2a0;

/// Guest policy: a debugger may be attached.
const POLICY_DEBUG: u64 = 1 << 19;
/// Guest policy: a migration agent may move the guest.
const POLICY_MIGRATE: u64 = 1 << 18;
/// Platform info: two threads a core.
const PLATFORM_SMT: u64 = 1;
/// Key info: no signature, but the author key's bit.
const KEY_MASKED: u32 = 1 << 1;
/// Key info: which key signed; 0 is the VCEK.
const KEY_SIGNING: u32 = 0b111 << 2;

/// Extensions of a VCEK (1.3.6.1.4.1.3704.1).
const BOOTLOADER: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.1");
const TEE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.2");
const SNP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.3");
const MICROCODE: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.8");
const FMC: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.3.9");
const CHIP: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.3.6.1.4.1.3704.1.4");

pub(super) fn appraise(
    roots: &[(Product, Vec<u8>)],
    report: &[u8],
    collateral: &SnpCollateral,
    policy: &Policy,
    now: u64,
) -> Result<Appraised, Refused> {
    let report: &[u8; SNP_BYTES] = report.try_into().map_err(|_| Malformed::Short("the report"))?;
    let (vcek, product, until) = chain(roots, collateral, policy, now)?;
    signature(report, &vcek)?;

    // From here on the report is AMD's word.
    let guest = u64::from_le_bytes(at(report, 0x08));
    if guest & POLICY_DEBUG != 0 {
        return Err(Refused::Debug);
    }
    // Whoever is no agent has an id of ones.
    if guest & POLICY_MIGRATE != 0 || at::<32>(report, 0x160) != [0xff; 32] {
        return Err(Refused::Migratable);
    }
    let vmpl = u32::from_le_bytes(at(report, 0x30));
    if vmpl != 0 {
        return Err(Refused::Vmpl(vmpl));
    }
    chip(report, product, &vcek)?;
    let tcb = firmware(report, product, &vcek, policy)?;
    let platform = u64::from_le_bytes(at(report, 0x40));
    let threads = platform & PLATFORM_SMT != 0;
    if threads && !policy.threads {
        return Err(Refused::Machine("runs two threads on a core"));
    }

    let facts = vec![
        ("processor", format!("AMD {}", product.name())),
        ("chip", HEXLOWER.encode(&at::<8>(report, 0x1a0))),
        ("firmware", format!("boot loader {}, tee {}, snp {}, microcode {}", tcb.bootloader, tcb.tee, tcb.snp, tcb.microcode)),
        ("privilege level", "0".into()),
        ("two threads a core", if threads { "yes" } else { "no" }.into()),
        ("revoked certificates", if collateral.crl.is_empty() { "no list" } else { "none of these" }.into()),
    ];
    let measured = Measured::Snp { measurement: at(report, 0x90), policy: guest };
    Ok(Appraised { measured, state: "UpToDate".into(), advisories: Vec::new(), facts, until, fresh: until })
}

/// The certificate of the chip's key, back to a root that is known.
fn chain<'a>(
    roots: &[(Product, Vec<u8>)],
    collateral: &'a SnpCollateral,
    policy: &Policy,
    now: u64,
) -> Result<(Certificate<'a>, Product, u64), Refused> {
    let ask = Certificate::parse(&collateral.ask)?;
    let vcek = Certificate::parse(&collateral.vcek)?;
    for (product, root) in roots {
        let ark = Certificate::parse(root)?;
        if !ark.signed(&ask) {
            continue;
        }
        let mut until = ark.valid("AMD's root", now)?.min(ask.valid("AMD's signing key", now)?);
        if !ask.signed(&vcek) {
            return Err(Refused::Chain("the chip's certificate is not signed by AMD".into()));
        }
        until = until.min(vcek.valid("the chip's certificate", now)?);
        if !collateral.crl.is_empty() {
            let others = [("AMD's signing key", &ask), ("the chip's certificate", &vcek)];
            until = until.min(ark.revokes_none(&collateral.crl, &others, now)?);
        } else if !policy.missing_crl {
            return Err(Refused::NoCrl);
        }
        return Ok((vcek, *product, until));
    }
    Err(Refused::Chain("AMD's signing key is not signed by a root that is known".into()))
}

fn signature(report: &[u8; SNP_BYTES], vcek: &Certificate<'_>) -> Result<(), Refused> {
    let wrong = || Refused::Chain("the report is not signed by the chip's key".into());
    let algorithm = u32::from_le_bytes(at(report, 0x34));
    let key = u32::from_le_bytes(at(report, 0x48));
    // ECDSA P-384 with SHA-384, by the VCEK: the one key whose certificate names its chip.
    if algorithm != 1 || key & KEY_MASKED != 0 || key & KEY_SIGNING != 0 {
        return Err(Refused::Chain("the report is not signed by a chip's key".into()));
    }
    let mut fixed = [0; 96];
    for (half, begin) in fixed.chunks_exact_mut(48).zip([SIGNED, SIGNED + 72]) {
        let number: [u8; 72] = at(report, begin);
        let (low, high) = number.split_at(48);
        if high.iter().any(|byte| *byte != 0) {
            return Err(wrong());
        }
        for (to, from) in half.iter_mut().zip(low.iter().rev()) {
            *to = *from;
        }
    }
    // Over the bytes that came.
    UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, vcek.key()).verify(&report[..SIGNED], &fixed).map_err(|_| wrong())
}

fn chip(report: &[u8; SNP_BYTES], product: Product, vcek: &Certificate<'_>) -> Result<(), Refused> {
    let id: [u8; 64] = at(report, 0x1a0);
    // A Turin has 8 bytes, and zeros behind.
    let length = if product == Product::Turin { 8 } else { 64 };
    let (id, rest) = id.split_at(length);
    // A masked id is all zeros: then nothing says whose report it is.
    let named = id.iter().any(|byte| *byte != 0) && rest.iter().all(|byte| *byte == 0);
    if named && vcek.extension(CHIP) == Some(id) { Ok(()) } else { Err(Refused::Chip) }
}

/// The firmware that the chip's key is for is the one of the report, and not older than the list of measurements says.
fn firmware(report: &[u8; SNP_BYTES], product: Product, vcek: &Certificate<'_>, policy: &Policy) -> Result<SnpTcb, Refused> {
    let reported = firmware_of(at(report, 0x180), product);
    let certified = SnpTcb {
        fmc: if product == Product::Turin { number(vcek, FMC)? } else { 0 },
        bootloader: number(vcek, BOOTLOADER)?,
        tee: number(vcek, TEE)?,
        snp: number(vcek, SNP)?,
        microcode: number(vcek, MICROCODE)?,
    };
    if reported != certified {
        return Err(Refused::Firmware);
    }
    let least = policy.measurements.minimum(product).ok_or(Refused::NoMinimum(product.name()))?;
    // What runs now, what could be gone back to, and what the guest was started with. Each is at least what is reported, or a lie.
    for has in
        [reported, firmware_of(at(report, 0x38), product), firmware_of(at(report, 0x1e0), product), firmware_of(at(report, 0x1f0), product)]
    {
        let parts = [
            ("FMC", has.fmc, least.fmc),
            ("boot loader", has.bootloader, least.bootloader),
            ("PSP operating system", has.tee, least.tee),
            ("SNP firmware", has.snp, least.snp),
            ("microcode", has.microcode, least.microcode),
        ];
        for (what, is, least) in parts {
            if is < least {
                return Err(Refused::Old { what, is: is.into(), least: least.into() });
            }
        }
    }
    Ok(reported)
}

/// An extension that is an INTEGER of one byte's range: `02 01 03`, or `02 02 00 ce`.
fn number(vcek: &Certificate<'_>, id: ObjectIdentifier) -> Result<u8, Refused> {
    match vcek.extension(id) {
        Some([2, 1, value]) if *value < 0x80 => Ok(*value),
        Some([2, 2, 0, value]) if *value >= 0x80 => Ok(*value),
        _ => Err(Refused::Firmware),
    }
}

fn at<const N: usize>(report: &[u8; SNP_BYTES], begin: usize) -> [u8; N] {
    let mut out = [0; N];
    out.copy_from_slice(&report[begin..begin + N]);
    out
}
