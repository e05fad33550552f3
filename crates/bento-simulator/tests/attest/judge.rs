//! What hardware would have to say for a client to accept it, or not: well signed, under a root of the simulator's own.

use bento_attest::{DEVELOPMENT_ROOT_PREFIX, Format, Hardware, Kind, Measurements, Policy, Refused, Roots};
use bento_simulator::ROOT_NAME;

use crate::support::{ASKED, DAY, NOW, judge, judge_with, policy, roots, simulator};

const FORMATS: [Format; 2] = [Format::Sgx, Format::Tdx];

#[test]
fn a_good_machine_is_accepted_and_shown_as_a_simulator() {
    for format in FORMATS {
        let simulator = simulator(format, |_| ());
        let verified = judge(format, &simulator, &policy(&simulator), NOW).expect("accepted");
        assert_eq!((verified.kind(), verified.state()), (Kind::Simulated(format), "UpToDate"));
        assert!(verified.kind().name().starts_with("simulated"));
    }
}

#[test]
fn debug_is_refused_in_every_format() {
    for format in FORMATS {
        let simulator = simulator(format, |pretence| pretence.debug = true);
        assert_eq!(judge(format, &simulator, &policy(&simulator), NOW), Err(Refused::Debug));
    }
}

#[test]
fn a_machine_that_may_be_moved_is_refused() {
    let simulator = simulator(Format::Tdx, |pretence| pretence.migratable = true);
    let refused = judge(Format::Tdx, &simulator, &policy(&simulator), NOW).expect_err("refused");
    assert!(matches!(&refused, Refused::Chain(why) if why.contains("migration")), "{refused}");
}

#[test]
fn each_state_is_accepted_only_where_it_is_opted_into_and_some_never() {
    for (state, hardening, configuration) in [
        ("UpToDate", false, false),
        ("SWHardeningNeeded", true, false),
        ("ConfigurationNeeded", false, true),
        ("ConfigurationAndSWHardeningNeeded", true, true),
    ] {
        let simulator = simulator(Format::Sgx, |pretence| pretence.state = state);
        for (hardening_needed, configuration_needed) in [(false, false), (true, false), (false, true), (true, true)] {
            let policy = Policy { hardening_needed, configuration_needed, ..policy(&simulator) };
            let enough = hardening_needed >= hardening && configuration_needed >= configuration;
            let judged = judge(Format::Sgx, &simulator, &policy, NOW);
            assert_eq!(judged.is_ok(), enough, "{state}, {hardening_needed}, {configuration_needed}: {judged:?}");
        }
    }
    for never in ["OutOfDate", "OutOfDateConfigurationNeeded", "Revoked", "TDRelaunchAdvised", "SomethingNew"] {
        for format in FORMATS {
            let simulator = simulator(format, |pretence| pretence.state = never);
            let all = Policy { hardening_needed: true, configuration_needed: true, missing_crl: true, ..policy(&simulator) };
            assert!(judge(format, &simulator, &all, NOW).is_err(), "{never}");
        }
    }
}

#[test]
fn revoked_certificates_are_refused() {
    for (what, revoked, signer_revoked) in [("the machine's", true, false), ("the signer's", false, true)] {
        let simulator = simulator(Format::Tdx, |pretence| (pretence.revoked, pretence.signer_revoked) = (revoked, signer_revoked));
        let refused = judge(Format::Tdx, &simulator, &policy(&simulator), NOW).expect_err(what);
        assert!(matches!(&refused, Refused::Chain(why) if why.contains("evoked")), "{what}: {refused}");
    }
}

#[test]
fn stale_collateral_and_collateral_of_tomorrow_are_refused() {
    for (issued, good) in [(NOW, true), (NOW - 7 * DAY, true), (NOW - 7 * DAY - 1, false), (NOW - 31 * DAY, false), (NOW + 1, false)] {
        let simulator = simulator(Format::Tdx, |pretence| pretence.issued = issued);
        let judged = judge(Format::Tdx, &simulator, &policy(&simulator), NOW);
        assert_eq!(judged.is_ok(), good, "{issued}: {judged:?}");
    }
}

