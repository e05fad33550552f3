//! The messages that come before the channel's handshake, and what a conclave's hardware signs.
//!
//! `spec/attestation.md` has the formats. Nothing here judges: a message that was read may say anything.

use ring::digest::{SHA256, SHA512, digest};

use crate::kind::Kind;
use crate::wire::{self, Malformed, Reader};

/// The version of all messages.
pub const VERSION: u8 = 1;

/// Longest Hello, which is under 60 bytes.
pub const HELLO_BYTES_MAX: usize = 128;

/// Longest Evidence: a quote of 8 KiB, collateral of 40 KiB, and as much again for chains that grow.
pub const EVIDENCE_BYTES_MAX: usize = 160 * 1024;

/// Longest quote or report. Genuine ones have 1.2 to 5.3 KiB, and carry a chain of certificates at most.
pub const REPORT_BYTES_MAX: usize = 16 * 1024;

/// Longest text of collateral: Intel's list of TCB levels has 3 to 9 KiB.
pub const TEXT_BYTES_MAX: usize = 32 * 1024;

/// Longest list of revoked certificates. Intel's has 3 KiB.
pub const CRL_BYTES_MAX: usize = 24 * 1024;

/// Longest chain of certificates, or certificate.
pub const CHAIN_BYTES_MAX: usize = 12 * 1024;

/// Longest name of a node. An onion service's key has 32 bytes, its address 62.
pub const NODE_BYTES_MAX: usize = 64;

/// What a client says first.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Hello {
    /// Random, never used before.
    pub nonce: [u8; 32],
    /// The kinds that it would accept, the best first.
    pub kinds: Vec<Kind>,
}

/// A conclave's answer: what it is, and what shows it.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Evidence {
    /// What it claims to be.
    pub kind: Kind,
    /// The quote or report, as the hardware gave it. Parts of it are not signed: never an identity or a key to anything.
    pub report: Vec<u8>,
    /// What its maker published about the machine.
    pub collateral: Collateral,
    /// The key of the channel's conclave end, made inside and never stored.
    pub static_pk: [u8; 32],
    /// SHA-256 of the conclave's configuration.
    pub config_hash: [u8; 32],
    /// The node whose conclave it is: its onion service's key.
    pub node: Vec<u8>,
}

/// What is needed to judge a quote, published by the hardware's maker and handed on by the node: clients ask no vendor.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Collateral {
    /// For SGX and TDX.
    Dcap(Box<DcapCollateral>),
    /// For SEV-SNP, each as DER.
    Snp(SnpCollateral),
}

/// Intel's collateral, as its certification service gives it out.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct DcapCollateral {
    /// PEM: who issued the list of revoked PCK certificates.
    pub pck_crl_issuer_chain: String,
    /// DER: certificates that the root revoked.
    pub root_ca_crl: Vec<u8>,
    /// DER: PCK certificates that were revoked.
    pub pck_crl: Vec<u8>,
    /// PEM: who signed the TCB levels.
    pub tcb_info_issuer_chain: String,
    /// JSON: TCB levels.
    pub tcb_info: String,
    /// Their signature, r and s.
    pub tcb_info_signature: Vec<u8>,
    /// PEM: who signed the quoting enclave's identity.
    pub qe_identity_issuer_chain: String,
    /// JSON: the quoting enclave's identity.
    pub qe_identity: String,
    /// Its signature, r and s.
    pub qe_identity_signature: Vec<u8>,
    /// PEM: the PCK certificate and its chain, where the quote does not hold them.
    pub pck_certificate_chain: Option<String>,
}

/// AMD's collateral.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct SnpCollateral {
    /// The certificate of AMD's signing key, signed by the root that is known here.
    pub ask: Vec<u8>,
    /// The certificate of the chip's key for its present firmware.
    pub vcek: Vec<u8>,
    /// Certificates that the root revoked; empty where the node has no such list.
    pub crl: Vec<u8>,
}

/// What is bound together by the 64 bytes that the hardware signs.
#[derive(Clone, Copy, Debug)]
pub struct Binding<'a> {
    /// What the conclave claims to be.
    pub kind: Kind,
    /// Its end's key.
    pub static_pk: &'a [u8; 32],
    /// The client's nonce.
    pub nonce: &'a [u8; 32],
    /// Its configuration.
    pub config_hash: &'a [u8; 32],
    /// Its node.
    pub node: &'a [u8],
}

impl Binding<'_> {
    /// SHA-512 over the label and all parts, each with its length in front.
    pub fn report_data(&self) -> [u8; 64] {
        let bound = wire::fields(&[self.kind.label(), &[self.kind.byte()], self.static_pk, self.nonce, self.config_hash, self.node]);
        let mut out = [0; 64];
        out.copy_from_slice(digest(&SHA512, &bound).as_ref());
        out
    }
}

