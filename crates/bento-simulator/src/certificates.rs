//! A root and what it issues, as Intel's hierarchy has it:
//!
//! ```text
//! root ─┬─ platform authority ── the machine's certificate (PCK), which says what its firmware is
//!       └─ signer of levels and identities
//! ```

use std::time::Duration;

use rcgen::{
    BasicConstraints, Certificate, CertificateParams, CertificateRevocationListParams, CustomExtension, DnType, IsCa, Issuer, KeyIdMethod,
    KeyPair, KeyUsagePurpose, RevokedCertParams, SerialNumber,
};
use ring::rand::SystemRandom;
use ring::signature::{ECDSA_P256_SHA256_FIXED_SIGNING, EcdsaKeyPair, KeyPair as _};

use crate::{Pretence, ROOT_NAME, Trouble};

const DAY: u64 = 86_400;

/// Intel's extension of a machine's certificate.
const SGX_EXTENSION: [u64; 7] = [1, 2, 840, 113_741, 1, 13, 1];
/// The same as DER's bytes, without the tag.
const SGX_OID: [u8; 9] = [0x2a, 0x86, 0x48, 0x86, 0xf8, 0x4d, 0x01, 0x0d, 0x01];

/// What the machine's firmware is, in its certificate, and in the levels.
pub(crate) const CPU_SVN: [u8; 16] = [5; 16];
pub(crate) const PCE_SVN: u16 = 11;
pub(crate) const FMSPC: [u8; 6] = [0xbe, 0x27, 0x00, 0x00, 0x00, 0x00];

/// All keys and certificates of one machine that is none.
pub(crate) struct Chain {
    /// DER.
    pub(crate) root: Vec<u8>,
    /// PEM, the leaf first.
    pub(crate) pck_chain: String,
    pub(crate) authority_chain: String,
    pub(crate) signer_chain: String,
    pub(crate) root_crl: Vec<u8>,
    pub(crate) pck_crl: Vec<u8>,
    pub(crate) pck: Signer,
    pub(crate) signer: Signer,
    pub(crate) attestation: Signer,
}

/// A key of P-256 that signs as quotes have it: r and s.
pub(crate) struct Signer(EcdsaKeyPair);

impl Signer {
    fn new(pair: &KeyPair) -> Result<Self, Trouble> {
        let key = EcdsaKeyPair::from_pkcs8(&ECDSA_P256_SHA256_FIXED_SIGNING, pair.serialized_der(), &SystemRandom::new());
        key.map(Self).map_err(|_| Trouble::Key)
    }

    pub(crate) fn sign(&self, bytes: &[u8]) -> Result<[u8; 64], Trouble> {
        let signature = self.0.sign(&SystemRandom::new(), bytes).map_err(|_| Trouble::Key)?;
        signature.as_ref().try_into().map_err(|_| Trouble::Key)
    }

    /// The public key: x and y.
    pub(crate) fn public(&self) -> [u8; 64] {
        let mut out = [0; 64];
        // In front of them is the byte that says that both are there.
        out.copy_from_slice(&self.0.public_key().as_ref()[1..]);
        out
    }
}

impl Chain {
    pub(crate) fn new(pretence: &Pretence) -> Result<Self, Trouble> {
        let keys = (0..4).map(|_| KeyPair::generate()).collect::<Result<Vec<_>, _>>()?;
        let [root_key, authority_key, pck_key, signer_key] = &keys[..] else { return Err(Trouble::Key) };
        let attestation = Signer::new(&KeyPair::generate()?)?;

        let root_params = params(ROOT_NAME, true, 1, pretence);
        let root = root_params.self_signed(root_key)?;
        let root_issuer = Issuer::from_params(&root_params, root_key);
        let authority_params = params("Bento development platform authority", true, 2, pretence);
        let authority = authority_params.signed_by(authority_key, &root_issuer)?;
        let authority_issuer = Issuer::from_params(&authority_params, authority_key);
        let signer = params("Bento development TCB signing", false, 3, pretence).signed_by(signer_key, &root_issuer)?;
        let mut pck_params = params("Bento development PCK", false, 4, pretence);
        pck_params.custom_extensions = vec![CustomExtension::from_oid_content(&SGX_EXTENSION, machine())];
        let pck = pck_params.signed_by(pck_key, &authority_issuer)?;

        let pem = |chain: &[&Certificate]| chain.iter().map(|certificate| certificate.pem()).collect::<String>();
        Ok(Self {
            root: root.der().to_vec(),
            pck_chain: pem(&[&pck, &authority, &root]),
            authority_chain: pem(&[&authority, &root]),
            signer_chain: pem(&[&signer, &root]),
            root_crl: crl(pretence, pretence.signer_revoked.then_some(3)).signed_by(&root_issuer)?.der().to_vec(),
            pck_crl: crl(pretence, pretence.revoked.then_some(4)).signed_by(&authority_issuer)?.der().to_vec(),
            pck: Signer::new(pck_key)?,
            signer: Signer::new(signer_key)?,
            attestation,
        })
    }
}

