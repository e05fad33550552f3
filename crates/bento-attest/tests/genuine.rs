//! Genuine evidence, published by others (`vectors/README.md`): what is accepted, and that nothing near it is.

use std::fs;

use bento_attest::evidence::{Collateral, DcapCollateral, REPORT_BYTES_MAX, SnpCollateral, sha256};
use bento_attest::{Format, Hardware, Kind, Measurements, Policy, Refused, Roots, Verified, report_data};
use data_encoding::{HEXLOWER, HEXLOWER_PERMISSIVE};
use serde_json::Value;

const DAY: u64 = 86_400;
/// 2025-06-21. Its collateral is of 2025-06-19.
const SGX_NOW: u64 = 1_750_500_000;
const TDX_NOW: u64 = 1_750_500_000;
/// 2026-02-20. Its collateral is of 2026-02-18.
const OUTDATED_NOW: u64 = 1_771_545_600;
/// 2026-10-10. Its collateral is of 2026-10-08.
const TD15_NOW: u64 = 1_791_590_400;
/// 2024-01-01.
const SNP_NOW: u64 = 1_704_067_200;

const SGX: Kind = Kind::Hardware(Format::Sgx);
const TDX: Kind = Kind::Hardware(Format::Tdx);
const SNP: Kind = Kind::Hardware(Format::Snp);

fn read(name: &str) -> Vec<u8> {
    fs::read(format!("{}/tests/vectors/{name}", env!("CARGO_MANIFEST_DIR"))).expect("a vector")
}

/// What came with a quote.
fn dcap(name: &str) -> Collateral {
    let json: Value = serde_json::from_slice(&read(&format!("dcap-qvl/{name}_collateral.json"))).expect("JSON");
    let text = |key: &str| json[key].as_str().unwrap_or_default().to_owned();
    let bytes = |key: &str| HEXLOWER_PERMISSIVE.decode(text(key).as_bytes()).expect("hexadecimal");
    Collateral::Dcap(Box::new(DcapCollateral {
        pck_crl_issuer_chain: text("pck_crl_issuer_chain"),
        root_ca_crl: bytes("root_ca_crl"),
        pck_crl: bytes("pck_crl"),
        tcb_info_issuer_chain: text("tcb_info_issuer_chain"),
        tcb_info: text("tcb_info"),
        tcb_info_signature: bytes("tcb_info_signature"),
        qe_identity_issuer_chain: text("qe_identity_issuer_chain"),
        qe_identity: text("qe_identity"),
        qe_identity_signature: bytes("qe_identity_signature"),
        pck_certificate_chain: json["pck_certificate_chain"].as_str().map(str::to_owned),
    }))
}

fn snp(vcek: &str, ask: &str) -> Collateral {
    Collateral::Snp(SnpCollateral { ask: read(ask), vcek: read(vcek), crl: Vec::new() })
}

fn milan() -> (Vec<u8>, Collateral) {
    let text = read("sev/report_milan.hex");
    (HEXLOWER_PERMISSIVE.decode(text.trim_ascii()).expect("hexadecimal"), snp("sev/vcek_milan.der", "sev/ask_milan.der"))
}

fn hex(bytes: &[u8]) -> String {
    HEXLOWER.encode(bytes)
}

/// A list that names what this report measured, made from the places in its format.
fn list(kind: Kind, report: &[u8]) -> String {
    let line = match kind.format() {
        Format::Sgx => format!("mrenclave = \"{}\"", hex(&report[112..144])),
        Format::Tdx => {
            // The body's fields: 16 + 48 + 48 + 8 + 8 + 8, then MRTD; three more of 48; then four RTMRs.
            let body = if report[0] == 5 { 54 } else { 48 };
            let at = |offset: usize| hex(&report[body + offset..body + offset + 48]);
            format!("mrtd = \"{}\"\nrtmr = [\"{}\", \"{}\", \"{}\", \"{}\"]", at(136), at(328), at(376), at(424), at(472))
        }
        Format::Snp => format!(
            "measurement = \"{}\"\npolicy = {}",
            hex(&report[0x90..0xc0]),
            u64::from_le_bytes(*report[8..].first_chunk().expect("a policy"))
        ),
    };
    format!(
        "version = 1\nexpires = 4000000000\n[snp_minimum.milan]\nbootloader = 3\ntee = 0\nsnp = 8\nmicrocode = 115\n[[measurement]]\nname = \"published\"\nkind = \"{kind}\"\n{line}\n"
    )
}

