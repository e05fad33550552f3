//! Quotes, as a quoting enclave makes them: SGX in version 3, TDX in version 4.

use bento_attest::Format;
use ring::digest::{SHA256, SHA384, digest};

use crate::certificates::{CPU_SVN, Chain, PCE_SVN};
use crate::{Pretence, Trouble};

/// Intel's quoting enclave's vendor.
const VENDOR: [u8; 16] = [0x93, 0x9a, 0x72, 0x33, 0xf7, 0x9c, 0x4c, 0xa9, 0x94, 0x0a, 0x0d, 0xb3, 0x95, 0x7f, 0x06, 0x07];

/// Who signed the enclave that signs quotes, in the identity as well.
pub(crate) const QE_SIGNER: [u8; 32] = [0xb3; 32];
/// Its version.
pub(crate) const QE_SVN: u16 = 4;

/// Of the TDX module: its version within its major version, and that.
const TEE_TCB_SVN: [u8; 16] = [5, 1, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5, 5];

/// A host cannot make the guest's pages fault unseen: every TD must have this.
const SEPT_VE_DISABLE: u64 = 1 << 28;
const MIGRATABLE: u64 = 1 << 29;
const TD_DEBUG: u64 = 1;

/// MRTD and the four RTMRs of what runs.
pub(crate) fn registers(code: &[u8; 32]) -> [[u8; 48]; 5] {
    [0, 1, 2, 3, 4].map(|register: u8| {
        let mut out = [0; 48];
        out.copy_from_slice(digest(&SHA384, &[&code[..], &[register]].concat()).as_ref());
        out
    })
}

pub(crate) fn make(format: Format, pretence: &Pretence, chain: &Chain, asked: &[u8; 64]) -> Result<Vec<u8>, Trouble> {
    let sgx = format == Format::Sgx;
    let mut quote = Vec::with_capacity(5000);
    quote.extend(if sgx { 3_u16 } else { 4 }.to_le_bytes());
    quote.extend(2_u16.to_le_bytes());
    quote.extend(if sgx { 0_u32 } else { 0x81 }.to_le_bytes());
    quote.extend(QE_SVN.to_le_bytes());
    quote.extend(PCE_SVN.to_le_bytes());
    quote.extend(VENDOR);
    quote.extend([0; 20]);
    quote.extend(if sgx { enclave(pretence.debug, &pretence.code, &[0xa1; 32], 1, asked) } else { td(pretence, asked) });

    let signature = chain.attestation.sign(&quote)?;
    let key = chain.attestation.public();
    let auth_data = [0x51; 32];
    let mut bound = [0; 64];
    bound[..32].copy_from_slice(digest(&SHA256, &[&key[..], &auth_data].concat()).as_ref());
    let qe = enclave(false, &[0xe5; 32], &QE_SIGNER, QE_SVN, &bound);

    let mut certified = Vec::new();
    certified.extend_from_slice(&qe);
    certified.extend(chain.pck.sign(&qe)?);
    certified.extend((auth_data.len() as u16).to_le_bytes());
    certified.extend(auth_data);
    certified.extend(5_u16.to_le_bytes());
    certified.extend((chain.pck_chain.len() as u32).to_le_bytes());
    certified.extend(chain.pck_chain.as_bytes());

    let mut auth = Vec::new();
    auth.extend(signature);
    auth.extend(key);
    if !sgx {
        auth.extend(6_u16.to_le_bytes());
        auth.extend((certified.len() as u32).to_le_bytes());
    }
    auth.extend(certified);
    quote.extend((auth.len() as u32).to_le_bytes());
    quote.extend(auth);
    Ok(quote)
}

/// An enclave's report: 384 bytes.
fn enclave(debug: bool, code: &[u8; 32], signer: &[u8; 32], svn: u16, data: &[u8; 64]) -> Vec<u8> {
    let mut report = Vec::with_capacity(384);
    report.extend(CPU_SVN);
    report.extend([0; 32]);
    // Initialised, 64 bits; and the features that it may use.
    let mut attributes = [0; 16];
    attributes[0] = 0b101 | if debug { 0b10 } else { 0 };
    attributes[8] = 0b11;
    report.extend(attributes);
    report.extend(code);
    report.extend([0; 32]);
    report.extend(signer);
    report.extend([0; 96]);
    // The quoting enclave's product of TDX is 2, of SGX 1; the identity says which.
    report.extend(if signer == &QE_SIGNER { 2_u16 } else { 0 }.to_le_bytes());
    report.extend(svn.to_le_bytes());
    report.extend([0; 60]);
    report.extend(data);
    report
}

/// A TD's report: 584 bytes.
fn td(pretence: &Pretence, asked: &[u8; 64]) -> Vec<u8> {
    let mut report = Vec::with_capacity(584);
    report.extend(TEE_TCB_SVN);
    report.extend([0x5e; 48]);
    report.extend([0; 48]);
    report.extend([0; 8]);
    let mut attributes = SEPT_VE_DISABLE;
    if pretence.debug {
        attributes |= TD_DEBUG;
    }
    if pretence.migratable {
        attributes |= MIGRATABLE;
    }
    report.extend(attributes.to_le_bytes());
    report.extend(0xe7_u64.to_le_bytes());
    let [mrtd, rtmr @ ..] = registers(&pretence.code);
    report.extend(mrtd);
    report.extend([0; 3 * 48]);
    for register in rtmr {
        report.extend(register);
    }
    report.extend(asked);
    report
}
