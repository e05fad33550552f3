//! What Intel or AMD published about the machine of a conclave, which goes with its evidence: fetched for the operator, judged as clients will, and only
//! then written.
//!
//! It is a program of its own: `bentod` judges nobody's evidence, and what runs in a conclave has no need of the web. All of what comes is signed by the
//! machine's maker, so that TLS keeps from others who asks, and nothing else hangs on it.
#![forbid(unsafe_code)]

mod amd;
mod http;
mod intel;
mod keep;

use std::{path::PathBuf, time::Duration};

use bento_attest::{
    Assurance, Kind, Published, Refused, Roots,
    evidence::Collateral,
    measurements::Product,
    platform::{Platform, format},
};

pub use http::{Base, Getter};
pub use keep::{check_better, keep, kept};

/// Intel's service.
pub const INTEL: &str = "https://api.trustedservices.intel.com";

/// Where Intel has what its root revoked.
pub const INTEL_ROOT_CRL: &str = "https://certificates.trustedservices.intel.com/IntelSGXRootCA.der";

/// AMD's service.
pub const AMD: &str = "https://kdsintf.amd.com";

/// Whom to ask, and how.
#[derive(Clone, Debug)]
pub struct Sources {
    /// Intel's service, or a cache of it (PCCS).
    pub intel: Base,
    /// What Intel's root revoked, where that is not with the others.
    pub intel_root_crl: Option<Base>,
    /// AMD's service.
    pub amd: Base,
    /// The processor, for reports of AMD that do not say.
    pub product: Option<Product>,
    /// Go on where AMD's list of revoked certificates is not to be had. Clients accept that only where they say so.
    pub without_crl: bool,
}

/// Why there is no new collateral. What was there before stays.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum Trouble {
    /// An address that is none.
    #[error("`{0}` is no address of a service: https://HOST, or http:// with an address of this machine")]
    Address(String),
    /// The file with certificates that are trusted.
    #[error("reading the certificates in {path}: {text}")]
    Certificates {
        /// Which.
        path: PathBuf,
        /// Why.
        text: String,
    },
    /// It cannot be reached.
    #[error("{host} cannot be reached: {text}")]
    Unreachable {
        /// Who.
        host: String,
        /// Why.
        text: String,
    },
    /// It takes too long.
    #[error("{host} did not give {what} within {} s", wait.as_secs())]
    Late {
        /// Who.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// How long was waited.
        wait: Duration,
    },
    /// It sends us elsewhere.
    #[error("{host} says that {what} is elsewhere, at {to}, where nothing was asked for")]
    Elsewhere {
        /// Who.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// Where.
        to: String,
    },
    /// It does not have it.
    #[error("{host} does not have {what}: status {status}")]
    Status {
        /// Who.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// What it says.
        status: u16,
    },
    /// More came than it can be, or not all of it, or something else.
    #[error("what {host} gave as {what} is none: {text}")]
    Answer {
        /// Who.
        host: String,
        /// What was asked for.
        what: &'static str,
        /// What is wrong.
        text: String,
    },
    /// The quote, or the report.
    #[error("the quote cannot be used: {0}")]
    Quote(Refused),
    /// It does not say which processor it is of.
    #[error("the report does not say which processor it is of")]
    Product,
    /// No client would take it.
    #[error("what was fetched is not accepted: {0}")]
    Refused(Refused),
    /// It is not in force as long as what is there.
    #[error("what was fetched holds less long than what is there")]
    Older,
    /// What is there has AMD's list of revoked certificates.
    #[error("what is there has AMD's list of revoked certificates, which is in force, and the service gives none now")]
    NoList,
    /// A file.
    #[error("{doing} {path}: {source}")]
    File {
        /// What was being done.
        doing: &'static str,
        /// With which.
        path: PathBuf,
        /// Why it failed.
        source: std::io::Error,
    },
}

impl Trouble {
    /// What to try.
    pub fn hint(&self) -> &'static str {
        match self {
            Self::Address(_) => "for example `--intel https://pccs.example.org:8081`",
            Self::Certificates { .. } => {
                "give a file with certificates in PEM: `--certificates FILE`; on Debian: apt install ca-certificates"
            }
            Self::Unreachable { .. } | Self::Late { .. } => "try again later; the file stays as it was. `--wait` waits longer",
            Self::Elsewhere { .. } => "if you believe it, give that address: `--intel URL` or `--amd URL`",
            Self::Status { .. } | Self::Answer { .. } => {
                "is it the service's address, and does it know this machine? The file stays as it was"
            }
            Self::Quote(_) => "give a quote or report of this machine's conclave, as the hardware made it",
            Self::Product => "give it: `--product milan`, `genoa` or `turin`",
            Self::Refused(Refused::NoCrl) => "`--without-crl` goes on without, and clients then accept it only by their own word",
            Self::Refused(_) => {
                "look at this machine's clock; else the service has something old or another machine's. The file stays as it was"
            }
            Self::Older => "the service is behind: ask another one, or try again later. The file stays as it was",
            Self::NoList => "try again later; the file stays as it was",
            Self::File { .. } => "look at the path, and whether this user may write there",
        }
    }
}

/// Fetches what was published about the machine that made this quote or report, and judges it by these roots at this time (seconds since 1970).
///
/// # Errors
/// When it cannot be had, or no client would take it.
pub async fn fetch<A: Assurance>(
    getter: &Getter,
    sources: &Sources,
    roots: &Roots<A>,
    report: &[u8],
    now: u64,
) -> Result<(Collateral, Published), Trouble> {
    let format = format(report).ok_or_else(|| Trouble::Quote(bento_attest::Malformed::Unknown("the format of the report").into()))?;
    let kind: Kind = A::kind(format);
    let collateral = match Platform::of(report).map_err(Trouble::Quote)? {
        Platform::Dcap { fmspc, ca } => {
            let root_crl = sources.intel_root_crl.as_ref();
            Collateral::Dcap(Box::new(intel::fetch(getter, &sources.intel, root_crl, format, fmspc, ca).await?))
        }
        Platform::Snp { product, chip, tcb } => {
            let product = product.or(sources.product).ok_or(Trouble::Product)?;
            Collateral::Snp(amd::fetch(getter, &sources.amd, product, &chip, tcb, sources.without_crl).await?)
        }
    };
    // As it will travel: what is longer than a client reads is noticed here.
    let collateral = Collateral::from_bytes(&collateral.to_bytes()).map_err(|malformed| Trouble::Refused(malformed.into()))?;
    let published = roots.published(kind, report, &collateral, sources.without_crl, now).map_err(Trouble::Refused)?;
    Ok((collateral, published))
}
