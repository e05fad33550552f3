//! Intel SGX and TDX. `dcap-qvl` follows the signatures; what is accepted of what they say is decided here.
//!
//! It verifies the quote's signed part alone: bytes behind it, and a root certificate that comes with the quote, may be anything. So
//! nothing here, and nothing that uses this crate, takes a digest of a quote for an identity.

use std::str::FromStr;

use data_encoding::HEXLOWER;
use dcap_qvl::quote::Report;
use dcap_qvl::verify::QuoteVerifier;
use dcap_qvl::{QeIdentity, QuoteClaims, QuoteCollateralV3, QuotePolicy, TcbInfo, TcbStatus};
use der::{DateTime, Decode};
use x509_cert::certificate::Rfc5280;
use x509_cert::crl::CertificateList;

use super::{Appraised, age};
use crate::evidence::DcapCollateral;
use crate::kind::Format;
use crate::measurements::Measured;
use crate::policy::Policy;
use crate::refused::Refused;

/// Intel SGX Root CA, as Intel publishes it. The library has the same bytes and does not hand them out.
pub(super) const INTEL_ROOT: &[u8] = include_bytes!("../../roots/intel-sgx-root-ca.der");

/// Attributes of an enclave: it may be debugged.
const SGX_DEBUG: u8 = 1 << 1;

/// Attributes of a TD: its host may debug or profile it.
const TDX_UNDER_DEBUG: u8 = 0xff;

pub(super) fn appraise(
    root: &[u8],
    format: Format,
    quote: &[u8],
    collateral: &DcapCollateral,
    policy: &Policy,
    now: u64,
) -> Result<(Appraised, Result<(), Refused>), Refused> {
    if debug(format, quote) {
        return Err(Refused::Debug);
    }
    // The claims are judged below, and not by the library's policy: that refuses genuine machines that are up to date.
    let claims = QuoteVerifier::new(root.to_vec())
        .verify_with_policy(quote, theirs(collateral), now, &QuotePolicy::claims_only(now))
        .map_err(|error| Refused::chain(format!("{error:#}")))?;
    let fresh = fresh(collateral, policy, now)?;
    let judged = judge(&claims, policy);

    let measured = match (&claims.report, format) {
        (Report::SgxEnclave(report), Format::Sgx) => Measured::Sgx { mrenclave: report.mr_enclave },
        (report, Format::Tdx) => {
            let td = report.as_td10().ok_or_else(|| Refused::Chain("the quote is of no TD".into()))?;
            Measured::Tdx { mrtd: td.mr_td, rtmr: [td.rt_mr0, td.rt_mr1, td.rt_mr2, td.rt_mr3] }
        }
        _ => return Err(Refused::Chain("the quote is of no enclave".into())),
    };
    let pck = &claims.platform.pck;
    let flag = |flag: dcap_qvl::PckCertFlag| match flag {
        dcap_qvl::PckCertFlag::True => "yes",
        dcap_qvl::PckCertFlag::False => "no",
        dcap_qvl::PckCertFlag::Undefined => "not said",
    };
    let facts = vec![
        ("processor", format!("Intel, family {}", HEXLOWER.encode(&pck.fmspc))),
        ("levels", format!("of {}, evaluation {}", claims.platform.tcb_level.tcb_date, claims.tcb.eval_data_number)),
        ("several processors", flag(pck.dynamic_platform).into()),
        ("keys kept by Intel", flag(pck.cached_keys).into()),
        ("two threads a core", flag(pck.smt_enabled).into()),
        ("revoked certificates", format!("none of these (lists {} and {})", claims.platform.root_ca_crl_num, claims.platform.pck_crl_num)),
    ];
    let (state, until) = (claims.tcb.status.to_string(), claims.earliest_expiration_date);
    Ok((Appraised { measured, state, advisories: claims.tcb.advisory_ids, facts, until, fresh: until.min(fresh) }, judged))
}

