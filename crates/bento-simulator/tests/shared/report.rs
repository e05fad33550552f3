//! Reports of SEV-SNP, well signed by a chip that is none (`../snp/make.py`).

use std::fs;

use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P384_SHA384_FIXED_SIGNING, EcdsaKeyPair};

const FIRMWARE: [u8; 8] = [3, 0, 0, 0, 0, 0, 8, 0xce];

/// A certificate or list beside it.
pub(crate) fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{}/../bento-simulator/tests/snp/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a file")
}

/// A report that is good, but for one change, and signed: over the bytes that the tests ask for.
pub(crate) fn report(change: impl FnOnce(&mut [u8])) -> Vec<u8> {
    let mut report = vec![0; 1184];
    let mut put = |at: usize, bytes: &[u8]| report[at..at + bytes.len()].copy_from_slice(bytes);
    put(0x00, &2_u32.to_le_bytes());
    put(0x08, &0x30000_u64.to_le_bytes());
    put(0x34, &1_u32.to_le_bytes());
    put(0x40, &1_u64.to_le_bytes());
    put(0x50, &[0x42; 64]);
    put(0x90, &[0x3e; 48]);
    put(0x160, &[0xff; 32]);
    let chip: Vec<u8> = (1..=64).collect();
    put(0x1a0, &chip);
    for at in [0x38, 0x180, 0x1e0, 0x1f0] {
        put(at, &FIRMWARE);
    }
    change(&mut report);
    let random = SystemRandom::new();
    let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P384_SHA384_FIXED_SIGNING, &read("vcek.pk8"), &random).expect("a key");
    let signature = key.sign(&random, &report[..0x2a0]).expect("a signature");
    for (half, at) in signature.as_ref().chunks(48).zip([0x2a0, 0x2a0 + 72]) {
        for (place, byte) in half.iter().rev().enumerate() {
            report[at + place] = *byte;
        }
    }
    report
}
