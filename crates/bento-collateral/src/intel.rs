//! Intel's certification service, version 4, or a cache of it in front (PCCS).

use bento_attest::{
    Format,
    evidence::{CHAIN_BYTES_MAX, CRL_BYTES_MAX, DcapCollateral, TEXT_BYTES_MAX},
};
use data_encoding::{HEXLOWER_PERMISSIVE, HEXUPPER};
use hyper::HeaderMap;
use serde::Deserialize;
use serde_json::value::RawValue;

use crate::{
    Base, Getter, Trouble,
    http::{Got, line},
};

/// What is signed, as it is written, beside its signature: `{"tcbInfo":{…},"signature":"…"}`.
#[derive(Deserialize)]
struct Signed<'a> {
    #[serde(borrow, alias = "tcbInfo", alias = "enclaveIdentity")]
    signed: &'a RawValue,
    signature: String,
}

const CRL: &str = "the list of revoked certificates";
const ROOT_CRL: &str = "what Intel's root revoked";
const LEVELS: &str = "the list of levels";
const IDENTITY: &str = "the quoting enclave's identity";

pub(crate) async fn fetch(
    getter: &Getter,
    base: &Base,
    root_crl: Option<&Base>,
    format: Format,
    fmspc: [u8; 6],
    ca: &str,
) -> Result<DcapCollateral, Trouble> {
    let tee = if format == Format::Sgx { "sgx" } else { "tdx" };
    let crl = getter.get(base, &format!("/sgx/certification/v4/pckcrl?ca={ca}&encoding=der"), CRL, 2 * CRL_BYTES_MAX).await?;
    let root = match root_crl {
        Some(place) => getter.get(place, "", ROOT_CRL, 2 * CRL_BYTES_MAX).await?,
        None => getter.get(base, "/sgx/certification/v4/rootcacrl", ROOT_CRL, 2 * CRL_BYTES_MAX).await?,
    };
    let levels = format!("/{tee}/certification/v4/tcb?fmspc={}", HEXUPPER.encode(&fmspc));
    let levels = getter.get(base, &levels, LEVELS, TEXT_BYTES_MAX).await?;
    let identity = getter.get(base, &format!("/{tee}/certification/v4/qe/identity"), IDENTITY, TEXT_BYTES_MAX).await?;

    let (tcb_info, tcb_info_signature) = signed(base, LEVELS, &levels)?;
    let (qe_identity, qe_identity_signature) = signed(base, IDENTITY, &identity)?;
    Ok(DcapCollateral {
        pck_crl_issuer_chain: chain(base, CRL, &crl.headers, &["SGX-PCK-CRL-Issuer-Chain"])?,
        root_ca_crl: der(root_crl.unwrap_or(base), ROOT_CRL, &root.body)?,
        pck_crl: der(base, CRL, &crl.body)?,
        tcb_info_issuer_chain: chain(base, LEVELS, &levels.headers, &["TCB-Info-Issuer-Chain", "SGX-TCB-Info-Issuer-Chain"])?,
        tcb_info,
        tcb_info_signature,
        qe_identity_issuer_chain: chain(base, IDENTITY, &identity.headers, &["SGX-Enclave-Identity-Issuer-Chain"])?,
        qe_identity,
        qe_identity_signature,
        // The quote has it.
        pck_certificate_chain: None,
    })
}

fn wrong(base: &Base, what: &'static str, text: &str) -> Trouble {
    Trouble::Answer { host: base.to_string(), what, text: line(text) }
}

/// The bytes that are signed are those that came, and not what would be written anew of them.
fn signed(base: &Base, what: &'static str, got: &Got) -> Result<(String, Vec<u8>), Trouble> {
    let found: Signed<'_> = serde_json::from_slice(&got.body).map_err(|error| wrong(base, what, &error.to_string()))?;
    let signature = HEXLOWER_PERMISSIVE.decode(found.signature.as_bytes()).ok().filter(|signature| signature.len() == 64);
    let signature = signature.ok_or_else(|| wrong(base, what, "it has no signature"))?;
    Ok((found.signed.get().to_owned(), signature))
}

/// Intel has DER, a cache hexadecimal digits of it. The first begins with a zero, the others with a three.
fn der(base: &Base, what: &'static str, body: &[u8]) -> Result<Vec<u8>, Trouble> {
    if body.first() == Some(&0x30) {
        return Ok(body.to_vec());
    }
    HEXLOWER_PERMISSIVE.decode(body.trim_ascii()).map_err(|_| wrong(base, what, "it is neither DER nor hexadecimal digits"))
}

/// A chain of certificates in PEM, written as part of an address is.
fn chain(base: &Base, what: &'static str, headers: &HeaderMap, names: &[&str]) -> Result<String, Trouble> {
    let found = names.iter().find_map(|name| headers.get(*name)).ok_or_else(|| wrong(base, what, "it came without who signed it"))?;
    let text = decoded(found.as_bytes()).filter(|text| text.len() <= CHAIN_BYTES_MAX);
    text.ok_or_else(|| wrong(base, what, "who signed it cannot be read"))
}

/// `-----BEGIN%20CERTIFICATE-----%0AMII…`
fn decoded(text: &[u8]) -> Option<String> {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.iter();
    while let Some(byte) = rest.next() {
        match byte {
            b'%' => {
                let digit = |byte: &u8| char::from(*byte).to_digit(16);
                let (high, low) = (digit(rest.next()?)?, digit(rest.next()?)?);
                out.push(u8::try_from(high << 4 | low).ok()?);
            }
            other => out.push(*other),
        }
    }
    String::from_utf8(out).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_as_part_of_an_address_is_read() {
        assert_eq!(decoded(b"-----BEGIN%20CERTIFICATE-----%0AMI%2Bx%2f").as_deref(), Some("-----BEGIN CERTIFICATE-----\nMI+x/"));
        for wrong in [&b"%"[..], b"%4", b"%4x", b"%ff"] {
            assert_eq!(decoded(wrong), None);
        }
    }
}