/// A policy with that list, signed as a publisher would.
fn policy_of(body: &str) -> Policy {
    let seed = [1; 32];
    let file = Measurements::sign(body, &seed).expect("signed");
    let pin = bento_attest::measurements::Pin { key: Measurements::public_key(&seed).expect("a key"), version: 1, digest: None };
    Policy::new(Measurements::open(file.as_bytes(), &pin, SGX_NOW).expect("a list"))
}

fn policy(kind: Kind, report: &[u8]) -> Policy {
    policy_of(&list(kind, report))
}

fn judge(kind: Kind, report: &[u8], collateral: &Collateral, policy: &Policy, now: u64) -> Result<Verified<Hardware>, Refused> {
    // As it is there: whether it is what was asked for is a test of its own.
    let asked = report_data(kind.format(), report).ok_or(bento_attest::Malformed::Unknown("the format"))?;
    Roots::production().verify_report(kind, report, collateral, policy, &asked, now)
}

fn sgx_policy(report: &[u8]) -> Policy {
    Policy { hardening_needed: true, configuration_needed: true, ..policy(SGX, report) }
}

#[test]
fn a_genuine_sgx_quote_is_accepted_where_its_state_is_opted_into() {
    let (quote, collateral) = (read("dcap-qvl/sgx_quote"), dcap("sgx_quote"));
    let verified = judge(SGX, &quote, &collateral, &sgx_policy(&quote), SGX_NOW).expect("accepted");
    assert_eq!((verified.kind(), verified.name(), verified.state()), (SGX, "published", "ConfigurationAndSWHardeningNeeded"));
    assert!(verified.advisories().iter().any(|id| id.starts_with("INTEL-SA-")));
    assert!(verified.until() > SGX_NOW && verified.until() < SGX_NOW + 30 * DAY);

    // Each half of the opt-in is not enough, and neither is none.
    for (hardening_needed, configuration_needed) in [(false, false), (true, false), (false, true)] {
        let policy = Policy { hardening_needed, configuration_needed, ..policy(SGX, &quote) };
        let refused = judge(SGX, &quote, &collateral, &policy, SGX_NOW);
        assert!(matches!(refused, Err(Refused::Tcb { status, .. }) if status == "ConfigurationAndSWHardeningNeeded"));
    }
}

#[test]
fn genuine_tdx_quotes_that_are_up_to_date_are_accepted_by_the_strict_policy() {
    for (name, now) in [("tdx_quote", TDX_NOW), ("tdx_quote_td15ex", TD15_NOW)] {
        let (quote, collateral) = (read(&format!("dcap-qvl/{name}")), dcap(name));
        let verified = judge(TDX, &quote, &collateral, &policy(TDX, &quote), now).unwrap_or_else(|refused| panic!("{name}: {refused}"));
        assert_eq!(verified.state(), "UpToDate");
        // The flags that decide nothing, on purpose: a genuine machine that is up to date has them.
        assert!(verified.facts().iter().any(|(what, is)| *what == "several processors" && is == "yes"), "{:?}", verified.facts());
    }
}

#[test]
fn two_threads_a_core_are_refused_where_the_policy_says_so() {
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), dcap("tdx_quote"));
    let verified = judge(TDX, &quote, &collateral, &policy(TDX, &quote), TDX_NOW).expect("accepted");
    let threads = verified.facts().iter().any(|fact| *fact == ("two threads a core", "yes".into()));
    let strict = judge(TDX, &quote, &collateral, &Policy { threads: false, ..policy(TDX, &quote) }, TDX_NOW);
    assert!(threads && strict == Err(Refused::Machine("runs two threads on a core")));
}

