//! What conclaves may run: a list that its publisher signs, with a version that never goes back.
//!
//! The first line of the file is `bento measurements, signed: ` and a signature (Ed25519, hexadecimal) of all that follows it,
//! which is TOML. `spec/attestation.md` has an example.

use std::collections::BTreeMap;

use data_encoding::HEXLOWER_PERMISSIVE;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair, UnparsedPublicKey};
use serde::Deserialize;

use crate::evidence::sha256;
use crate::kind::{Format, Kind};
use crate::refused::Refused;

/// Longest file of measurements.
pub const FILE_BYTES_MAX: usize = 128 * 1024;

/// Most measurements in a file.
pub const ENTRIES_MAX: usize = 256;

const FIRST_LINE: &str = "bento measurements, signed: ";

/// In front of what is signed, so that the key's other signatures are none of a list.
const SIGNED_LABEL: &[u8] = b"bento measurements 1\n";

/// What a client holds fast of a list: who signs it, and what it saw last.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Pin {
    /// The publisher's key (Ed25519).
    pub key: [u8; 32],
    /// The least version. Kept by the client, and raised to each version that it sees.
    pub version: u64,
    /// The digest of that version where it is known, so that there cannot be two of one version.
    pub digest: Option<[u8; 32]>,
}

/// What runs in a conclave, as its hardware measured it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Measured {
    /// The enclave itself. Its signer is not asked for: who signs one enclave can sign another.
    Sgx {
        /// MRENCLAVE.
        mrenclave: [u8; 32],
    },
    /// A virtual machine's first memory, and what it loaded then.
    Tdx {
        /// MRTD.
        mrtd: [u8; 48],
        /// RTMR 0 to 3.
        rtmr: [[u8; 48]; 4],
    },
    /// A virtual machine's first memory, and what its host may do with it.
    Snp {
        /// MEASUREMENT.
        measurement: [u8; 48],
        /// The guest's policy.
        policy: u64,
    },
}

impl Measured {
    /// As text, for people.
    pub fn text(&self) -> String {
        let hex = |bytes: &[u8]| HEXLOWER_PERMISSIVE.encode(bytes);
        match self {
            Self::Sgx { mrenclave } => format!("mrenclave {}", hex(mrenclave)),
            Self::Tdx { mrtd, rtmr } => {
                format!("mrtd {} rtmr {}", hex(mrtd), rtmr.iter().map(|r| hex(r)).collect::<Vec<_>>().join(" "))
            }
            Self::Snp { measurement, policy } => format!("measurement {} policy {policy:#x}", hex(measurement)),
        }
    }
}

/// Processors of AMD, each with a root of its own.
#[derive(Clone, Copy, Debug, Deserialize, Eq, Ord, PartialEq, PartialOrd)]
#[serde(rename_all = "lowercase")]
#[allow(missing_docs)]
pub enum Product {
    Milan,
    Genoa,
    Turin,
}

impl Product {
    /// Its name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Milan => "Milan",
            Self::Genoa => "Genoa",
            Self::Turin => "Turin",
        }
    }
}

/// Versions of AMD's firmware.
#[derive(Clone, Copy, Debug, Default, Deserialize, Eq, PartialEq)]
#[serde(deny_unknown_fields)]
pub struct SnpTcb {
    /// FMC, which only Turin has.
    #[serde(default)]
    pub fmc: u8,
    /// Boot loader.
    pub bootloader: u8,
    /// PSP operating system.
    pub tee: u8,
    /// SNP firmware.
    pub snp: u8,
    /// Microcode.
    pub microcode: u8,
}

/// A list of measurements that was checked.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Measurements {
    version: u64,
    expires: u64,
    digest: [u8; 32],
    entries: Vec<Entry>,
    minimum: BTreeMap<Product, SnpTcb>,
    evaluation: u32,
}

