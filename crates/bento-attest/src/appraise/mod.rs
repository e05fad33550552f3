//! Judges evidence. [`Verified`] has no other maker.

mod dcap;
mod snp;
mod x509;

use std::marker::PhantomData;

use self::x509::Certificate;
use crate::evidence::{Collateral, Evidence, REPORT_BYTES_MAX};
use crate::kind::{Assurance, Format, Hardware, Kind, Simulated};
use crate::measurements::{Measured, Measurements, Product};
use crate::policy::Policy;
use crate::refused::Refused;
use crate::report::report_data;
use crate::wire::Malformed;

/// How the name of every development root begins. None of a maker of processors does.
pub const DEVELOPMENT_ROOT_PREFIX: &str = "Bento development root";

/// Roots of AMD, as AMD publishes them. Intel's comes with the library that reads its quotes.
const AMD: [(Product, &[u8]); 3] = [
    (Product::Milan, include_bytes!("../../roots/ark-milan.der")),
    (Product::Genoa, include_bytes!("../../roots/ark-genoa.der")),
    (Product::Turin, include_bytes!("../../roots/ark-turin.der")),
];

/// Whom evidence of an assurance goes back to.
#[derive(Clone, Debug)]
pub struct Roots<A> {
    /// DER. Intel has one; each simulator has its own.
    dcap: Vec<Vec<u8>>,
    snp: Vec<(Product, Vec<u8>)>,
    assurance: PhantomData<A>,
}

/// Evidence that was accepted: its report is over what was asked, and it runs what the list of measurements names, on a machine that
/// the policy accepts.
///
/// Attestation says what runs, and not where. Nothing in here is a digest of the evidence, of which parts can be changed by anybody.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Verified<A> {
    kind: Kind,
    name: String,
    measured: Measured,
    state: String,
    advisories: Vec<String>,
    facts: Vec<(&'static str, String)>,
    until: u64,
    assurance: PhantomData<A>,
}

/// What an appraisal of one format finds.
struct Appraised {
    measured: Measured,
    state: String,
    advisories: Vec<String>,
    facts: Vec<(&'static str, String)>,
    /// When the first of what was relied on ends.
    until: u64,
    /// Until when it is young enough besides.
    fresh: u64,
}

/// Collateral that belongs to a machine, whatever runs there and whoever asks.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Published {
    /// The machine's state, in the word of its maker.
    pub state: String,
    /// What its maker published about this state.
    pub advisories: Vec<String>,
    /// What was found, line by line, for people.
    pub facts: Vec<(&'static str, String)>,
    /// Until when clients take it, in seconds since 1970.
    pub until: u64,
    /// Why clients refuse the machine by its state, where all do.
    pub refused: Option<Refused>,
}

impl<A: Assurance> Verified<A> {
    /// Its kind.
    pub fn kind(&self) -> Kind {
        self.kind
    }

    /// What runs, as the list of measurements calls it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// What runs, as the hardware measured it.
    pub fn measured(&self) -> &Measured {
        &self.measured
    }

    /// The machine's state, in the word of its maker: `UpToDate` or what was opted into.
    pub fn state(&self) -> &str {
        &self.state
    }

    /// What the machine's maker published about this state.
    pub fn advisories(&self) -> &[String] {
        &self.advisories
    }

    /// When the first certificate or list that was relied on ends, in seconds since 1970.
    pub fn until(&self) -> u64 {
        self.until
    }

    /// What was found, line by line, for people.
    pub fn facts(&self) -> &[(&'static str, String)] {
        &self.facts
    }
}

impl Roots<Hardware> {
    /// The roots of Intel and AMD.
    pub fn production() -> Self {
        Self {
            dcap: vec![dcap::INTEL_ROOT.to_vec()],
            snp: AMD.iter().map(|(product, root)| (*product, root.to_vec())).collect(),
            assurance: PhantomData,
        }
    }
}

impl Roots<Simulated> {
    /// The roots of a simulator, given by who knows what that means: it protects from nobody. Each as DER; one with an RSA key is taken
    /// in the place of AMD's, any other in that of Intel's.
    ///
    /// # Errors
    /// One is no certificate, or not named as a development root.
    pub fn development(roots: &[&[u8]]) -> Result<Self, Refused> {
        let mut new = Self { dcap: Vec::new(), snp: Vec::new(), assurance: PhantomData };
        for root in roots {
            let certificate = Certificate::parse(root).map_err(|_| Refused::Root("it is no certificate"))?;
            if !certificate.subject_name().is_some_and(|name| name.starts_with(DEVELOPMENT_ROOT_PREFIX)) {
                return Err(Refused::Root("it is not named as one"));
            }
            if certificate.is_rsa() {
                new.snp.push((Product::Milan, root.to_vec()));
            } else {
                new.dcap.push(root.to_vec());
            }
        }
        Ok(new)
    }
}

impl<A: Assurance> Roots<A> {
    /// Judges a conclave's answer to the client that sent this nonce. `now` is the client's clock: seconds since 1970.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify(&self, evidence: &Evidence, policy: &Policy, nonce: &[u8; 32], now: u64) -> Result<Verified<A>, Refused> {
        let asked = evidence.binding(nonce).report_data();
        self.verify_report(evidence.kind, &evidence.report, &evidence.collateral, policy, &asked, now)
    }