#[test]
fn a_genuine_quote_of_a_machine_out_of_date_is_refused_whatever_is_opted_into() {
    let (quote, collateral) = (read("dcap-qvl/tdx_quote_outdated"), dcap("tdx_quote_outdated"));
    let all = Policy { hardening_needed: true, configuration_needed: true, collateral_days: 30, ..policy(TDX, &quote) };
    let refused = judge(TDX, &quote, &collateral, &all, OUTDATED_NOW).expect_err("refused");
    assert!(matches!(&refused, Refused::Chain(why) if why.contains("No matching TCB level")), "{refused}");
}

#[test]
fn a_genuine_snp_report_is_accepted_and_lists_of_revoked_certificates_are_asked_for() {
    let (report, collateral) = milan();
    let without = Policy { missing_crl: true, ..policy(SNP, &report) };
    let verified = judge(SNP, &report, &collateral, &without, SNP_NOW).expect("accepted");
    assert_eq!((verified.kind(), verified.name()), (SNP, "published"));
    assert!(verified.facts().contains(&("revoked certificates", "no list".into())));
    assert_eq!(judge(SNP, &report, &collateral, &policy(SNP, &report), SNP_NOW), Err(Refused::NoCrl));
}

#[test]
fn another_genuine_chips_certificate_does_not_fit() {
    // Both are genuine, and not of one machine.
    let report = read("az-snp-vtpm/report.bin");
    let policy = Policy { missing_crl: true, ..policy(SNP, &report) };
    let refused = judge(SNP, &report, &snp("az-snp-vtpm/vcek.der", "sev/ask_milan.der"), &policy, SNP_NOW);
    assert_eq!(refused, Err(Refused::Chain("the report is not signed by the chip's key".into())));
}

#[test]
fn another_products_chain_does_not_fit() {
    let (report, _) = milan();
    let policy = Policy { missing_crl: true, ..policy(SNP, &report) };
    // A whole chain of Turin, which is genuine, and does not sign this report.
    let turin = judge(SNP, &report, &snp("sev/vcek_turin.der", "sev/ask_turin.der"), &policy, 1_735_689_600);
    assert_eq!(turin, Err(Refused::Chain("the report is not signed by the chip's key".into())));
    // Genoa's signing key did not sign Milan's chip.
    let genoa = judge(SNP, &report, &snp("sev/vcek_milan.der", "sev/ask_genoa.der"), &policy, SNP_NOW);
    assert_eq!(genoa, Err(Refused::Chain("the chip's certificate is not signed by AMD".into())));
    // A chip's key signs no certificates.
    let self_made = judge(SNP, &report, &snp("sev/vcek_milan.der", "sev/vcek_milan.der"), &policy, SNP_NOW);
    assert!(matches!(self_made, Err(Refused::Chain(_))));
}

#[test]
fn firmware_older_than_the_list_demands_is_refused() {
    let (report, collateral) = milan();
    let body = list(SNP, &report);
    let with = |body: &str| Policy { missing_crl: true, ..policy_of(body) };
    assert!(judge(SNP, &report, &collateral, &with(&body), SNP_NOW).is_ok());
    let newer = judge(SNP, &report, &collateral, &with(&body.replace("microcode = 115", "microcode = 116")), SNP_NOW);
    assert_eq!(newer, Err(Refused::Old { what: "microcode", is: 115, least: 116 }));
    let unsaid = judge(SNP, &report, &collateral, &with(&body.replace("milan", "genoa")), SNP_NOW);
    assert_eq!(unsaid, Err(Refused::NoMinimum("Milan")));
}

