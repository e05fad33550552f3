//! A simulated machine with what a client needs to judge it.

use bento_attest::evidence::Collateral;
use bento_attest::{Format, Kind, Measurements, Policy, Refused, Roots, Simulated, Verified};
use bento_simulator::{Pretence, Simulator};

/// 2026-11-28.
pub(crate) const NOW: u64 = 1_795_824_000;
pub(crate) const DAY: u64 = 86_400;

pub(crate) fn simulator(format: Format, change: impl FnOnce(&mut Pretence)) -> Simulator {
    let mut pretence = Pretence::good(NOW);
    change(&mut pretence);
    Simulator::new(format, pretence).expect("a simulator")
}

pub(crate) fn policy(simulator: &Simulator) -> Policy {
    Policy::new(Measurements::for_simulator(&simulator.measurements()).expect("a list"))
}

pub(crate) fn roots(simulator: &Simulator) -> Roots<Simulated> {
    Roots::development(&[simulator.root()]).expect("a development root")
}

pub(crate) const ASKED: [u8; 64] = [0x42; 64];

/// Judges a fresh quote with that policy, at that time.
pub(crate) fn judge(format: Format, simulator: &Simulator, policy: &Policy, now: u64) -> Result<Verified<Simulated>, Refused> {
    judge_with(format, simulator, &simulator.collateral(), policy, now)
}

pub(crate) fn judge_with(
    format: Format,
    simulator: &Simulator,
    collateral: &Collateral,
    policy: &Policy,
    now: u64,
) -> Result<Verified<Simulated>, Refused> {
    let quote = simulator.sign(&ASKED).expect("a quote");
    roots(simulator).verify_report(Kind::Simulated(format), &quote, collateral, policy, &ASKED, now)
}
