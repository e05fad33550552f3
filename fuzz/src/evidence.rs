//! What comes before a channel: Hello, Evidence, collateral, lists of measurements, quotes and reports. A message that is read and written
//! again is the same; genuine evidence that was changed is refused, or says what it said.

use std::sync::OnceLock;

use bento_attest::evidence::{Collateral, DcapCollateral, EVIDENCE_BYTES_MAX, Evidence, HELLO_BYTES_MAX, Hello, SnpCollateral};
use bento_attest::measurements::Pin;
use bento_attest::platform::Platform;
use bento_attest::{Format, Hardware, Kind, Measurements, Policy, Roots, Verified, report_data};
use serde_json::Value;

const SEED: [u8; 32] = [1; 32];

struct Genuine {
    kind: Kind,
    report: Vec<u8>,
    collateral: Collateral,
    policy: Policy,
    now: u64,
    found: Verified<Hardware>,
}

macro_rules! vector {
    ($name:literal) => {
        include_bytes!(concat!("../../crates/bento-attest/tests/vectors/", $name))
    };
}

pub fn run(data: &[u8]) {
    let Some((mode, rest)) = data.split_first() else { return };
    match mode % 6 {
        0 => hello(rest),
        1 => evidence(rest),
        2 => collateral(rest),
        3 => list(rest),
        _ => changed(&genuine()[usize::from(mode / 6) % genuine().len()], mode % 6 == 4, rest),
    }
}

fn hello(bytes: &[u8]) {
    let Ok(hello) = Hello::from_bytes(bytes) else { return };
    assert!(bytes.len() <= HELLO_BYTES_MAX);
    // Kinds that are not known are passed over, so that it may have become shorter, and stays the same from then on.
    let written = hello.to_bytes();
    assert!(written.len() <= bytes.len());
    assert_eq!(Hello::from_bytes(&written), Ok(hello));
}

fn evidence(bytes: &[u8]) {
    let Ok(evidence) = Evidence::from_bytes(bytes) else { return };
    assert!(bytes.len() <= EVIDENCE_BYTES_MAX);
    assert_eq!(evidence.to_bytes(), bytes);
    let _ = Platform::of(&evidence.report);
    // Nobody signed it.
    let policy = &genuine()[0].policy;
    assert!(Roots::production().verify(&evidence, policy, &[0; 32], genuine()[0].now).is_err());
}

fn collateral(bytes: &[u8]) {
    if let Ok(collateral) = Collateral::from_bytes(bytes) {
        assert_eq!(collateral.to_bytes(), bytes);
    }
}

fn list(bytes: &[u8]) {
    let pin = Pin { key: Measurements::public_key(&SEED).expect("a key"), version: 0, digest: None };
    // The signature of a changed list is none; a list that nobody signed is read as a simulator's.
    assert!(Measurements::open(bytes, &pin, 0).is_err());
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let read = Measurements::for_simulator(text);
    match Measurements::sign(text, &SEED) {
        Ok(file) => {
            // What a publisher can sign is of hardware, or nobody takes it; a list of nothing is both.
            let opened = Measurements::open(file.as_bytes(), &pin, 0);
            assert!(opened.is_err() || read.is_err() || opened == read);
        }
        Err(_) => assert!(read.is_err()),
    }
}

/// Changes some bytes of the report, or of its collateral: three for each, a place and what is put there.
fn changed(genuine: &Genuine, report_too: bool, changes: &[u8]) {
    let (mut report, mut collateral) = (genuine.report.clone(), genuine.collateral.to_bytes());
    let which = if report_too { &mut report } else { &mut collateral };
    for change in changes.chunks_exact(3) {
        let at = usize::from(u16::from_le_bytes([change[0], change[1]])) % which.len();
        which[at] ^= change[2];
    }
    let Ok(collateral) = Collateral::from_bytes(&collateral) else { return };
    let Some(asked) = report_data(genuine.kind.format(), &report) else { return };
    // Whose machine it is, which is asked before anything is verified.
    let named = Platform::of(&report);
    let judged = Roots::production().verify_report(genuine.kind, &report, &collateral, &genuine.policy, &asked, genuine.now);
    if let Ok(found) = judged {
        // What is signed is as it was; what is not may be anything, and what was found is the same.
        let signed = match genuine.kind.format() {
            Format::Sgx => 48 + 384,
            Format::Tdx => 48 + 584,
            Format::Snp => 0x2a0,
        };
        assert_eq!(report[..signed], genuine.report[..signed]);
        assert_eq!(found, genuine.found);
        assert_eq!(named, Platform::of(&genuine.report));
    }
}