#[test]
fn a_level_list_older_than_the_list_demands_is_refused() {
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), dcap("tdx_quote"));
    let body = list(TDX, &quote);
    let verified = judge(TDX, &quote, &collateral, &policy_of(&format!("tcb_evaluation = 10\n{body}")), TDX_NOW);
    assert!(verified.is_ok());
    let refused = judge(TDX, &quote, &collateral, &policy_of(&format!("tcb_evaluation = 1000\n{body}")), TDX_NOW);
    assert!(matches!(refused, Err(Refused::Old { what: "list of levels", least: 1000, .. })));
}

#[test]
fn what_is_not_in_the_list_is_refused_and_a_signer_is_no_measurement() {
    let (quote, collateral) = (read("dcap-qvl/sgx_quote"), dcap("sgx_quote"));
    let known = list(SGX, &quote);
    // The same enclave, but for one bit.
    let mut other = quote[112..144].to_vec();
    other[31] ^= 1;
    // MRSIGNER in its place.
    for wrong in [&other[..], &quote[176..208]] {
        let policy =
            Policy { hardening_needed: true, configuration_needed: true, ..policy_of(&known.replace(&hex(&quote[112..144]), &hex(wrong))) };
        assert!(matches!(judge(SGX, &quote, &collateral, &policy, SGX_NOW), Err(Refused::Measurement(_))));
    }
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), dcap("tdx_quote"));
    let known = list(TDX, &quote);
    assert!(judge(TDX, &quote, &collateral, &policy_of(&known), TDX_NOW).is_ok());
    // Each register counts, the last as well.
    for register in [136, 328, 376, 424, 472].map(|offset| hex(&quote[48 + offset..48 + offset + 48])) {
        let at = known.rfind(&register).expect("in the list");
        let mut changed = known.clone().into_bytes();
        changed[at] = if changed[at] == b'f' { b'0' } else { b'f' };
        let policy = policy_of(&String::from_utf8(changed).expect("text"));
        assert!(matches!(judge(TDX, &quote, &collateral, &policy, TDX_NOW), Err(Refused::Measurement(_))));
    }
    let (report, collateral) = milan();
    let policy = Policy { missing_crl: true, ..policy_of(&list(SNP, &report).replace("policy = 196608", "policy = 196609")) };
    assert!(matches!(judge(SNP, &report, &collateral, &policy, SNP_NOW), Err(Refused::Measurement(_))));
}

#[test]
fn evidence_over_other_data_than_was_asked_for_is_refused() {
    for (kind, report, collateral, policy, now) in cases() {
        let mut asked = report_data(kind.format(), &report).expect("data");
        let roots = Roots::<Hardware>::production();
        assert!(roots.verify_report(kind, &report, &collateral, &policy, &asked, now).is_ok());
        asked[63] ^= 1;
        assert_eq!(roots.verify_report(kind, &report, &collateral, &policy, &asked, now), Err(Refused::ReportData));
    }
}

#[test]
fn collateral_is_accepted_for_seven_days_and_never_from_the_future() {
    for (name, kind, now, issued) in [("sgx_quote", SGX, SGX_NOW, 1_750_327_278), ("tdx_quote", TDX, TDX_NOW, 1_750_327_235)] {
        let (quote, collateral) = (read(&format!("dcap-qvl/{name}")), dcap(name));
        let policy = Policy { hardening_needed: true, configuration_needed: true, ..policy(kind, &quote) };
        let at = |policy: &Policy, now| judge(kind, &quote, &collateral, policy, now);
        assert!(at(&policy, now).is_ok(), "{name}");
        assert!(at(&policy, issued + 7 * DAY).is_ok(), "{name}: the last second");
        assert!(matches!(at(&policy, issued + 7 * DAY + 1), Err(Refused::Stale { days: 7, max: 7, .. })), "{name}");
        // Intel's own limit is longer, for who wants that, and holds then.
        let month = Policy { collateral_days: 30, ..policy };
        assert!(at(&month, issued + 28 * DAY).is_ok(), "{name}");
        assert!(at(&month, issued + 31 * DAY).is_err(), "{name}");
        assert!(at(&month, issued - 2 * 3600).is_err(), "{name}: a clock that is behind");
        assert!(at(&month, 0).is_err(), "{name}");
        assert!(at(&month, u64::MAX).is_err(), "{name}");
    }
}