/// Looked at before the signature, for an error with its own name; the library refuses it as well.
fn debug(format: Format, quote: &[u8]) -> bool {
    let version = quote.first().copied().unwrap_or_default();
    let (begin, mask) = match (format, version) {
        (Format::Sgx, _) => (48 + 48, SGX_DEBUG),
        (_, 5) => (48 + 6 + 120, TDX_UNDER_DEBUG),
        _ => (48 + 120, TDX_UNDER_DEBUG),
    };
    quote.get(begin).is_some_and(|byte| byte & mask != 0)
}

fn judge(claims: &QuoteClaims, policy: &Policy) -> Result<(), Refused> {
    let accepted = match claims.tcb.status {
        TcbStatus::UpToDate => true,
        TcbStatus::SWHardeningNeeded => policy.hardening_needed,
        TcbStatus::ConfigurationNeeded => policy.configuration_needed,
        TcbStatus::ConfigurationAndSWHardeningNeeded => policy.hardening_needed && policy.configuration_needed,
        // A TD that was started on a machine out of date may have been looked into then.
        TcbStatus::OutOfDate
        | TcbStatus::OutOfDateConfigurationNeeded
        | TcbStatus::Revoked
        | TcbStatus::TDRelaunchAdvised
        | TcbStatus::TDRelaunchAdvisedConfigurationNeeded => false,
    };
    if !accepted {
        return Err(Refused::Tcb { status: claims.tcb.status.to_string(), advisories: claims.tcb.advisory_ids.clone() });
    }
    let least = policy.measurements.evaluation();
    if claims.tcb.eval_data_number < least {
        return Err(Refused::Old { what: "list of levels", is: claims.tcb.eval_data_number, least });
    }
    // "Dynamic platform" (several processors share a key) and "cached keys" (Intel keeps what could make it anew) are how machines with
    // more than one processor are registered; genuine ones that are up to date have them. They are shown, and decide nothing.
    if claims.platform.pck.smt_enabled == dcap_qvl::PckCertFlag::True && !policy.threads {
        return Err(Refused::Machine("runs two threads on a core"));
    }
    Ok(())
}

/// Intel signs collateral for 30 days. A node that shows it late hides what became known meanwhile. How long it is young enough.
fn fresh(collateral: &DcapCollateral, policy: &Policy, now: u64) -> Result<u64, Refused> {
    let date = |text: &str| Ok::<_, Refused>(DateTime::from_str(text).map_err(Refused::chain)?.unix_duration().as_secs());
    let info: TcbInfo = serde_json::from_str(&collateral.tcb_info).map_err(Refused::chain)?;
    let levels = age("the list of levels", date(&info.issue_date)?, policy, now)?;
    let identity: QeIdentity = serde_json::from_str(&collateral.qe_identity).map_err(Refused::chain)?;
    let enclave = age("the quoting enclave's identity", date(&identity.issue_date)?, policy, now)?;
    // The root's own list is made once a year, and valid as long.
    let revoked = CertificateList::<Rfc5280>::from_der(&collateral.pck_crl).map_err(Refused::chain)?;
    let revoked = age("the list of revoked certificates", revoked.tbs_cert_list.this_update.to_unix_duration().as_secs(), policy, now)?;
    Ok(levels.min(enclave).min(revoked))
}

fn theirs(ours: &DcapCollateral) -> QuoteCollateralV3 {
    QuoteCollateralV3 {
        pck_crl_issuer_chain: ours.pck_crl_issuer_chain.clone(),
        root_ca_crl: ours.root_ca_crl.clone(),
        pck_crl: ours.pck_crl.clone(),
        tcb_info_issuer_chain: ours.tcb_info_issuer_chain.clone(),
        tcb_info: ours.tcb_info.clone(),
        tcb_info_signature: ours.tcb_info_signature.clone(),
        qe_identity_issuer_chain: ours.qe_identity_issuer_chain.clone(),
        qe_identity: ours.qe_identity.clone(),
        qe_identity_signature: ours.qe_identity_signature.clone(),
        pck_certificate_chain: ours.pck_certificate_chain.clone(),
    }
}