fn genuine() -> &'static [Genuine] {
    static GENUINE: OnceLock<Vec<Genuine>> = OnceLock::new();
    GENUINE.get_or_init(|| {
        let milan = hex(std::str::from_utf8(vector!("sev/report_milan.hex")).expect("text").trim());
        let amd =
            SnpCollateral { ask: vector!("sev/ask_milan.der").to_vec(), vcek: vector!("sev/vcek_milan.der").to_vec(), crl: Vec::new() };
        vec![
            known(Format::Sgx, vector!("dcap-qvl/sgx_quote").to_vec(), dcap(vector!("dcap-qvl/sgx_quote_collateral.json")), 1_750_500_000),
            known(Format::Tdx, vector!("dcap-qvl/tdx_quote").to_vec(), dcap(vector!("dcap-qvl/tdx_quote_collateral.json")), 1_750_500_000),
            known(Format::Snp, milan, Collateral::Snp(amd), 1_704_067_200),
        ]
    })
}

fn known(format: Format, report: Vec<u8>, collateral: Collateral, now: u64) -> Genuine {
    let kind = Kind::Hardware(format);
    let text = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
    let line = match format {
        Format::Sgx => format!("mrenclave = \"{}\"", text(&report[112..144])),
        Format::Tdx => {
            let at = |offset: usize| text(&report[48 + offset..96 + offset]);
            format!("mrtd = \"{}\"\nrtmr = [\"{}\", \"{}\", \"{}\", \"{}\"]", at(136), at(328), at(376), at(424), at(472))
        }
        Format::Snp => format!("measurement = \"{}\"\npolicy = 0x30000", text(&report[0x90..0xc0])),
    };
    let body = format!(
        "version = 1\nexpires = 4000000000\n[snp_minimum.milan]\nbootloader = 0\ntee = 0\nsnp = 0\nmicrocode = 0\n[[measurement]]\nname = \"it\"\nkind = \"{kind}\"\n{line}\n"
    );
    let file = Measurements::sign(&body, &SEED).expect("signed");
    let pin = Pin { key: Measurements::public_key(&SEED).expect("a key"), version: 1, digest: None };
    let mut policy = Policy::new(Measurements::open(file.as_bytes(), &pin, now).expect("a list"));
    (policy.hardening_needed, policy.configuration_needed, policy.missing_crl) = (true, true, true);
    let asked = report_data(format, &report).expect("data");
    let found = Roots::production().verify_report(kind, &report, &collateral, &policy, &asked, now).expect("accepted");
    Genuine { kind, report, collateral, policy, now, found }
}

fn dcap(json: &[u8]) -> Collateral {
    let json: Value = serde_json::from_slice(json).expect("JSON");
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    Collateral::Dcap(Box::new(DcapCollateral {
        pck_crl_issuer_chain: text("pck_crl_issuer_chain"),
        root_ca_crl: hex(&text("root_ca_crl")),
        pck_crl: hex(&text("pck_crl")),
        tcb_info_issuer_chain: text("tcb_info_issuer_chain"),
        tcb_info: text("tcb_info"),
        tcb_info_signature: hex(&text("tcb_info_signature")),
        qe_identity_issuer_chain: text("qe_identity_issuer_chain"),
        qe_identity: text("qe_identity"),
        qe_identity_signature: hex(&text("qe_identity_signature")),
        pck_certificate_chain: None,
    }))
}

fn hex(text: &str) -> Vec<u8> {
    (0..text.len() / 2).map(|at| u8::from_str_radix(&text[2 * at..2 * at + 2], 16).expect("hexadecimal")).collect()
}
