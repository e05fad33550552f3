//! SEV-SNP reports, well signed by a chip that is none (`../snp/make.py`): what of them is accepted.

use bento_attest::evidence::{Collateral, SnpCollateral};
use bento_attest::{Format, Hardware, Kind, Measurements, Policy, Refused, Roots, Simulated, Verified};

use crate::report::{read, report};
use crate::support::{ASKED, NOW};

const SNP: Kind = Kind::Simulated(Format::Snp);

fn collateral(vcek: &str, ask: &str, crl: &str) -> Collateral {
    let file = |name: &str| if name.is_empty() { Vec::new() } else { read(&format!("{name}.der")) };
    Collateral::Snp(SnpCollateral { ask: file(ask), vcek: file(vcek), crl: file(crl) })
}

fn good() -> Collateral {
    collateral("vcek", "ask", "crl")
}

type Change = Box<dyn FnOnce(&mut [u8])>;

fn list(policy: u64) -> String {
    format!(
        "version = 1\nexpires = 4000000000\n[snp_minimum.milan]\nbootloader = 3\ntee = 0\nsnp = 8\nmicrocode = 200\n[[measurement]]\nname = \"simulated\"\nkind = \"simulated-snp\"\nmeasurement = \"{}\"\npolicy = {policy}\n",
        "3e".repeat(48)
    )
}

fn strict() -> Policy {
    Policy::new(Measurements::for_simulator(&list(0x30000)).expect("a list"))
}

fn judge(report: &[u8], collateral: &Collateral, policy: &Policy) -> Result<Verified<Simulated>, Refused> {
    let root = read("ark.der");
    Roots::development(&[&root]).expect("a root").verify_report(SNP, report, collateral, policy, &ASKED, NOW)
}

#[test]
fn a_good_report_is_accepted_by_the_strict_policy() {
    let verified = judge(&report(|_| ()), &good(), &strict()).expect("accepted");
    assert_eq!((verified.kind(), verified.name()), (SNP, "simulated"));
    assert!(verified.facts().contains(&("revoked certificates", "none of these".into())));
    // A list that revokes something else is as good.
    assert!(judge(&report(|_| ()), &collateral("vcek", "ask", "crl_other"), &strict()).is_ok());
}

#[test]
fn reports_that_say_too_much_or_too_little_are_refused() {
    let chain = |text: &str| Refused::Chain(text.into());
    let by_chip = "the report is not signed by a chip's key";
    let cases: [(&str, Change, Refused); 12] = [
        ("debug", Box::new(|r| r[0x0a] |= 1 << 3), Refused::Debug),
        ("a migration agent allowed", Box::new(|r| r[0x0a] |= 1 << 2), Refused::Migratable),
        ("a migration agent", Box::new(|r| r[0x160] = 0), Refused::Migratable),
        ("privilege level 1", Box::new(|r| r[0x30] = 1), Refused::Vmpl(1)),
        ("privilege level of the host", Box::new(|r| r[0x30..0x34].fill(0xff)), Refused::Vmpl(u32::MAX)),
        ("another chip", Box::new(|r| r[0x1a0] ^= 1), Refused::Chip),
        ("a masked chip", Box::new(|r| r[0x1a0..0x1e0].fill(0)), Refused::Chip),
        ("other firmware than certified", Box::new(|r| r[0x186] = 9), Refused::Firmware),
        ("another algorithm", Box::new(|r| r[0x34] = 2), chain(by_chip)),
        ("a masked signature", Box::new(|r| r[0x48] |= 1 << 1), chain(by_chip)),
        ("a key of the cloud's (VLEK)", Box::new(|r| r[0x48] |= 1 << 2), chain(by_chip)),
        ("a measurement that is not known", Box::new(|r| r[0x90] ^= 1), Refused::Measurement(String::new())),
    ];
    for (what, change, wanted) in cases {
        let refused = judge(&report(change), &good(), &strict()).expect_err(what);
        match wanted {
            Refused::Measurement(_) => assert!(matches!(refused, Refused::Measurement(_)), "{what}: {refused}"),
            wanted => assert_eq!(refused, wanted, "{what}"),
        }
    }
}

#[test]
fn firmware_that_runs_can_be_gone_back_to_or_was_started_with_must_be_new_enough() {
    let body = list(0x30000);
    for at in [0x38, 0x1e0, 0x1f0] {
        // Microcode 199 where 200 is the least; the certificate is for 206, which is what is reported.
        let old = judge(&report(|r| r[at + 7] = 199), &good(), &strict());
        assert_eq!(old, Err(Refused::Old { what: "microcode", is: 199, least: 200 }), "{at:#x}");
        assert!(judge(&report(|r| r[at + 7] = 200), &good(), &strict()).is_ok(), "{at:#x}");
    }
    let more = Policy::new(Measurements::for_simulator(&body.replace("snp = 8", "snp = 9")).expect("a list"));
    assert_eq!(judge(&report(|_| ()), &good(), &more), Err(Refused::Old { what: "SNP firmware", is: 8, least: 9 }));
}