fn params(name: &str, authority: bool, serial: u8, pretence: &Pretence) -> CertificateParams {
    let mut params = CertificateParams::default();
    params.distinguished_name = rcgen::DistinguishedName::new();
    params.distinguished_name.push(DnType::CommonName, name);
    params.serial_number = Some(SerialNumber::from_slice(&[serial]));
    params.not_before = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(pretence.issued.saturating_sub(30 * DAY));
    params.not_after = params.not_before + Duration::from_secs(730 * DAY);
    params.use_authority_key_identifier_extension = true;
    if authority {
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages = vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign];
    } else {
        params.is_ca = IsCa::ExplicitNoCa;
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature];
    }
    params
}

fn crl(pretence: &Pretence, revoked: Option<u8>) -> CertificateRevocationListParams {
    let issued = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(pretence.lists_issued);
    CertificateRevocationListParams {
        this_update: issued,
        next_update: issued + Duration::from_secs(30 * DAY),
        crl_number: SerialNumber::from_slice(&[1]),
        issuing_distribution_point: None,
        revoked_certs: revoked
            .map(|serial| RevokedCertParams {
                serial_number: SerialNumber::from_slice(&[serial]),
                revocation_time: issued,
                reason_code: None,
                invalidity_date: None,
            })
            .into_iter()
            .collect(),
        key_identifier_method: KeyIdMethod::Sha256,
    }
}

/// The extension's content: pairs of a name and a value.
fn machine() -> Vec<u8> {
    let mut tcb = Vec::new();
    for (component, svn) in (1..).zip(CPU_SVN) {
        tcb.extend(pair(&[2, component], &der(2, &[svn])));
    }
    tcb.extend(pair(&[2, 17], &der(2, &PCE_SVN.to_be_bytes())));
    tcb.extend(pair(&[2, 18], &der(4, &CPU_SVN)));
    let mut all = Vec::new();
    all.extend(pair(&[1], &der(4, &[0xbe; 16])));
    all.extend(pair(&[2], &der(0x30, &tcb)));
    all.extend(pair(&[3], &der(4, &[0, 0])));
    all.extend(pair(&[4], &der(4, &FMSPC)));
    all.extend(pair(&[5], &der(10, &[1])));
    all.extend(pair(&[6], &der(4, &[0xbe; 16])));
    let flags: Vec<u8> = [(1, 0xff), (2, 0xff), (3, 0xff)].iter().flat_map(|(flag, value)| pair(&[7, *flag], &der(1, &[*value]))).collect();
    all.extend(pair(&[7], &der(0x30, &flags)));
    der(0x30, &all)
}

fn pair(suffix: &[u8], value: &[u8]) -> Vec<u8> {
    let name = der(6, &[&SGX_OID[..], suffix].concat());
    der(0x30, &[&name[..], value].concat())
}

/// A tag, a length, and a content of less than 64 KiB.
fn der(tag: u8, content: &[u8]) -> Vec<u8> {
    let length = content.len();
    let mut out = vec![tag];
    match length {
        0..0x80 => out.push(length as u8),
        0x80..0x100 => out.extend([0x81, length as u8]),
        _ => out.extend([0x82, (length >> 8) as u8, length as u8]),
    }
    out.extend_from_slice(content);
    out
}