#[derive(Clone, Debug, Eq, PartialEq)]
struct Entry {
    name: String,
    kind: Kind,
    measured: Measured,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct File {
    version: u64,
    /// Seconds since 1970.
    expires: u64,
    /// Intel's tcbEvaluationDataNumber, at least.
    #[serde(default)]
    tcb_evaluation: u32,
    #[serde(default)]
    snp_minimum: BTreeMap<Product, SnpTcb>,
    #[serde(default, rename = "measurement")]
    measurements: Vec<Line>,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Line {
    name: String,
    kind: String,
    mrenclave: Option<String>,
    mrtd: Option<String>,
    rtmr: Option<[String; 4]>,
    measurement: Option<String>,
    policy: Option<u64>,
}

impl Measurements {
    /// Reads a signed list.
    ///
    /// # Errors
    /// It is not signed by that key, is older than the pinned version or another of the same version, has expired, or says nothing
    /// that makes sense.
    pub fn open(file: &[u8], pin: &Pin, now: u64) -> Result<Self, Refused> {
        let refused = |why: &str| Refused::List(why.into());
        if file.len() > FILE_BYTES_MAX {
            return Err(refused("is too long"));
        }
        let text = std::str::from_utf8(file).map_err(|_| refused("is no text"))?;
        let (first, body) = text.split_once('\n').ok_or_else(|| refused("has no first line"))?;
        let signature = first.strip_prefix(FIRST_LINE).ok_or_else(|| refused("has no signature"))?;
        let signature = HEXLOWER_PERMISSIVE.decode(signature.as_bytes()).map_err(|_| refused("has no signature"))?;
        UnparsedPublicKey::new(&ED25519, pin.key)
            .verify(&signed(body), &signature)
            .map_err(|_| refused("is not signed by its publisher"))?;

        let list = Self::parse(body)?;
        if list.version < pin.version {
            return Err(Refused::List(format!("has version {}, and {} was seen already", list.version, pin.version)));
        }
        if list.version == pin.version && pin.digest.is_some_and(|seen| seen != list.digest) {
            return Err(Refused::List(format!("is another of version {} than was seen", list.version)));
        }
        if now > list.expires {
            return Err(refused("has expired"));
        }
        if list.entries.iter().any(|entry| entry.kind.is_simulated()) {
            return Err(refused("is signed and names a simulator"));
        }
        Ok(list)
    }

    /// Reads a list that nobody signed. It can be of simulators only.
    ///
    /// # Errors
    /// It names hardware, or says nothing that makes sense.
    pub fn for_simulator(body: &str) -> Result<Self, Refused> {
        let list = Self::parse(body)?;
        if list.entries.iter().any(|entry| !entry.kind.is_simulated()) {
            return Err(Refused::List("is not signed and names hardware".into()));
        }
        Ok(list)
    }

    /// Signs a list, with the seed of an Ed25519 key.
    ///
    /// # Errors
    /// The list says nothing that makes sense.
    pub fn sign(body: &str, seed: &[u8; 32]) -> Result<String, Refused> {
        Self::parse(body)?;
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Refused::List("cannot be signed with this key".into()))?;
        let signature = HEXLOWER_PERMISSIVE.encode(key.sign(&signed(body)).as_ref());
        Ok(format!("{FIRST_LINE}{signature}\n{body}"))
    }

    /// The public key of such a seed.
    ///
    /// # Errors
    /// It is none.
    pub fn public_key(seed: &[u8; 32]) -> Result<[u8; 32], Refused> {
        let key = Ed25519KeyPair::from_seed_unchecked(seed).map_err(|_| Refused::List("cannot be signed with this key".into()))?;
        key.public_key().as_ref().try_into().map_err(|_| Refused::List("cannot be signed with this key".into()))
    }

    /// Its version, to be pinned from now on.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// SHA-256 of what is signed, to be pinned with the version.
    pub fn digest(&self) -> [u8; 32] {
        self.digest
    }

    /// A list of nothing, for which no firmware of AMD's is too old: for who judges collateral, and not what runs.
    pub(crate) fn of_any_firmware() -> Self {
        let any = [Product::Milan, Product::Genoa, Product::Turin].map(|product| (product, SnpTcb::default()));
        Self { version: 0, expires: u64::MAX, digest: [0; 32], entries: Vec::new(), minimum: any.into(), evaluation: 0 }
    }

    /// The name of what was measured, if it is in the list for this kind.
    pub(crate) fn name(&self, kind: Kind, measured: &Measured) -> Option<&str> {
        self.entries.iter().find(|entry| entry.kind == kind && entry.measured == *measured).map(|entry| entry.name.as_str())
    }

    pub(crate) fn minimum(&self, product: Product) -> Option<SnpTcb> {
        self.minimum.get(&product).copied()
    }

    pub(crate) fn evaluation(&self) -> u32 {
        self.evaluation
    }

    pub(crate) fn expires(&self) -> u64 {
        self.expires
    }

    fn parse(body: &str) -> Result<Self, Refused> {
        if body.len() > FILE_BYTES_MAX {
            return Err(Refused::List("is too long".into()));
        }
        let file: File = toml::from_str(body).map_err(|error| Refused::List(format!("cannot be read: {}", error.message())))?;
        if file.measurements.len() > ENTRIES_MAX {
            return Err(Refused::List(format!("has more than {ENTRIES_MAX} measurements")));
        }
        let entries = file.measurements.into_iter().map(Line::entry).collect::<Result<_, _>>()?;
        Ok(Self {
            version: file.version,
            expires: file.expires,
            digest: sha256(body.as_bytes()),
            entries,
            minimum: file.snp_minimum,
            evaluation: file.tcb_evaluation,
        })
    }
}

impl Line {
    fn entry(self) -> Result<Entry, Refused> {
        let name = self.name;
        if name.is_empty() || name.chars().count() > 80 || name.chars().any(char::is_control) {
            return Err(Refused::List("has a name that is empty, longer than 80 letters, or not printable".into()));
        }
        let wrong = |what: &str| Refused::List(format!("has {what} for `{name}`"));
        let kind = Kind::from_name(&self.kind).ok_or_else(|| wrong("an unknown kind"))?;
        let measured = match (kind.format(), self.mrenclave, self.mrtd, self.rtmr, self.measurement, self.policy) {
            (Format::Sgx, Some(mrenclave), None, None, None, None) => {
                Measured::Sgx { mrenclave: hex(&mrenclave).ok_or_else(|| wrong("no such mrenclave"))? }
            }
            (Format::Tdx, None, Some(mrtd), Some(rtmr), None, None) => {
                let mut values = [[0; 48]; 4];
                for (value, text) in values.iter_mut().zip(&rtmr) {
                    *value = hex(text).ok_or_else(|| wrong("no such rtmr"))?;
                }
                Measured::Tdx { mrtd: hex(&mrtd).ok_or_else(|| wrong("no such mrtd"))?, rtmr: values }
            }
            (Format::Snp, None, None, None, Some(measurement), Some(policy)) => {
                Measured::Snp { measurement: hex(&measurement).ok_or_else(|| wrong("no such measurement"))?, policy }
            }
            _ => return Err(wrong("too few or too many values of its kind")),
        };
        Ok(Entry { name, kind, measured })
    }
}

fn hex<const N: usize>(text: &str) -> Option<[u8; N]> {
    HEXLOWER_PERMISSIVE.decode(text.as_bytes()).ok()?.try_into().ok()
}

fn signed(body: &str) -> Vec<u8> {
    [SIGNED_LABEL, body.as_bytes()].concat()
}

#[cfg(test)]
mod tests {
    use super::*;

