//! A simulator of hardware: quotes in the real formats of Intel TDX and SGX, under a root that it makes anew each time.
//!
//! It protects from nobody: whoever runs it can have it sign anything. It is a crate of its own, which no program of a release uses
//! (`./check boundaries`); its evidence has a kind of its own, and a client must be given its root by hand.

#![forbid(unsafe_code)]

mod certificates;
mod collateral;
mod quote;

use bento_attest::evidence::{Collateral, DcapCollateral};
use bento_attest::source::{NoEvidence, Source};
use bento_attest::{Format, Kind};
use data_encoding::HEXLOWER;
use thiserror::Error;

use self::certificates::Chain;

/// In every root of a simulator, and in nothing that is released.
pub const ROOT_NAME: &str = "Bento development root, neither Intel's nor AMD's";

/// What it pretends to be. The default is a machine and a conclave that a strict policy accepts; tests change one thing at a time.
#[derive(Clone, Debug)]
pub struct Pretence {
    /// What was measured: the enclave, or the virtual machine. The registers follow from it.
    pub code: [u8; 32],
    /// Whether the host may debug it.
    pub debug: bool,
    /// Whether it may be moved to another machine.
    pub migratable: bool,
    /// The machine's state.
    pub state: &'static str,
    /// When the collateral was signed, in seconds since 1970.
    pub issued: u64,
    /// When the lists of revoked certificates were.
    pub lists_issued: u64,
    /// Whether the machine's certificate is in the list of revoked ones.
    pub revoked: bool,
    /// Whether Intel's signing certificate for levels is.
    pub signer_revoked: bool,
    /// Intel's count of its lists of levels.
    pub evaluation: u32,
}

/// The simulator failed.
#[derive(Debug, Error)]
pub enum Trouble {
    /// A certificate could not be made.
    #[error("making a certificate of the simulator")]
    Certificate(#[from] rcgen::Error),
    /// A key could not be made or used.
    #[error("the simulator's keys do not work")]
    Key,
}

/// A machine that is none.
pub struct Simulator {
    format: Format,
    pretence: Pretence,
    chain: Chain,
    collateral: DcapCollateral,
}

impl Pretence {
    /// A strict policy accepts this, of a machine whose collateral was signed now.
    pub fn good(now: u64) -> Self {
        Self {
            code: [0xc0; 32],
            debug: false,
            migratable: false,
            state: "UpToDate",
            issued: now,
            lists_issued: now,
            revoked: false,
            signer_revoked: false,
            evaluation: 20,
        }
    }
}

impl Simulator {
    /// A new machine, with a root of its own. There is no simulator of SEV-SNP: it gets TDX.
    ///
    /// # Errors
    /// Keys or certificates could not be made.
    pub fn new(format: Format, pretence: Pretence) -> Result<Self, Trouble> {
        let format = if format == Format::Sgx { Format::Sgx } else { Format::Tdx };
        let chain = Chain::new(&pretence)?;
        let collateral = collateral::make(format, &chain, &pretence)?;
        Ok(Self { format, pretence, chain, collateral })
    }

    /// Its root (DER), which a client must be given by hand.
    pub fn root(&self) -> &[u8] {
        &self.chain.root
    }

    /// What a node would have from the vendor.
    pub fn collateral(&self) -> Collateral {
        Collateral::Dcap(Box::new(self.collateral.clone()))
    }

    /// A list of measurements that names what it pretends to run, and nothing else. It can be used without a signature, for simulators only.
    pub fn measurements(&self) -> String {
        let hex = |bytes: &[u8]| HEXLOWER.encode(bytes);
        let line = match self.format {
            Format::Sgx => format!("mrenclave = \"{}\"", hex(&self.pretence.code)),
            _ => {
                let [mrtd, rtmr @ ..] = quote::registers(&self.pretence.code);
                let rtmr: Vec<_> = rtmr.iter().map(|register| format!("\"{}\"", hex(register))).collect();
                format!("mrtd = \"{}\"\nrtmr = [{}]", hex(&mrtd), rtmr.join(", "))
            }
        };
        format!(
            "version = 1\nexpires = {}\n[[measurement]]\nname = \"simulated\"\nkind = \"{}\"\n{line}\n",
            self.pretence.issued + 365 * 86_400,
            self.kind()
        )
    }

    /// From now on the same machine runs something else.
    pub fn run(&mut self, code: [u8; 32], debug: bool) {
        (self.pretence.code, self.pretence.debug) = (code, debug);
    }

    /// A quote over these 64 bytes, whatever they are.
    ///
    /// # Errors
    /// Its keys do not work.
    pub fn sign(&self, asked: &[u8; 64]) -> Result<Vec<u8>, Trouble> {
        quote::make(self.format, &self.pretence, &self.chain, asked)
    }
}

impl Source for Simulator {
    fn kind(&self) -> Kind {
        Kind::Simulated(self.format)
    }

    fn quote(&mut self, asked: &[u8; 64]) -> Result<Vec<u8>, NoEvidence> {
        self.sign(asked).map_err(|trouble| NoEvidence::Unknown(trouble.to_string()))
    }
}
