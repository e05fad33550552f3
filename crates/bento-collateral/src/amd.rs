//! AMD's service of certificates (KDS).

use bento_attest::{
    evidence::{CHAIN_BYTES_MAX, CRL_BYTES_MAX, SnpCollateral},
    measurements::Product,
    platform::firmware,
};
use data_encoding::HEXLOWER;
use rustls::pki_types::{CertificateDer, pem::PemObject as _};

use crate::{Base, Getter, Trouble};

const CHAIN: &str = "AMD's signing keys";
const VCEK: &str = "the chip's certificate";
const CRL: &str = "the list of revoked certificates";

pub(crate) async fn fetch(
    getter: &Getter,
    base: &Base,
    product: Product,
    chip: &[u8],
    tcb: [u8; 8],
    without_crl: bool,
) -> Result<SnpCollateral, Trouble> {
    let place = format!("/vcek/v1/{}", product.name());
    let chain = getter.get(base, &format!("{place}/cert_chain"), CHAIN, 2 * CHAIN_BYTES_MAX).await?;
    // The signing key comes first, then the root, which is known.
    let first = CertificateDer::pem_slice_iter(&chain.body).next().and_then(Result::ok);
    let text = || Trouble::Answer { host: base.to_string(), what: CHAIN, text: "it has no certificate".into() };
    let ask = first.ok_or_else(text)?.to_vec();

    let has = firmware(tcb, product);
    let (chip, fmc) =
        if product == Product::Turin { (chip.get(..8).unwrap_or(chip), format!("fmcSPL={:02}&", has.fmc)) } else { (chip, String::new()) };
    let versions = format!("{fmc}blSPL={:02}&teeSPL={:02}&snpSPL={:02}&ucodeSPL={:02}", has.bootloader, has.tee, has.snp, has.microcode);
    let vcek = getter.get(base, &format!("{place}/{}?{versions}", HEXLOWER.encode(chip)), VCEK, CHAIN_BYTES_MAX).await?.body.to_vec();
    let crl = match getter.get(base, &format!("{place}/crl"), CRL, CRL_BYTES_MAX).await {
        Ok(got) => got.body.to_vec(),
        Err(Trouble::Status { .. }) if without_crl => Vec::new(),
        Err(trouble) => return Err(trouble),
    };
    Ok(SnpCollateral { ask, vcek, crl })
}