#[test]
fn a_list_of_revoked_certificates_from_last_week_is_refused_beside_fresh_levels() {
    for (age, good) in [(0, true), (7 * DAY, true), (7 * DAY + 1, false)] {
        let simulator = simulator(Format::Tdx, |pretence| pretence.lists_issued = NOW - age);
        let judged = judge(Format::Tdx, &simulator, &policy(&simulator), NOW);
        assert_eq!(judged.is_ok(), good, "{judged:?}");
        assert!(good || judged == Err(Refused::Stale { what: "the list of revoked certificates", days: 7, max: 7 }));
    }
}

#[test]
fn another_simulators_collateral_does_not_fit() {
    let (ours, theirs) = (simulator(Format::Tdx, |_| ()), simulator(Format::Tdx, |_| ()));
    assert!(judge_with(Format::Tdx, &ours, &ours.collateral(), &policy(&ours), NOW).is_ok());
    assert!(judge_with(Format::Tdx, &ours, &theirs.collateral(), &policy(&ours), NOW).is_err());
}

#[test]
fn an_older_list_of_levels_than_the_list_of_measurements_demands_is_refused() {
    let simulator = simulator(Format::Tdx, |pretence| pretence.evaluation = 19);
    let with = |least| {
        Policy::new(Measurements::for_simulator(&format!("tcb_evaluation = {least}\n{}", simulator.measurements())).expect("a list"))
    };
    assert!(judge(Format::Tdx, &simulator, &with(19), NOW).is_ok());
    assert_eq!(judge(Format::Tdx, &simulator, &with(20), NOW), Err(Refused::Old { what: "list of levels", is: 19, least: 20 }));
}

#[test]
fn an_expired_list_of_measurements_accepts_nothing() {
    let simulator = simulator(Format::Tdx, |_| ());
    let body = simulator.measurements().replace(&format!("expires = {}", NOW + 365 * DAY), &format!("expires = {NOW}"));
    let policy = Policy::new(Measurements::for_simulator(&body).expect("a list"));
    assert!(judge(Format::Tdx, &simulator, &policy, NOW).is_ok());
    assert_eq!(judge(Format::Tdx, &simulator, &policy, NOW + 1), Err(Refused::Expired("the list of measurements")));
}

#[test]
fn simulated_evidence_is_no_hardwares_under_any_name() {
    for format in FORMATS {
        let simulator = simulator(format, |_| ());
        let quote = simulator.sign(&ASKED).expect("a quote");
        let (collateral, policy) = (simulator.collateral(), policy(&simulator));
        let production = Roots::<Hardware>::production();
        // As what it is, and dressed as hardware: the kind, and then the root, refuse it.
        let honest = production.verify_report(Kind::Simulated(format), &quote, &collateral, &policy, &ASKED, NOW);
        assert_eq!(honest, Err(Refused::Assurance { offered: Kind::Simulated(format), wanted: "hardware" }));
        let dressed = production.verify_report(Kind::Hardware(format), &quote, &collateral, &policy, &ASKED, NOW);
        assert!(matches!(dressed, Err(Refused::Chain(_))), "{dressed:?}");
        // And hardware's kind is none of a simulator's, though the signatures are right.
        let reverse = roots(&simulator).verify_report(Kind::Hardware(format), &quote, &collateral, &policy, &ASKED, NOW);
        assert_eq!(reverse, Err(Refused::Assurance { offered: Kind::Hardware(format), wanted: "a simulator" }));
    }
}

#[test]
fn a_development_root_is_one_by_its_name_alone_and_another_simulators_is_none_of_ours() {
    assert!(ROOT_NAME.starts_with(DEVELOPMENT_ROOT_PREFIX));
    let (ours, theirs) = (simulator(Format::Tdx, |_| ()), simulator(Format::Tdx, |_| ()));
    let quote = ours.sign(&ASKED).expect("a quote");
    let judged = |of| roots(of).verify_report(Kind::Simulated(Format::Tdx), &quote, &ours.collateral(), &policy(&ours), &ASKED, NOW);
    assert!(judged(&ours).is_ok());
    assert!(judged(&theirs).is_err());
    assert!(Roots::development(&[b"no certificate"]).is_err());
    let none = Roots::development(&[]).expect("nothing");
    let refused = none.verify_report(Kind::Simulated(Format::Tdx), &quote, &ours.collateral(), &policy(&ours), &ASKED, NOW);
    assert_eq!(refused, Err(Refused::NoRoot(Kind::Simulated(Format::Tdx))));
}