    /// Judges a quote or report that must be over those 64 bytes.
    ///
    /// # Errors
    /// Why it is not accepted.
    pub fn verify_report(
        &self,
        kind: Kind,
        report: &[u8],
        collateral: &Collateral,
        policy: &Policy,
        asked: &[u8; 64],
        now: u64,
    ) -> Result<Verified<A>, Refused> {
        let format = kind.format();
        if A::kind(format) != kind {
            let wanted = if kind.is_simulated() { "hardware" } else { "a simulator" };
            return Err(Refused::Assurance { offered: kind, wanted });
        }
        if report.len() > REPORT_BYTES_MAX {
            return Err(Malformed::Long { what: "the report", length: report.len(), max: REPORT_BYTES_MAX }.into());
        }
        // Before any signature: whatever is refused here would be refused there, and this costs nothing.
        let data = report_data(format, report).ok_or(Malformed::Unknown("the format of the report"))?;
        if data != *asked {
            return Err(Refused::ReportData);
        }
        if now > policy.measurements.expires() {
            return Err(Refused::Expired("the list of measurements"));
        }
        let (found, judged) = self.appraised(kind, report, collateral, policy, now)?;
        judged?;
        let Some(name) = policy.measurements.name(kind, &found.measured) else {
            return Err(Refused::Measurement(found.measured.text()));
        };
        Ok(Verified {
            kind,
            name: name.to_owned(),
            measured: found.measured,
            state: found.state,
            advisories: found.advisories,
            facts: found.facts,
            until: found.until.min(policy.measurements.expires()),
            assurance: PhantomData,
        })
    }

    /// Judges collateral for the machine of this quote or report, before clients do: `accept_missing_crl` as a client's policy has it.
    ///
    /// # Errors
    /// Why no client would take it: it does not hold together, is another machine's, has expired, or is too old.
    pub fn published(
        &self,
        kind: Kind,
        report: &[u8],
        collateral: &Collateral,
        accept_missing_crl: bool,
        now: u64,
    ) -> Result<Published, Refused> {
        let mut policy = Policy::new(Measurements::of_any_firmware());
        (policy.hardening_needed, policy.configuration_needed, policy.missing_crl) = (true, true, accept_missing_crl);
        let (found, judged) = self.appraised(kind, report, collateral, &policy, now)?;
        let Appraised { state, advisories, facts, fresh, .. } = found;
        Ok(Published { state, advisories, facts, until: fresh, refused: judged.err() })
    }

    /// What is found, whatever it measured; and what the policy says of the machine's state.
    fn appraised(
        &self,
        kind: Kind,
        report: &[u8],
        collateral: &Collateral,
        policy: &Policy,
        now: u64,
    ) -> Result<(Appraised, Result<(), Refused>), Refused> {
        match (kind.format(), collateral) {
            (format @ (Format::Sgx | Format::Tdx), Collateral::Dcap(collateral)) => {
                // Of several, that a chain does not go back to one says less than what is wrong with the other's.
                let mut refused = Refused::NoRoot(kind);
                let mut appraise = |root: &Vec<u8>| match dcap::appraise(root, format, report, collateral, policy, now) {
                    Ok(found) => Some(found),
                    Err(error) => {
                        if matches!(refused, Refused::NoRoot(_) | Refused::Chain(_)) {
                            refused = error;
                        }
                        None
                    }
                };
                let found = self.dcap.iter().find_map(&mut appraise);
                found.ok_or(refused)
            }
            (Format::Snp, Collateral::Snp(collateral)) => {
                if self.snp.is_empty() {
                    return Err(Refused::NoRoot(kind));
                }
                Ok((snp::appraise(&self.snp, report, collateral, policy, now)?, Ok(())))
            }
            _ => Err(Refused::Collateral(kind)),
        }
    }
}

/// Judges evidence of hardware: [`Roots::verify`] with the roots of Intel and AMD.
///
/// # Errors
/// Why it is not accepted.
pub fn verify(evidence: &Evidence, policy: &Policy, nonce: &[u8; 32], now: u64) -> Result<Verified<Hardware>, Refused> {
    Roots::production().verify(evidence, policy, nonce, now)
}

/// Until when something published then is young enough, if it is neither from the future nor too old.
fn age(what: &'static str, published: u64, policy: &Policy, now: u64) -> Result<u64, Refused> {
    let age = now.checked_sub(published).ok_or(Refused::Future(what))?;
    let days = age / 86_400;
    if age > policy.collateral_days.saturating_mul(86_400) {
        return Err(Refused::Stale { what, days, max: policy.collateral_days });
    }
    Ok(published.saturating_add(policy.collateral_days.saturating_mul(86_400)))
}
