//! Which conclaves a client accepts.

use std::time::{SystemTime, UNIX_EPOCH};

use bento_attest::{
    Assurance, Hardware, Measurements, Policy, Refused, Roots, Simulated, Verified,
    channel::{self, Connected, Expected, Failed},
    measurements::Pin,
};
use data_encoding::{BASE64, HEXLOWER, HEXLOWER_PERMISSIVE};
use serde::{Deserialize, Serialize};

use crate::{Attested, ClientError, client::Stream, text::line};

/// Longest demand as text: it goes with a function's arguments, of which there are 16 KiB.
const TEXT_BYTES_MAX: usize = 12 * 1024;

/// States of a machine that can be opted into, in the words of its maker, and what may be missing.
const STATES: [&str; 3] = ["SWHardeningNeeded", "ConfigurationNeeded", "no-revocation-list"];

/// What a client accepts.
#[derive(Clone, Debug)]
pub struct Demand {
    roots: Either,
    policy: Policy,
    told: Told,
}

/// Hardware and simulator never stand for each other.
#[derive(Clone, Debug)]
enum Either {
    Hardware(Roots<Hardware>),
    Simulated(Roots<Simulated>),
}

/// As it travels.
#[derive(Clone, Debug, Deserialize, Serialize)]
#[serde(deny_unknown_fields)]
struct Told {
    /// The file with the list of measurements, as it is.
    measurements: String,
    /// Who signs it: an Ed25519 key in hexadecimal. A simulator's list is not signed,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    publisher: Option<String>,
    /// and goes with the roots of those that are accepted (DER, in base64).
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    simulators: Vec<String>,
    /// States that are accepted besides `UpToDate`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    accept: Vec<String>,
    /// The client's clock when it demanded this, in seconds since 1970: whoever judges for it may be told a wrong time by its host.
    since: u64,
}

/// What is held fast of a list, from one time to the next.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq, Serialize)]
pub struct Pinned {
    /// The highest version seen,
    pub version: u64,
    /// and the digest of that one.
    pub digest: Option<[u8; 32]>,
}

/// Why a demand makes no sense.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[non_exhaustive]
pub enum DemandError {
    /// The list or the root.
    #[error("{0}")]
    Refused(#[from] Refused),
    /// The publisher's key.
    #[error("the publisher's key is 64 hexadecimal digits")]
    Key,
    /// A state.
    #[error("`{state}` cannot be accepted; what can be is {}", STATES.join(", "))]
    State {
        /// What was given.
        state: String,
    },
    /// A text that is none.
    #[error("this is no demand: {0}")]
    Text(String),
    /// It has no place among a function's arguments.
    #[error(
        "the demand has {0} bytes, and {TEXT_BYTES_MAX} are the most that a function takes along; a shorter list of measurements is needed"
    )]
    Long(usize),
}

impl Demand {
    /// Conclaves in hardware, of which this signed list says what may run. `seen` is what was seen of the list before; what is to be kept from now on comes back.
    ///
    /// # Errors
    /// When the list is not signed by that key, is older than what was seen, or has expired.
    pub fn hardware(measurements: &str, publisher: &str, accept: &[String], seen: Pinned) -> Result<(Self, Pinned), DemandError> {
        let told = Told {
            measurements: measurements.to_owned(),
            publisher: Some(publisher.to_owned()),
            simulators: Vec::new(),
            accept: accept.to_vec(),
            since: clock(),
        };
        let demand = Self::read(told, seen)?;
        let list = &demand.policy.measurements;
        let pinned = Pinned { version: list.version(), digest: Some(list.digest()) };
        Ok((demand, pinned))
    }

    /// Conclaves of simulators with these roots, which protect from nobody: for trying out.
    ///
    /// # Errors
    /// When a root is not a simulator's, or the list names hardware.
    pub fn simulated(roots: &[Vec<u8>], measurements: &str) -> Result<Self, DemandError> {
        let (measurements, simulators) = (measurements.to_owned(), roots.iter().map(|root| BASE64.encode(root)).collect());
        Self::read(Told { measurements, publisher: None, simulators, accept: Vec::new(), since: clock() }, Pinned::default())
    }

    /// Reads a demand that a client sent with a function.
    ///
    /// # Errors
    /// When it makes no sense.
    pub fn parse(text: &str) -> Result<Self, ClientError> {
        let read = || {
            if text.len() > TEXT_BYTES_MAX {
                return Err(DemandError::Long(text.len()));
            }
            let told = serde_json::from_str(text).map_err(|error| DemandError::Text(error.to_string()))?;
            Self::read(told, Pinned::default())
        };
        read().map_err(|error| ClientError::Request(line(&error.to_string())))
    }