    const SEED: [u8; 32] = [7; 32];
    const NOW: u64 = 1_700_000_000;

    fn body(version: u64, kind: &str) -> String {
        format!(
            "version = {version}\nexpires = {}\n[[measurement]]\nname = \"one\"\nkind = \"{kind}\"\nmrenclave = \"{}\"\n",
            NOW + 1000,
            "ab".repeat(32)
        )
    }

    fn pin(version: u64) -> Pin {
        Pin { key: Measurements::public_key(&SEED).expect("a key"), version, digest: None }
    }

    fn refused(file: &str, pin: &Pin, now: u64) -> String {
        match Measurements::open(file.as_bytes(), pin, now) {
            Err(refused) => refused.to_string(),
            Ok(list) => panic!("taken: {list:?}"),
        }
    }

    #[test]
    fn a_signed_list_is_taken_and_one_changed_letter_of_it_is_not() {
        let file = Measurements::sign(&body(3, "sgx"), &SEED).expect("signed");
        let list = Measurements::open(file.as_bytes(), &pin(3), NOW).expect("taken");
        assert_eq!(list.version(), 3);
        let known = Measured::Sgx { mrenclave: [0xab; 32] };
        assert_eq!(list.name(Kind::Hardware(Format::Sgx), &known), Some("one"));
        assert_eq!(list.name(Kind::Simulated(Format::Sgx), &known), None);
        assert_eq!(list.name(Kind::Hardware(Format::Sgx), &Measured::Sgx { mrenclave: [0xaa; 32] }), None);
        for at in 0..file.len() {
            let mut changed = file.clone().into_bytes();
            changed[at] ^= 1;
            assert!(Measurements::open(&changed, &pin(3), NOW).is_err(), "letter {at}");
        }
    }