#[test]
fn a_chips_certificate_is_accepted_in_its_time_only() {
    let (report, collateral) = milan();
    let policy = Policy { missing_crl: true, ..policy(SNP, &report) };
    let at = |now| judge(SNP, &report, &collateral, &policy, now);
    // 2023-04-03 19:23:43 to 2030-04-03 19:23:43.
    let (from, until) = (1_680_549_823, 1_901_474_623);
    assert!(at(from).is_ok() && at(until).is_ok());
    assert_eq!(at(from - 1), Err(Refused::Future("the chip's certificate")));
    assert_eq!(at(until + 1), Err(Refused::Expired("the chip's certificate")));
}

#[test]
fn collateral_of_another_maker_or_of_another_machine_is_refused() {
    let (quote, sgx) = (read("dcap-qvl/sgx_quote"), dcap("sgx_quote"));
    let (report, amd) = milan();
    assert_eq!(judge(SGX, &quote, &amd, &sgx_policy(&quote), SGX_NOW), Err(Refused::Collateral(SGX)));
    assert_eq!(judge(SNP, &report, &sgx, &policy(SNP, &report), SNP_NOW), Err(Refused::Collateral(SNP)));
    // TDX levels for an SGX quote, of the same days.
    assert!(matches!(judge(SGX, &quote, &dcap("tdx_quote"), &sgx_policy(&quote), SGX_NOW), Err(Refused::Chain(_))));
}

#[test]
fn a_kind_that_is_not_the_reports_is_refused() {
    let (quote, collateral) = (read("dcap-qvl/sgx_quote"), dcap("sgx_quote"));
    let data = report_data(Format::Sgx, &quote).expect("data");
    let policy = sgx_policy(&quote);
    let roots = Roots::<Hardware>::production();
    for kind in Kind::ALL {
        let judged = roots.verify_report(kind, &quote, &collateral, &policy, &data, SGX_NOW);
        assert_eq!(judged.is_ok(), kind == SGX, "{kind}: {judged:?}");
    }
}

/// What is accepted, each with its policy and time.
fn cases() -> Vec<(Kind, Vec<u8>, Collateral, Policy, u64)> {
    let sgx = read("dcap-qvl/sgx_quote");
    let (report, amd) = milan();
    let mut cases = vec![
        (SGX, sgx.clone(), dcap("sgx_quote"), sgx_policy(&sgx), SGX_NOW),
        (SNP, report.clone(), amd, Policy { missing_crl: true, ..policy(SNP, &report) }, SNP_NOW),
    ];
    for (name, now) in [("tdx_quote", TDX_NOW), ("tdx_quote_td15ex", TD15_NOW)] {
        let quote = read(&format!("dcap-qvl/{name}"));
        let policy = policy(TDX, &quote);
        cases.push((TDX, quote, dcap(name), policy, now));
    }
    cases
}

/// The parts of a report that a signature is over, and the signatures: of a quote, its header and body; then behind a length their
/// signature, the key that made it, the quoting enclave's report over that key, its signature, and what was hashed with the key.
fn signed(kind: Kind, report: &[u8]) -> Vec<usize> {
    if kind == SNP {
        // The report, and r and s.
        return (0..0x2a0 + 144).collect();
    }
    let body = match report[0] {
        3 => 48 + 384,
        4 => 48 + 584,
        _ => 54 + u32::from_le_bytes(*report[50..].first_chunk().expect("a length")) as usize,
    };
    let auth = body + 4;
    // From version 4 on, the enclave's report stands in certification data: a type and a length.
    let enclave = auth + 128 + if report[0] == 3 { 0 } else { 6 };
    let hashed = enclave + 384 + 64 + 2;
    (0..body).chain(auth..auth + 128).chain(enclave..enclave + 448).chain(hashed..hashed + 32).collect()
}