    /// As it travels with a function.
    ///
    /// # Errors
    /// When it is too long for that.
    pub fn text(&self) -> Result<String, DemandError> {
        let text = serde_json::to_string(&self.told).map_err(|error| DemandError::Text(error.to_string()))?;
        if text.len() > TEXT_BYTES_MAX { Err(DemandError::Long(text.len())) } else { Ok(text) }
    }

    /// Does it accept a simulator's conclaves, which protect from nobody?
    pub fn is_simulated(&self) -> bool {
        matches!(self.roots, Either::Simulated(_))
    }

    fn read(told: Told, seen: Pinned) -> Result<Self, DemandError> {
        let now = clock().max(told.since);
        let (roots, measurements) = match (&told.publisher, told.simulators.as_slice()) {
            (Some(publisher), []) => {
                let key = HEXLOWER_PERMISSIVE.decode(publisher.trim().as_bytes()).ok().and_then(|key| key.try_into().ok());
                let pin = Pin { key: key.ok_or(DemandError::Key)?, version: seen.version, digest: seen.digest };
                (Either::Hardware(Roots::production()), Measurements::open(told.measurements.as_bytes(), &pin, now)?)
            }
            (None, [_, ..]) => {
                let decoded: Result<Vec<_>, _> = told.simulators.iter().map(|root| BASE64.decode(root.as_bytes())).collect();
                let decoded = decoded.map_err(|_| DemandError::Text("its root is not base64".into()))?;
                let roots: Vec<&[u8]> = decoded.iter().map(Vec::as_slice).collect();
                (Either::Simulated(Roots::development(&roots)?), Measurements::for_simulator(&told.measurements)?)
            }
            _ => return Err(DemandError::Text("either a publisher or a simulator stands behind a list".into())),
        };
        let mut policy = Policy::new(measurements);
        for state in &told.accept {
            match state.as_str() {
                "SWHardeningNeeded" => policy.hardening_needed = true,
                "ConfigurationNeeded" => policy.configuration_needed = true,
                "no-revocation-list" => policy.missing_crl = true,
                other => return Err(DemandError::State { state: line(other) }),
            }
        }
        Ok(Self { roots, policy, told })
    }

    /// Opens the channel to the conclave of this node, if it is accepted.
    pub(crate) async fn open(&self, stream: Box<dyn Stream>, node: &[u8]) -> Result<(Box<dyn Stream>, Attested), ClientError> {
        match &self.roots {
            Either::Hardware(roots) => self.connect(stream, roots, node).await,
            Either::Simulated(roots) => self.connect(stream, roots, node).await,
        }
    }

    async fn connect<A: Assurance>(
        &self,
        stream: Box<dyn Stream>,
        roots: &Roots<A>,
        node: &[u8],
    ) -> Result<(Box<dyn Stream>, Attested), ClientError> {
        let now = clock().max(self.told.since);
        let expected = Expected { roots, policy: &self.policy, node, config_hash: None, now };
        let Connected { channel, verified, config_hash } = channel::connect(stream, &expected).await.map_err(failed)?;
        Ok((Box::new(channel), attested(&verified, &config_hash)))
    }
}

fn attested<A: Assurance>(verified: &Verified<A>, config_hash: &[u8; 32]) -> Attested {
    Attested {
        kind: verified.kind().name().to_owned(),
        simulated: verified.kind().is_simulated(),
        runs: line(verified.name()),
        measured: verified.measured().text(),
        configuration: HEXLOWER.encode(config_hash),
        state: line(verified.state()),
        advisories: verified.advisories().iter().map(|advisory| line(advisory)).collect(),
        facts: verified.facts().iter().map(|(key, value)| ((*key).to_owned(), line(value))).collect(),
        until: verified.until(),
    }
}

fn failed(error: Failed) -> ClientError {
    let hint = match &error {
        Failed::Stream { source, .. } => return ClientError::Broken(line(&format!("{error}: {source}"))),
        Failed::Randomness => return ClientError::Random(error.to_string()),
        Failed::Malformed(_) => return ClientError::Violation(line(&error.to_string())),
        Failed::NoKind => "`bento nodes --conclaves` says which nodes have one; a simulator's is accepted only with its own option",
        Failed::Node | Failed::Handshake => "somebody else may have answered: try again, and if it stays so, use another node",
        Failed::Refused(refused) => refusal_hint(refused),
        _ => "use another node",
    };
    let text = if matches!(error, Failed::NoKind) {
        "the node has none of a kind that is accepted, or it does not run".into()
    } else {
        line(&error.to_string())
    };
    ClientError::Evidence { text, hint }
}

