//! What can be wrong.

/// Why there is no descriptor.
#[derive(Clone, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum FrontError {
    /// Not an address of an onion service of version 3.
    #[error("this is not the address of an onion service of version 3")]
    Address,
    /// Not a key as Tor writes it.
    #[error("this is not the key of an onion service: `ED25519-V3:` and 64 bytes in base64, as ADD_ONION gives it")]
    Key,
    /// Not a client's public key.
    #[error("this is not a client's key: `descriptor:x25519:` and 32 bytes in base32, as in Tor's directory authorized_clients")]
    ClientKey,
    /// The consensus or what belongs to it cannot be used.
    #[error("the consensus cannot be used: {0}")]
    Consensus(String),
    /// A backend's descriptor cannot be used.
    #[error("the backend's descriptor cannot be used: {0}")]
    Backend(String),
    /// Nothing would be in the descriptor.
    #[error("no backend has an introduction point to give")]
    NoIntroductionPoints,
    /// There is no hash ring for this period.
    #[error("the consensus has no hash ring for this period")]
    Period,
    /// The descriptor could not be made.
    #[error("the front's descriptor cannot be made: {0}")]
    Build(String),
}