impl Hello {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let kinds: Vec<u8> = self.kinds.iter().map(|kind| kind.byte()).collect();
        let mut out = vec![VERSION];
        out.extend_from_slice(&wire::fields(&[&self.nonce, &kinds]));
        out
    }

    /// Reads one. Kinds that are not known here are passed over, since a newer client may have more.
    ///
    /// # Errors
    /// It is not a Hello of this version, or names no kind.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("the Hello", within(bytes, "the Hello", HELLO_BYTES_MAX)?);
        if reader.take()? != [VERSION] {
            return Err(Malformed::Unknown("the version of the Hello"));
        }
        let nonce = reader.exact("the nonce")?;
        let kinds = reader.field("the kinds", 32)?.iter().filter_map(|byte| Kind::from_byte(*byte)).collect();
        reader.end()?;
        Ok(Self { nonce, kinds })
    }
}

impl Evidence {
    /// As it is sent.
    pub fn to_bytes(&self) -> Vec<u8> {
        let mut out = vec![VERSION, self.kind.byte()];
        let collateral = self.collateral.to_bytes();
        out.extend_from_slice(&wire::fields(&[&self.report, &collateral, &self.static_pk, &self.config_hash, &self.node]));
        out
    }

    /// Reads one.
    ///
    /// # Errors
    /// It is not Evidence of this version, or a part is longer than it may be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("the Evidence", within(bytes, "the Evidence", EVIDENCE_BYTES_MAX)?);
        if reader.take()? != [VERSION] {
            return Err(Malformed::Unknown("the version of the Evidence"));
        }
        let [kind] = reader.take()?;
        let kind = Kind::from_byte(kind).ok_or(Malformed::Unknown("the kind of the Evidence"))?;
        let report = reader.field("the report", REPORT_BYTES_MAX)?.to_vec();
        let collateral = Collateral::from_bytes(reader.field("the collateral", EVIDENCE_BYTES_MAX)?)?;
        let static_pk = reader.exact("the key")?;
        let config_hash = reader.exact("the configuration's digest")?;
        let node = reader.field("the node", NODE_BYTES_MAX)?.to_vec();
        reader.end()?;
        Ok(Self { kind, report, collateral, static_pk, config_hash, node })
    }

    /// What the hardware must have signed for this client.
    pub fn binding<'a>(&'a self, nonce: &'a [u8; 32]) -> Binding<'a> {
        Binding { kind: self.kind, static_pk: &self.static_pk, nonce, config_hash: &self.config_hash, node: &self.node }
    }
}

impl Collateral {
    /// As it is sent, and as a node keeps it.
    pub fn to_bytes(&self) -> Vec<u8> {
        match self {
            Self::Dcap(c) => {
                let mut out = vec![1];
                out.extend_from_slice(&wire::fields(&[
                    c.pck_crl_issuer_chain.as_bytes(),
                    &c.root_ca_crl,
                    &c.pck_crl,
                    c.tcb_info_issuer_chain.as_bytes(),
                    c.tcb_info.as_bytes(),
                    &c.tcb_info_signature,
                    c.qe_identity_issuer_chain.as_bytes(),
                    c.qe_identity.as_bytes(),
                    &c.qe_identity_signature,
                    c.pck_certificate_chain.as_deref().unwrap_or_default().as_bytes(),
                ]));
                out
            }
            Self::Snp(c) => {
                let mut out = vec![2];
                out.extend_from_slice(&wire::fields(&[&c.ask, &c.vcek, &c.crl]));
                out
            }
        }
    }

    /// Reads what [`Collateral::to_bytes`] made.
    ///
    /// # Errors
    /// It is none, or a part is longer than it may be.
    pub fn from_bytes(bytes: &[u8]) -> Result<Self, Malformed> {
        let mut reader = Reader::new("the collateral", within(bytes, "the collateral", EVIDENCE_BYTES_MAX)?);
        let collateral = match reader.take()? {
            [1] => {
                let mut c = DcapCollateral {
                    pck_crl_issuer_chain: reader.text("the chain of the PCK CRL", CHAIN_BYTES_MAX)?.to_owned(),
                    root_ca_crl: reader.field("the root's CRL", CRL_BYTES_MAX)?.to_vec(),
                    pck_crl: reader.field("the PCK CRL", CRL_BYTES_MAX)?.to_vec(),
                    tcb_info_issuer_chain: reader.text("the chain of the TCB levels", CHAIN_BYTES_MAX)?.to_owned(),
                    tcb_info: reader.text("the TCB levels", TEXT_BYTES_MAX)?.to_owned(),
                    tcb_info_signature: reader.field("the signature of the TCB levels", 64)?.to_vec(),
                    qe_identity_issuer_chain: reader.text("the chain of the QE identity", CHAIN_BYTES_MAX)?.to_owned(),
                    qe_identity: reader.text("the QE identity", TEXT_BYTES_MAX)?.to_owned(),
                    qe_identity_signature: reader.field("the signature of the QE identity", 64)?.to_vec(),
                    pck_certificate_chain: None,
                };
                let chain = reader.text("the PCK chain", CHAIN_BYTES_MAX)?;
                c.pck_certificate_chain = (!chain.is_empty()).then(|| chain.to_owned());
                Self::Dcap(Box::new(c))
            }
            [2] => Self::Snp(SnpCollateral {
                ask: reader.field("the ASK", CHAIN_BYTES_MAX)?.to_vec(),
                vcek: reader.field("the VCEK", CHAIN_BYTES_MAX)?.to_vec(),
                crl: reader.field("the CRL", CRL_BYTES_MAX)?.to_vec(),
            }),
            _ => return Err(Malformed::Unknown("the kind of the collateral")),
        };
        reader.end()?;
        Ok(collateral)
    }
}