#[test]
fn a_guest_policy_is_part_of_the_measurement() {
    // One more bit, which lets the guest run on a machine without all of the first one's walls.
    let looser = report(|r| r[0x08] = 0x1f);
    assert!(matches!(judge(&looser, &good(), &strict()), Err(Refused::Measurement(_))));
    let pinned = Policy::new(Measurements::for_simulator(&list(0x3001f)).expect("a list"));
    assert!(judge(&looser, &good(), &pinned).is_ok());
}

#[test]
fn two_threads_a_core_are_refused_where_the_policy_says_so() {
    let strict = Policy { threads: false, ..strict() };
    assert_eq!(judge(&report(|_| ()), &good(), &strict), Err(Refused::Machine("runs two threads on a core")));
    assert!(judge(&report(|r| r[0x40] = 0), &good(), &strict).is_ok());
}

#[test]
fn certificates_that_are_not_what_they_should_be_are_refused() {
    let report = report(|_| ());
    let chain = |text: &str| Refused::Chain(text.into());
    let (no_root, no_amd) = ("AMD's signing key is not signed by a root that is known", "the chip's certificate is not signed by AMD");
    for (vcek, ask, wanted) in [
        ("vcek_expired", "ask", Refused::Expired("the chip's certificate")),
        ("vcek_other_chip", "ask", Refused::Chip),
        ("vcek_no_chip", "ask", Refused::Chip),
        ("vcek_older", "ask", Refused::Firmware),
        ("vcek_no_microcode", "ask", Refused::Firmware),
        ("vcek_other_algorithm", "ask", chain(no_amd)),
        ("vcek_of_the_root", "ask", chain(no_amd)),
        ("vcek_self_made", "ask", chain(no_amd)),
        ("vcek", "ask_expired", Refused::Expired("AMD's signing key")),
        ("vcek", "ask_no_authority", chain(no_amd)),
        ("vcek", "ask_of_another_root", chain(no_root)),
        ("ask", "vcek", chain(no_root)),
        ("vcek", "ark", chain(no_amd)),
    ] {
        assert_eq!(judge(&report, &collateral(vcek, ask, "crl"), &strict()), Err(wanted), "{vcek}, {ask}");
    }
}

#[test]
fn lists_of_revoked_certificates_count() {
    const LIST: &str = "the list of revoked certificates";
    let report = report(|_| ());
    let not_the_roots = || Refused::Chain("the list of revoked certificates is not the root's".into());
    for (crl, wanted) in [
        ("crl_ask", Refused::Revoked("AMD's signing key")),
        ("crl_vcek", Refused::Revoked("the chip's certificate")),
        ("crl_expired", Refused::Expired(LIST)),
        ("crl_future", Refused::Future(LIST)),
        ("crl_of_another", not_the_roots()),
        ("crl_of_the_signing_key", not_the_roots()),
        ("", Refused::NoCrl),
    ] {
        assert_eq!(judge(&report, &collateral("vcek", "ask", crl), &strict()), Err(wanted), "{crl}");
    }
    // Without a list only where that is opted into; one that came counts even then.
    let lax = Policy { missing_crl: true, ..strict() };
    assert!(judge(&report, &collateral("vcek", "ask", ""), &lax).is_ok());
    assert_eq!(judge(&report, &collateral("vcek", "ask", "crl_ask"), &lax), Err(Refused::Revoked("AMD's signing key")));
}

#[test]
fn a_report_of_this_chip_is_no_hardwares() {
    let report = report(|_| ());
    let production = Roots::<Hardware>::production();
    let dressed = production.verify_report(Kind::Hardware(Format::Snp), &report, &good(), &strict(), &ASKED, NOW);
    assert_eq!(dressed, Err(Refused::Chain("AMD's signing key is not signed by a root that is known".into())));
    assert!(matches!(production.verify_report(SNP, &report, &good(), &strict(), &ASKED, NOW), Err(Refused::Assurance { .. })));
}

#[test]
fn a_signature_in_another_shape_is_refused() {
    let good_report = report(|_| ());
    assert!(judge(&good_report, &good(), &strict()).is_ok());
    let wrong = Err(Refused::Chain("the report is not signed by the chip's key".into()));
    // Above 384 bits, r and s are zeros; and both are less than the curve's order and no zero.
    for at in [0x2a0 + 48, 0x2a0 + 71, 0x2a0 + 72 + 48] {
        let mut longer = good_report.clone();
        longer[at] = 1;
        assert_eq!(judge(&longer, &good(), &strict()), wrong, "{at:#x}");
    }
    for half in [0x2a0, 0x2a0 + 72] {
        for fill in [0, 0xff] {
            let mut other = good_report.clone();
            other[half..half + 48].fill(fill);
            assert_eq!(judge(&other, &good(), &strict()), wrong, "{half:#x} {fill}");
        }
    }
}
