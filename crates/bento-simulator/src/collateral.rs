//! What Intel would publish about this machine.

use std::time::Duration;

use bento_attest::Format;
use bento_attest::evidence::DcapCollateral;
use data_encoding::HEXUPPER;

use crate::certificates::{CPU_SVN, Chain, FMSPC, PCE_SVN};
use crate::quote::{QE_SIGNER, QE_SVN};
use crate::{Pretence, Trouble};

pub(crate) fn make(format: Format, chain: &Chain, pretence: &Pretence) -> Result<DcapCollateral, Trouble> {
    let tcb_info = levels(format, pretence);
    let qe_identity = identity(format, pretence);
    Ok(DcapCollateral {
        pck_crl_issuer_chain: chain.authority_chain.clone(),
        root_ca_crl: chain.root_crl.clone(),
        pck_crl: chain.pck_crl.clone(),
        tcb_info_issuer_chain: chain.signer_chain.clone(),
        tcb_info_signature: chain.signer.sign(tcb_info.as_bytes())?.to_vec(),
        tcb_info,
        qe_identity_issuer_chain: chain.signer_chain.clone(),
        qe_identity_signature: chain.signer.sign(qe_identity.as_bytes())?.to_vec(),
        qe_identity,
        pck_certificate_chain: None,
    })
}

/// One level, which this machine has exactly.
fn levels(format: Format, pretence: &Pretence) -> String {
    let components = |svn: [u8; 16]| format!("[{}]", svn.map(|svn| format!("{{\"svn\":{svn}}}")).join(","));
    let date = date(pretence.issued.saturating_sub(30 * 86_400));
    let state = format!("\"tcbDate\":\"{date}\",\"tcbStatus\":\"{}\"", pretence.state);
    let (id, module, tdx) = if format == Format::Sgx {
        ("SGX", String::new(), String::new())
    } else {
        let none = "0".repeat(96);
        let identity = format!("\"mrsigner\":\"{none}\",\"attributes\":\"0000000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFF\"");
        let module = format!(
            "\"tdxModule\":{{{identity}}},\"tdxModuleIdentities\":[{{\"id\":\"TDX_01\",{identity},\"tcbLevels\":[{{\"tcb\":{{\"isvsvn\":5}},\"tcbDate\":\"{date}\",\"tcbStatus\":\"UpToDate\"}}]}}],"
        );
        ("TDX", module, format!(",\"tdxtcbcomponents\":{}", components([5; 16])))
    };
    format!(
        "{{\"id\":\"{id}\",\"version\":3,{},\"fmspc\":\"{}\",\"pceId\":\"0000\",\"tcbType\":0,\"tcbEvaluationDataNumber\":{},{module}\"tcbLevels\":[{{\"tcb\":{{\"sgxtcbcomponents\":{},\"pcesvn\":{PCE_SVN}{tdx}}},{state}}}]}}",
        dates(pretence),
        HEXUPPER.encode(&FMSPC),
        pretence.evaluation,
        components(CPU_SVN),
    )
}

/// The enclave that signs quotes.
fn identity(format: Format, pretence: &Pretence) -> String {
    let id = if format == Format::Sgx { "QE" } else { "TD_QE" };
    format!(
        "{{\"id\":\"{id}\",\"version\":2,{},\"tcbEvaluationDataNumber\":{},\"miscselect\":\"00000000\",\"miscselectMask\":\"FFFFFFFF\",\"attributes\":\"05000000000000000300000000000000\",\"attributesMask\":\"FFFFFFFFFFFFFFFFFFFFFFFFFFFFFFFF\",\"mrsigner\":\"{}\",\"isvprodid\":2,\"tcbLevels\":[{{\"tcb\":{{\"isvsvn\":{QE_SVN}}},\"tcbDate\":\"{}\",\"tcbStatus\":\"UpToDate\"}}]}}",
        dates(pretence),
        pretence.evaluation,
        HEXUPPER.encode(&QE_SIGNER),
        date(pretence.issued.saturating_sub(30 * 86_400)),
    )
}

fn dates(pretence: &Pretence) -> String {
    format!("\"issueDate\":\"{}\",\"nextUpdate\":\"{}\"", date(pretence.issued), date(pretence.issued + 30 * 86_400))
}

/// `2026-11-28T00:08:15Z`
fn date(seconds: u64) -> String {
    let at = rcgen::date_time_ymd(1970, 1, 1) + Duration::from_secs(seconds);
    format!("{:04}-{:02}-{:02}T{:02}:{:02}:{:02}Z", at.year(), u8::from(at.month()), at.day(), at.hour(), at.minute(), at.second())
}
