//! What evidence can be of, and what it is worth.
//!
//! Hardware and simulator are two types, so that one cannot be taken for the other by forgetting to look.

use std::fmt;
use std::hash::Hash;

/// The format of evidence, with the name of who made it.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Format {
    /// A quote of Intel SGX (DCAP), version 3.
    Sgx,
    /// A quote of Intel TDX, version 4 or 5.
    Tdx,
    /// A report of AMD SEV-SNP.
    Snp,
}

/// What evidence is: a format, and whether hardware stands behind it. One byte on the wire.
#[derive(Clone, Copy, Debug, Eq, Hash, Ord, PartialEq, PartialOrd)]
pub enum Kind {
    /// Signed by a key that its maker put into a processor.
    Hardware(Format),
    /// The same format, signed by a simulator. It protects from nobody.
    Simulated(Format),
}

/// The bit of a simulator's kinds.
const SIMULATED: u8 = 0x80;

impl Kind {
    /// Every kind there is.
    pub const ALL: [Kind; 6] = [
        Kind::Hardware(Format::Tdx),
        Kind::Hardware(Format::Snp),
        Kind::Hardware(Format::Sgx),
        Kind::Simulated(Format::Tdx),
        Kind::Simulated(Format::Snp),
        Kind::Simulated(Format::Sgx),
    ];

    /// Its format.
    pub fn format(self) -> Format {
        match self {
            Self::Hardware(format) | Self::Simulated(format) => format,
        }
    }

    /// Whether a simulator made it.
    pub fn is_simulated(self) -> bool {
        matches!(self, Self::Simulated(_))
    }

    /// Its byte on the wire.
    pub fn byte(self) -> u8 {
        let format = match self.format() {
            Format::Sgx => 1,
            Format::Tdx => 2,
            Format::Snp => 3,
        };
        if self.is_simulated() { format | SIMULATED } else { format }
    }

    /// The kind of a byte, if there is one.
    pub fn from_byte(byte: u8) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.byte() == byte)
    }

    /// Its name, as in a node's description and in a file of measurements.
    pub fn name(self) -> &'static str {
        match self {
            Self::Hardware(Format::Sgx) => "sgx",
            Self::Hardware(Format::Tdx) => "tdx",
            Self::Hardware(Format::Snp) => "snp",
            Self::Simulated(Format::Sgx) => "simulated-sgx",
            Self::Simulated(Format::Tdx) => "simulated-tdx",
            Self::Simulated(Format::Snp) => "simulated-snp",
        }
    }

    /// The kind of a name, if there is one.
    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|kind| kind.name() == name)
    }

    /// What the channel is bound to, so that a handshake fails across assurances.
    pub(crate) fn label(self) -> &'static [u8] {
        if self.is_simulated() { Simulated::LABEL } else { Hardware::LABEL }
    }
}

impl fmt::Display for Kind {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.name())
    }
}

mod sealed {
    pub trait Sealed {}
}

/// What evidence is worth: [`Hardware`] or [`Simulated`], and nothing else.
pub trait Assurance: sealed::Sealed + Copy + fmt::Debug + Eq + Send + Sync + 'static {
    /// The channel's label.
    #[doc(hidden)]
    const LABEL: &'static [u8];

    /// The kind of this assurance with that format.
    fn kind(format: Format) -> Kind;
}

/// A processor's maker vouches for the key that signed.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Hardware {}

/// A simulator signed: everything is as it would be, and nobody is protected.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Simulated {}

impl sealed::Sealed for Hardware {}
impl sealed::Sealed for Simulated {}

impl Assurance for Hardware {
    const LABEL: &'static [u8] = b"bento conclave 1, hardware";

    fn kind(format: Format) -> Kind {
        Kind::Hardware(format)
    }
}

impl Assurance for Simulated {
    const LABEL: &'static [u8] = b"bento conclave 1, SIMULATED";

    fn kind(format: Format) -> Kind {
        Kind::Simulated(format)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kind_is_the_same_after_its_byte_and_its_name_and_no_byte_is_two_kinds() {
        for kind in Kind::ALL {
            assert_eq!(Kind::from_byte(kind.byte()), Some(kind));
            assert_eq!(Kind::from_name(kind.name()), Some(kind));
        }
        let known = (0..=255).filter(|byte| Kind::from_byte(*byte).is_some()).count();
        assert_eq!(known, Kind::ALL.len());
        assert_eq!(Kind::from_name("none"), None);
    }

    #[test]
    fn a_simulators_kinds_have_names_and_labels_of_their_own() {
        for kind in Kind::ALL {
            assert_eq!(kind.is_simulated(), kind.name().starts_with("simulated"));
            assert_eq!(kind.is_simulated(), kind.byte() & SIMULATED != 0);
            assert_eq!(kind.is_simulated(), kind.label() == Simulated::LABEL);
        }
        assert_ne!(Hardware::LABEL, Simulated::LABEL);
    }
}