    #[test]
    fn another_key_signs_no_list() {
        let file = Measurements::sign(&body(3, "sgx"), &[8; 32]).expect("signed");
        assert_eq!(refused(&file, &pin(3), NOW), "the list of measurements is not signed by its publisher");
    }

    #[test]
    fn a_version_never_goes_back_and_is_never_two_lists() {
        let (old, new) =
            (Measurements::sign(&body(3, "sgx"), &SEED).expect("signed"), Measurements::sign(&body(4, "sgx"), &SEED).expect("signed"));
        assert!(Measurements::open(new.as_bytes(), &pin(3), NOW).is_ok());
        assert!(refused(&old, &pin(4), NOW).ends_with("has version 3, and 4 was seen already"));
        let seen = Measurements::open(old.as_bytes(), &pin(3), NOW).expect("taken").digest();
        let exact = Pin { digest: Some(seen), ..pin(3) };
        assert!(Measurements::open(old.as_bytes(), &exact, NOW).is_ok());
        assert!(Measurements::open(new.as_bytes(), &exact, NOW).is_ok());
        let other = Measurements::sign(&format!("{}# more\n", body(3, "sgx")), &SEED).expect("signed");
        assert!(refused(&other, &exact, NOW).ends_with("is another of version 3 than was seen"));
    }

    #[test]
    fn an_old_list_is_no_list() {
        let file = Measurements::sign(&body(3, "sgx"), &SEED).expect("signed");
        assert!(Measurements::open(file.as_bytes(), &pin(3), NOW + 1000).is_ok());
        assert!(refused(&file, &pin(3), NOW + 1001).ends_with("has expired"));
    }

    #[test]
    fn signed_lists_name_no_simulator_and_unsigned_ones_no_hardware() {
        let simulator = Measurements::sign(&body(3, "simulated-sgx"), &SEED).expect("signed");
        assert!(refused(&simulator, &pin(3), NOW).ends_with("is signed and names a simulator"));
        assert!(Measurements::for_simulator(&body(3, "simulated-sgx")).is_ok());
        assert!(Measurements::for_simulator(&body(3, "sgx")).is_err());
    }

    #[test]
    fn values_that_do_not_belong_to_a_kind_are_refused() {
        for (kind, values) in [
            ("tdx", format!("mrenclave = \"{}\"", "ab".repeat(32))),
            ("sgx", format!("mrenclave = \"{}\"", "ab".repeat(31))),
            ("sgx", format!("mrenclave = \"{}\"\npolicy = 1", "ab".repeat(32))),
            ("snp", format!("measurement = \"{}\"", "ab".repeat(48))),
            ("none", format!("mrenclave = \"{}\"", "ab".repeat(32))),
            ("sgx", format!("mrenclave = \"{}\"\nmrsigner = \"{}\"", "ab".repeat(32), "ab".repeat(32))),
        ] {
            let body = format!("version = 1\nexpires = 2\n[[measurement]]\nname = \"one\"\nkind = \"{kind}\"\n{values}\n");
            assert!(Measurements::sign(&body, &SEED).is_err(), "{body}");
        }
        let snp = format!(
            "version = 1\nexpires = 2\n[[measurement]]\nname = \"one\"\nkind = \"snp\"\nmeasurement = \"{}\"\npolicy = 0x30000\n",
            "ab".repeat(48)
        );
        assert!(Measurements::sign(&snp, &SEED).is_ok());
    }
}