fn refusal_hint(refused: &Refused) -> &'static str {
    match refused {
        Refused::Measurement(_) => {
            "it may run something newer than your list of measurements: get the publisher's current one, or use another node"
        }
        Refused::Tcb { .. } => "its operator has to bring the machine up to date; use another node meanwhile, or see `--accept-state`",
        Refused::Stale { .. } | Refused::Future(_) | Refused::Expired(_) => {
            "look at this machine's clock; if it is right, the node's operator has to fetch new collateral"
        }
        Refused::ReportData => "somebody else may have answered: try again, and if it stays so, use another node",
        Refused::Debug | Refused::Migratable | Refused::Vmpl(_) => "whoever runs it can look inside: use another node",
        Refused::List(_) => "get the publisher's current list of measurements",
        Refused::NoCrl => "use another node, or `--accept-state no-revocation-list`",
        Refused::Chain(_) => "it may be another simulator's, or was changed on its way: use another node",
        _ => "use another node",
    }
}

/// Seconds since 1970.
fn clock() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 32] = [7; 32];

    fn list(version: u64) -> String {
        let hex = "ab".repeat(32);
        let body =
            format!("version = {version}\nexpires = 4102444800\n[[measurement]]\nname = \"one\"\nkind = \"sgx\"\nmrenclave = \"{hex}\"\n");
        Measurements::sign(&body, &SEED).unwrap()
    }

    fn publisher() -> String {
        HEXLOWER.encode(&Measurements::public_key(&SEED).unwrap())
    }

    #[test]
    fn a_demand_is_the_same_after_its_travel_and_a_lists_version_never_goes_back() {
        let accept = ["SWHardeningNeeded".to_owned()];
        let (demand, seen) = Demand::hardware(&list(3), &publisher(), &accept, Pinned::default()).unwrap();
        assert_eq!(seen.version, 3);
        let again = Demand::parse(&demand.text().unwrap()).unwrap();
        assert!(again.policy.hardening_needed && !again.policy.configuration_needed && !again.is_simulated());
        assert!(Demand::hardware(&list(4), &publisher(), &[], seen).is_ok());
        let back = Demand::hardware(&list(2), &publisher(), &[], seen).unwrap_err();
        assert!(back.to_string().contains("3 was seen already"), "{back}");
    }

    #[test]
    fn what_nobody_signed_and_states_that_are_never_accepted_are_refused() {
        let (body, key) = (list(3).split_once('\n').unwrap().1.to_owned(), publisher());
        assert!(matches!(Demand::hardware(&body, &key, &[], Pinned::default()), Err(DemandError::Refused(_))));
        assert_eq!(Demand::hardware(&list(3), "ab", &[], Pinned::default()).unwrap_err(), DemandError::Key);
        let accept = |state: &str| Demand::hardware(&list(3), &key, &[state.to_owned()], Pinned::default());
        assert!(accept("ConfigurationNeeded").is_ok());
        assert!(
            matches!(accept("OutOfDate"), Err(DemandError::State { .. })) && matches!(accept("Revoked"), Err(DemandError::State { .. }))
        );
        // Neither hardware's list nor its root is a simulator's.
        assert!(Demand::simulated(&[b"no certificate".to_vec()], "version = 1\nexpires = 1\n").is_err());
        for text in ["", "{}", r#"{"measurements": "", "since": 1}"#, &format!("{:?}", "x".repeat(20_000))] {
            assert!(Demand::parse(text).is_err(), "{text}");
        }
    }

    #[test]
    fn who_judges_for_a_client_is_not_earlier_than_it() {
        let (mut demand, _) = Demand::hardware(&list(3), &publisher(), &[], Pinned::default()).unwrap();
        assert!(Demand::parse(&demand.text().unwrap()).is_ok());
        // The list has expired by the client's clock, whatever this machine's says.
        demand.told.since = 4_102_444_801;
        let error = Demand::parse(&demand.text().unwrap()).unwrap_err();
        assert!(error.to_string().contains("has expired"), "{error}");
    }
}
