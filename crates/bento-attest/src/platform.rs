//! Which machine made a quote, as far as its maker must be told to find what it published about it.
//!
//! Nothing is verified here: who asks for the wrong machine's collateral gets what does not fit, and that is noticed.

use dcap_qvl::{intel, quote::Quote};

use crate::{
    kind::Format,
    measurements::{Product, SnpTcb},
    refused::Refused,
    report::{SNP_BYTES, report_data},
    wire::Malformed,
};

/// A machine, in its maker's terms.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Platform {
    /// Of Intel.
    Dcap {
        /// Family, model, stepping, platform and what is particular about it.
        fmspc: [u8; 6],
        /// The authority of its PCK certificate: `processor` or `platform`.
        ca: &'static str,
    },
    /// Of AMD.
    Snp {
        /// Its processor, where the report says so: those of versions 1 and 2 do not.
        product: Option<Product>,
        /// The chip.
        chip: Vec<u8>,
        /// The eight bytes of the firmware that its key is for.
        tcb: [u8; 8],
    },
}

/// The format of a quote or report, by itself.
pub fn format(report: &[u8]) -> Option<Format> {
    [Format::Snp, Format::Sgx, Format::Tdx].into_iter().find(|format| report_data(*format, report).is_some())
}

impl Platform {
    /// The machine that made this.
    ///
    /// # Errors
    /// It cannot be read, or does not say.
    pub fn of(report: &[u8]) -> Result<Self, Refused> {
        let unknown = || Refused::from(Malformed::Unknown("the format of the report"));
        if format(report).ok_or_else(unknown)? == Format::Snp {
            let report: &[u8; SNP_BYTES] = report.try_into().map_err(|_| unknown())?;
            return Self::snp(report);
        }
        let quote = Quote::parse(report).map_err(|error| Refused::chain(format!("{error:#}")))?;
        let chain = intel::extract_cert_chain(&quote).map_err(|error| Refused::chain(format!("{error:#}")))?;
        let leaf = chain.first().ok_or_else(|| Refused::chain("the quote has no certificate of its machine"))?;
        let found = intel::parse_pck_extension(leaf).map_err(|error| Refused::chain(format!("{error:#}")))?;
        let ca = intel::pck_ca(leaf).map_err(|error| Refused::chain(format!("{error:#}")))?;
        Ok(Self::Dcap { fmspc: found.fmspc, ca: ca.as_id_str() })
    }

    /// ```text
    /// 0x000 version    0x180 reported TCB    0x188 family    0x189 model    0x1a0 chip id
    /// ```
    fn snp(report: &[u8; SNP_BYTES]) -> Result<Self, Refused> {
        let version = u32::from_le_bytes([report[0], report[1], report[2], report[3]]);
        let product = match (version, report[0x188], report[0x189]) {
            (0..=2, ..) => None,
            (_, 0x19, 0x00..=0x0f) => Some(Product::Milan),
            (_, 0x19, 0x10..=0x1f | 0xa0..=0xaf) => Some(Product::Genoa),
            (_, 0x1a, 0x00..=0x11) => Some(Product::Turin),
            (_, family, model) => {
                return Err(Refused::Chain(format!("its processor is not known here: family {family:#x}, model {model:#x}")));
            }
        };
        let chip = &report[0x1a0..0x1e0];
        if chip.iter().all(|byte| *byte == 0) {
            return Err(Refused::Chip);
        }
        let mut tcb = [0; 8];
        tcb.copy_from_slice(&report[0x180..0x188]);
        Ok(Self::Snp { product, chip: chip.to_vec(), tcb })
    }
}

/// The parts of AMD's eight bytes.
pub fn firmware(tcb: [u8; 8], product: Product) -> SnpTcb {
    if product == Product::Turin {
        let [fmc, bootloader, tee, snp, _, _, _, microcode] = tcb;
        SnpTcb { fmc, bootloader, tee, snp, microcode }
    } else {
        let [bootloader, tee, _, _, _, _, snp, microcode] = tcb;
        SnpTcb { fmc: 0, bootloader, tee, snp, microcode }
    }
}