/// SHA-256, which names a message or a configuration.
pub fn sha256(bytes: &[u8]) -> [u8; 32] {
    let mut out = [0; 32];
    out.copy_from_slice(digest(&SHA256, bytes).as_ref());
    out
}

fn within<'a>(bytes: &'a [u8], what: &'static str, max: usize) -> Result<&'a [u8], Malformed> {
    if bytes.len() > max { Err(Malformed::Long { what, length: bytes.len(), max }) } else { Ok(bytes) }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kind::Format;

    fn evidence(collateral: Collateral) -> Evidence {
        Evidence {
            kind: Kind::Simulated(Format::Tdx),
            report: vec![1, 2, 3],
            collateral,
            static_pk: [4; 32],
            config_hash: [5; 32],
            node: vec![6; 32],
        }
    }

    fn dcap() -> Collateral {
        Collateral::Dcap(Box::new(DcapCollateral {
            tcb_info: "{}".into(),
            pck_crl: vec![7],
            pck_certificate_chain: Some("chain".into()),
            ..Default::default()
        }))
    }

    #[test]
    fn messages_come_back_and_no_shorter_or_longer_one_is_taken() {
        for collateral in [dcap(), Collateral::Snp(SnpCollateral { ask: vec![1], vcek: vec![2], crl: vec![] })] {
            let sent = evidence(collateral);
            let bytes = sent.to_bytes();
            assert_eq!(Evidence::from_bytes(&bytes), Ok(sent));
            for cut in 0..bytes.len() {
                assert!(Evidence::from_bytes(&bytes[..cut]).is_err(), "cut to {cut}");
            }
            assert_eq!(Evidence::from_bytes(&[&bytes[..], &[0]].concat()), Err(Malformed::Trailing("the Evidence")));
        }
        let hello = Hello { nonce: [9; 32], kinds: Kind::ALL.to_vec() };
        let bytes = hello.to_bytes();
        assert_eq!(Hello::from_bytes(&bytes), Ok(hello));
        for cut in 0..bytes.len() {
            assert!(Hello::from_bytes(&bytes[..cut]).is_err(), "cut to {cut}");
        }
    }

    #[test]
    fn a_hello_of_another_version_is_refused_and_an_unknown_kind_passed_over() {
        let hello = Hello { nonce: [9; 32], kinds: vec![Kind::Hardware(Format::Tdx)] };
        let mut bytes = hello.to_bytes();
        *bytes.last_mut().expect("a kind") = 0x7f;
        assert_eq!(Hello::from_bytes(&bytes), Ok(Hello { kinds: vec![], ..hello }));
        bytes[0] = 2;
        assert_eq!(Hello::from_bytes(&bytes), Err(Malformed::Unknown("the version of the Hello")));
    }

    #[test]
    fn every_part_that_is_bound_changes_what_is_signed() {
        let sent = evidence(dcap());
        let nonce = [8; 32];
        let bound = sent.binding(&nonce).report_data();
        assert_eq!(sent.binding(&nonce).report_data(), bound);
        let others = [
            Evidence { kind: Kind::Hardware(Format::Tdx), ..sent.clone() }.binding(&nonce).report_data(),
            Evidence { kind: Kind::Simulated(Format::Sgx), ..sent.clone() }.binding(&nonce).report_data(),
            Evidence { static_pk: [0; 32], ..sent.clone() }.binding(&nonce).report_data(),
            Evidence { config_hash: [0; 32], ..sent.clone() }.binding(&nonce).report_data(),
            Evidence { node: vec![6; 31], ..sent.clone() }.binding(&nonce).report_data(),
            sent.binding(&[0; 32]).report_data(),
        ];
        for other in others {
            assert_ne!(other, bound);
        }
    }

    #[test]
    fn each_part_may_be_as_long_as_its_bound_and_no_longer() {
        let with = |length| evidence(Collateral::Snp(SnpCollateral { ask: vec![0; length], ..Default::default() })).to_bytes();
        assert!(Evidence::from_bytes(&with(CHAIN_BYTES_MAX)).is_ok());
        let refused = Evidence::from_bytes(&with(CHAIN_BYTES_MAX + 1));
        assert_eq!(refused, Err(Malformed::Long { what: "the ASK", length: CHAIN_BYTES_MAX + 1, max: CHAIN_BYTES_MAX }));
    }
}
