//! Where a quote or a report has the 64 bytes that its conclave asked for.

use crate::kind::Format;

/// Header of a DCAP quote.
const QUOTE_HEADER: usize = 48;

/// In version 5, the type and the length of the body follow the header.
const BODY_HEADER: usize = 6;

/// Length of a report of SEV-SNP.
pub(crate) const SNP_BYTES: usize = 0x4a0;

/// The report data, if this is of that format and long enough to have one. Nothing is verified.
pub fn report_data(format: Format, report: &[u8]) -> Option<[u8; 64]> {
    let version = u16::from_le_bytes(*report.first_chunk()?);
    let tee = u32::from_le_bytes(*report.get(4..)?.first_chunk()?);
    let begin = match (format, version) {
        (Format::Sgx, 3) if tee == 0 => QUOTE_HEADER + 320,
        (Format::Tdx, 4) if tee == 0x81 => QUOTE_HEADER + 520,
        (Format::Tdx, 5) if tee == 0x81 => QUOTE_HEADER + BODY_HEADER + 520,
        (Format::Snp, 2..=5) if report.len() == SNP_BYTES => 0x50,
        _ => return None,
    };
    report.get(begin..)?.first_chunk().copied()
}
