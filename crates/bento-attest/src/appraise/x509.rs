//! Certificates and lists of revoked ones, as AMD makes them. Signatures are verified over the bytes that came, never over bytes that
//! were written anew from what was understood.

use der::asn1::{Any, BitStringRef, ObjectIdentifier};
use der::{Decode, Reader, SliceReader};
use ring::signature::{RSA_PSS_2048_8192_SHA384, UnparsedPublicKey};
use x509_cert::crl::CertificateList;
use x509_cert::ext::pkix::BasicConstraints;

use crate::refused::Refused;

const RSA_PSS: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.10");
const RSA: ObjectIdentifier = ObjectIdentifier::new_unwrap("1.2.840.113549.1.1.1");
const COMMON_NAME: ObjectIdentifier = ObjectIdentifier::new_unwrap("2.5.4.3");

/// What is signed, how, and the signature: the three parts of a certificate or a list.
struct Signed<'a> {
    body: &'a [u8],
    algorithm: ObjectIdentifier,
    signature: &'a [u8],
}

impl<'a> Signed<'a> {
    fn parse(der: &'a [u8]) -> Result<Self, der::Error> {
        let mut reader = SliceReader::new(der)?;
        let signed = reader.sequence(|inner| {
            let body = inner.tlv_bytes()?;
            let algorithm = inner.sequence(|parts| {
                let algorithm = ObjectIdentifier::decode(parts)?;
                while !parts.is_finished() {
                    Any::decode(parts)?;
                }
                Ok::<_, der::Error>(algorithm)
            })?;
            let signature = BitStringRef::decode(inner)?.as_bytes().ok_or_else(|| der::Tag::BitString.value_error())?;
            Ok::<_, der::Error>(Self { body, algorithm, signature })
        })?;
        reader.finish()?;
        Ok(signed)
    }
}

/// A certificate, with the bytes that it came in.
pub(super) struct Certificate<'a> {
    signed: Signed<'a>,
    parsed: x509_cert::Certificate,
}

impl<'a> Certificate<'a> {
    pub(super) fn parse(der: &'a [u8]) -> Result<Self, Refused> {
        let parsed = x509_cert::Certificate::from_der(der).map_err(Refused::chain)?;
        Ok(Self { signed: Signed::parse(der).map_err(Refused::chain)?, parsed })
    }

    /// Its subject's common name.
    pub(super) fn subject_name(&self) -> Option<String> {
        let subject = self.parsed.tbs_certificate().subject();
        let found = subject.iter().find(|attribute| attribute.oid == COMMON_NAME)?;
        std::str::from_utf8(found.value.value()).ok().map(str::to_owned)
    }

    pub(super) fn is_rsa(&self) -> bool {
        self.parsed.tbs_certificate().subject_public_key_info().algorithm.oid == RSA
    }

    /// The key, as its algorithm writes it.
    pub(super) fn key(&self) -> &[u8] {
        self.parsed.tbs_certificate().subject_public_key_info().subject_public_key.raw_bytes()
    }

    /// Whether it may sign certificates.
    fn is_authority(&self) -> bool {
        matches!(self.parsed.tbs_certificate().get_extension::<BasicConstraints>(), Ok(Some((_, constraints))) if constraints.ca)
    }

    /// The content of an extension that is there once.
    pub(super) fn extension(&self, id: ObjectIdentifier) -> Option<&[u8]> {
        let mut found = self.parsed.tbs_certificate().extensions()?.iter().filter(|extension| extension.extn_id == id);
        let only = found.next()?;
        if found.next().is_some() { None } else { Some(only.extn_value.as_bytes()) }
    }

    /// Whether it is valid now; until when.
    pub(super) fn valid(&self, what: &'static str, now: u64) -> Result<u64, Refused> {
        let validity = self.parsed.tbs_certificate().validity();
        if now < validity.not_before.to_unix_duration().as_secs() {
            return Err(Refused::Future(what));
        }
        let until = validity.not_after.to_unix_duration().as_secs();
        if now > until { Err(Refused::Expired(what)) } else { Ok(until) }
    }

    /// Whether this certificate signed that one.
    pub(super) fn signed(&self, other: &Certificate<'_>) -> bool {
        self.is_authority()
            && other.parsed.tbs_certificate().issuer() == self.parsed.tbs_certificate().subject()
            && other.parsed.tbs_certificate().signature() == other.parsed.signature_algorithm()
            && self.verifies(&other.signed)
    }

    fn verifies(&self, signed: &Signed<'_>) -> bool {
        self.is_rsa()
            && signed.algorithm == RSA_PSS
            && UnparsedPublicKey::new(&RSA_PSS_2048_8192_SHA384, self.key()).verify(signed.body, signed.signature).is_ok()
    }

    /// Looks in a list of this certificate's whether one of those was revoked; until when the list is valid.
    pub(super) fn revokes_none(&self, list: &[u8], others: &[(&'static str, &Certificate<'_>)], now: u64) -> Result<u64, Refused> {
        const WHAT: &str = "the list of revoked certificates";
        let signed = Signed::parse(list).map_err(Refused::chain)?;
        let parsed = CertificateList::<x509_cert::certificate::Rfc5280>::from_der(list).map_err(Refused::chain)?;
        let body = &parsed.tbs_cert_list;
        if body.issuer != *self.parsed.tbs_certificate().subject() || !self.verifies(&signed) {
            return Err(Refused::Chain("the list of revoked certificates is not the root's".into()));
        }
        if now < body.this_update.to_unix_duration().as_secs() {
            return Err(Refused::Future(WHAT));
        }
        // RFC 5280 demands it; a list without an end could be shown for ever.
        let until = body.next_update.ok_or(Refused::Expired(WHAT))?.to_unix_duration().as_secs();
        if now > until {
            return Err(Refused::Expired(WHAT));
        }
        for revoked in body.revoked_certificates.iter().flatten() {
            for (what, other) in others {
                if revoked.serial_number == *other.parsed.tbs_certificate().serial_number() {
                    return Err(Refused::Revoked(what));
                }
            }
        }
        Ok(until)
    }
}
