//! Gramine's pseudo-files in an SGX enclave.
//!
//! ```text
//! /dev/attestation/attestation_type   none, epid, dcap
//! /dev/attestation/user_report_data   write: the 64 bytes to sign
//! /dev/attestation/quote              read: the quote
//! ```

use super::{Files, NoEvidence, Source, checked, file, text};
use crate::kind::{Format, Kind};

pub(super) const DIRECTORY: &str = "/dev/attestation";

/// An enclave's evidence.
#[derive(Debug)]
pub struct Gramine<F> {
    files: F,
}

impl<F: Files> Gramine<F> {
    /// Looks whether this is an enclave that gives DCAP quotes.
    ///
    /// # Errors
    /// It is none, as without SGX, or gives others.
    pub fn open(mut files: F) -> Result<Self, NoEvidence> {
        let said = text(&files.read(&format!("{DIRECTORY}/attestation_type")).map_err(file("reading attestation_type"))?);
        match said.as_str() {
            "dcap" => Ok(Self { files }),
            "" | "none" => Err(NoEvidence::NoTee),
            _ => Err(NoEvidence::Unknown(said)),
        }
    }
}

impl<F: Files> Source for Gramine<F> {
    fn kind(&self) -> Kind {
        Kind::Hardware(Format::Sgx)
    }

    fn quote(&mut self, asked: &[u8; 64]) -> Result<Vec<u8>, NoEvidence> {
        // The enclave has these files once; `&mut self` keeps two requests apart, and the check what others in it write.
        self.files.write(&format!("{DIRECTORY}/user_report_data"), asked).map_err(file("writing user_report_data"))?;
        let quote = self.files.read(&format!("{DIRECTORY}/quote")).map_err(file("reading quote"))?;
        checked(self.kind(), quote, asked)
    }
}

#[cfg(test)]
mod tests {
    use super::super::fake::{FakeGramine, quote};
    use super::*;

    #[test]
    fn an_enclave_gets_a_quote_over_what_it_asked() {
        let fake = FakeGramine::new("dcap\n");
        let mut source = Gramine::open(fake.clone()).expect("an enclave");
        assert_eq!(source.kind(), Kind::Hardware(Format::Sgx));
        assert_eq!(source.quote(&[7; 64]).expect("a quote"), quote(Format::Sgx, &[7; 64]));
        fake.set(|state| state.others_write = Some([9; 64]));
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::NotAsked)));
    }

    #[test]
    fn without_sgx_there_is_no_tee_and_other_quotes_are_not_known() {
        for none in ["none\n", "", "\n"] {
            assert!(matches!(Gramine::open(FakeGramine::new(none)), Err(NoEvidence::NoTee)), "{none:?}");
        }
        assert!(matches!(Gramine::open(FakeGramine::new("epid\n")), Err(NoEvidence::Unknown(name)) if name == "epid"));
    }

    #[test]
    fn an_enclave_without_a_quoting_service_says_so() {
        let fake = FakeGramine::new("dcap\n");
        fake.set(|state| state.broken = true);
        let mut source = Gramine::open(fake).expect("an enclave");
        assert!(matches!(source.quote(&[7; 64]), Err(NoEvidence::File { doing: "reading quote", .. })));
    }
}