fn flips(bits: impl Fn(usize) -> Vec<u32> + Sync) -> usize {
    let threads = std::thread::available_parallelism().map_or(1, std::num::NonZero::get);
    let tried = |(kind, report, collateral, policy, now): &(Kind, Vec<u8>, Collateral, Policy, u64), places: &[usize]| {
        let (mut changed, mut tried) = (report.clone(), 0);
        for at in places {
            for bit in bits(*at) {
                changed[*at] ^= 1 << bit;
                assert!(judge(*kind, &changed, collateral, policy, *now).is_err(), "{kind}: byte {at:#x}, bit {bit}");
                changed[*at] = report[*at];
                tried += 1;
            }
        }
        tried
    };
    let mut all = 0;
    for case in cases() {
        let (kind, report, collateral, policy, now) = &case;
        assert!(judge(*kind, report, collateral, policy, *now).is_ok());
        let places = signed(*kind, report);
        all += std::thread::scope(|scope| {
            let parts: Vec<_> = places.chunks(places.len().div_ceil(threads)).map(|part| scope.spawn(|| tried(&case, part))).collect();
            parts.into_iter().map(|part| part.join().expect("every change is refused")).sum::<usize>()
        });
    }
    all
}

#[test]
fn one_changed_bit_of_every_signed_byte_is_refused() {
    assert!(flips(|at| vec![(at % 8) as u32]) > 4_000);
}

/// `cargo test -p bento-attest --features verify --test genuine -- --ignored`: some minutes.
#[test]
#[ignore = "every bit of all signed bytes, some minutes: run with --ignored"]
fn every_bit_of_all_signed_bytes_is_refused() {
    let tried = flips(|_| (0..8).collect());
    assert!(tried > 32_000, "{tried}");
}

#[test]
fn the_bits_that_a_report_rewritten_from_its_fields_would_lose_are_refused() {
    // Reserved bytes of the report, which a parser drops: between key info and report data, behind the model, behind versions, and at
    // the end. A verifier that hashes what it understood accepts all of these.
    let (report, collateral) = milan();
    let policy = Policy { missing_crl: true, ..policy(SNP, &report) };
    for at in [0x4c, 0x4f, 0x18b, 0x19f, 0x1eb, 0x1ef, 0x1f8, 0x29f] {
        for bit in 0..8 {
            let mut changed = report.clone();
            changed[at] ^= 1 << bit;
            let refused = judge(SNP, &changed, &collateral, &policy, SNP_NOW);
            assert_eq!(refused, Err(Refused::Chain("the report is not signed by the chip's key".into())), "byte {at:#x}");
        }
    }
}

#[test]
fn bytes_outside_the_signed_region_change_nothing_that_is_found() {
    // They can be changed by anybody, and are accepted: so they must not be found again in what was verified.
    let (quote, collateral) = (read("dcap-qvl/tdx_quote"), dcap("tdx_quote"));
    let policy = policy(TDX, &quote);
    let found = judge(TDX, &quote, &collateral, &policy, TDX_NOW).expect("accepted");
    let mut longer = quote.clone();
    longer.extend_from_slice(b"anything");
    let mut root = quote.clone();
    // The root's certificate, which comes with the quote, is the last of the chain; the one that counts is known here.
    let last = root.windows(11).rposition(|text| text == b"-----BEGIN ").expect("a certificate");
    root[last + 100] = if root[last + 100] == b'A' { b'B' } else { b'A' };
    for changed in [longer, root] {
        assert_ne!(sha256(&changed), sha256(&quote));
        assert_eq!(judge(TDX, &changed, &collateral, &policy, TDX_NOW), Ok(found.clone()));
    }
    // A report of AMD has an exact length, and zeros behind its signature are not read.
    let (report, collateral) = milan();
    let policy = Policy { missing_crl: true, ..self::policy(SNP, &report) };
    let found = judge(SNP, &report, &collateral, &policy, SNP_NOW).expect("accepted");
    let mut tail = report.clone();
    tail[0x49f] ^= 1;
    assert_eq!(judge(SNP, &tail, &collateral, &policy, SNP_NOW), Ok(found));
    tail.push(0);
    assert!(judge(SNP, &tail, &collateral, &policy, SNP_NOW).is_err());
}

#[test]
fn reports_of_any_length_are_judged_or_refused_and_never_more_than_that() {
    for (kind, report, collateral, policy, now) in cases() {
        let asked = report_data(kind.format(), &report).expect("data");
        let roots = Roots::<Hardware>::production();
        let whole = if report[0] == 4 { 4936 } else { report.len() };
        for cut in 0..report.len() {
            let judged = roots.verify_report(kind, &report[..cut], &collateral, &policy, &asked, now);
            assert_eq!(judged.is_ok(), cut >= whole, "{kind} cut to {cut}");
        }
        let long = [&report[..], &vec![0; REPORT_BYTES_MAX]].concat();
        let refused = roots.verify_report(kind, &long, &collateral, &policy, &asked, now);
        assert!(matches!(refused, Err(Refused::Malformed(_))), "{kind}: {refused:?}");
    }
}

#[test]
fn changed_collateral_is_refused() {
    type Change<'a> = &'a dyn Fn(&mut DcapCollateral);
    let Collateral::Dcap(good) = dcap("tdx_quote") else { panic!("Intel's") };
    let quote = read("dcap-qvl/tdx_quote");
    let policy = policy(TDX, &quote);
    let try_with = |change: Change<'_>| {
        let mut changed = good.clone();
        change(&mut changed);
        judge(TDX, &quote, &Collateral::Dcap(changed), &policy, TDX_NOW)
    };
    assert!(try_with(&|_| ()).is_ok());
    let changes: [(&str, Change<'_>); 11] = [
        ("a level", &|c| c.tcb_info = c.tcb_info.replacen("OutOfDate", "UpToDate ", 1).replace("UpToDate ", "UpToDate")),
        ("a date", &|c| c.tcb_info = c.tcb_info.replace("2025-07-19", "2025-08-19")),
        ("the levels' signature", &|c| c.tcb_info_signature[40] ^= 1),
        ("no signature", &|c| c.tcb_info_signature.clear()),
        ("the identity", &|c| c.qe_identity = c.qe_identity.replace("\"isvprodid\":2", "\"isvprodid\":1")),
        ("the identity's signature", &|c| c.qe_identity_signature[0] ^= 1),
        ("no list of the root", &|c| c.root_ca_crl.clear()),
        ("the root's list", &|c| *c.root_ca_crl.last_mut().expect("bytes") ^= 1),
        ("no list of PCK certificates", &|c| c.pck_crl.clear()),
        ("the list of PCK certificates", &|c| *c.pck_crl.last_mut().expect("bytes") ^= 1),
        ("no chain", &|c| c.tcb_info_issuer_chain.clear()),
    ];
    for (what, change) in changes {
        assert!(try_with(change).is_err(), "{what}");
    }
}

#[test]
fn the_roots_are_those_that_their_makers_publish() {
    // Pinned, so that none is exchanged unseen; `vectors/README.md` says where they are from.
    for (file, digest) in [
        ("intel-sgx-root-ca", "44a0196b2b99f889b8e149e95b807a350e7424964399e885a7cbb8ccfab674d3"),
        ("ark-milan", "69d063b45344d26a2e94e1f4210de49ef555308287d4c174445c95639a540bcd"),
        ("ark-genoa", "4c6598d19c18719c5dfd4a7d335f674e5bfe1d8f800cea2cf270c10d103db2f1"),
        ("ark-turin", "1f084161a44bb6d93778a904877d4819cafa5d05ef4193b2ded9dd9c73dd3f6a"),
    ] {
        let root = fs::read(format!("{}/roots/{file}.der", env!("CARGO_MANIFEST_DIR"))).expect("a root");
        assert_eq!(hex(&sha256(&root)), digest, "{file}");
        // None of them is a development root.
        assert!(Roots::development(&[&root]).is_err(), "{file}");
    }
}
