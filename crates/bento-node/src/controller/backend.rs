//! What the front asks for: the broker's calls for one function, and the grant before them.

use std::future::Future;

use tokio::{net::UnixStream, sync::mpsc};

use super::command::Router;
use crate::{egress::Stream, link::CallError};

/// A client of an onion service, and the port at which it came.
pub type Client = (u16, Box<dyn Stream>);

/// Tor, as far as it is one function's. Every fingerprint is 40 hexadecimal digits in upper case, every address 56 characters without `.onion`.
pub trait Backend: Send + Sync + 'static {
    /// Does the grant cover this call?
    ///
    /// # Errors
    /// With what is missing.
    fn permits(&self, call: &'static str) -> Result<(), CallError>;

    /// Copies between the function's end of a stream and the far one until both have ended, counted and slowed.
    fn join(&self, function: UnixStream, far: Box<dyn Stream>) -> impl Future<Output = ()> + Send;

    /// Bytes of all its streams so far: to the function, and from it.
    fn traffic(&self) -> (u64, u64);

    /// Waits as long as so many bytes take at the function's rate.
    fn slow(&self, bytes: usize) -> impl Future<Output = ()> + Send;

    /// The version of the node's `tor`; an error if none runs.
    fn version(&self) -> impl Future<Output = Result<String, CallError>> + Send;

    /// A relay of the consensus, if it is there. Of several with one nickname it is none, as with Tor.
    fn relay(&self, router: &Router) -> impl Future<Output = Result<Option<Relay>, CallError>> + Send;

    /// The entries of the consensus, of all relays or of one: `r`, `s` and `w` lines (dir-spec). Nothing, if it is not there.
    fn status(&self, relay: Option<&Relay>) -> impl Future<Output = Result<Option<String>, CallError>> + Send;

    /// All microdescriptors, or that of one relay, if it is there.
    fn microdescriptor(&self, relay: Option<&Relay>) -> impl Future<Output = Result<Option<String>, CallError>> + Send;

    /// When the consensus becomes valid, stops being fresh, and ends, in seconds since 1970.
    fn consensus(&self) -> impl Future<Output = Result<[u64; 3], CallError>> + Send;

    /// Begins a circuit whose relays the node chooses, and gives its number. What becomes of it is told.
    fn circuit(&self) -> impl Future<Output = Result<u64, CallError>> + Send;

    /// Begins a circuit through these relays.
    fn path(&self, relays: &[String]) -> impl Future<Output = Result<u64, CallError>> + Send;

    /// Begins to make a circuit longer by these relays.
    fn extend(&self, circuit: u64, relays: &[String]) -> impl Future<Output = Result<(), CallError>> + Send;

    /// Closes a circuit; one that is closed stays so.
    fn close_circuit(&self, circuit: u64) -> impl Future<Output = ()> + Send;

    /// A stream on a circuit.
    fn circuit_connect(&self, circuit: u64, host: &str, port: u16) -> impl Future<Output = Result<Box<dyn Stream>, CallError>> + Send;

    /// A stream on a circuit that Tor chooses, which it shares with those of the same isolation alone.
    fn connect(&self, host: &str, port: u16, isolation: &str) -> impl Future<Output = Result<Box<dyn Stream>, CallError>> + Send;

    /// A new onion service at these ports. It need not be published yet.
    fn onion_service(
        &self,
        ports: &[u16],
        key: Option<&str>,
        max_streams: Option<u16>,
    ) -> impl Future<Output = Result<Service, CallError>> + Send;

    /// The next client of an onion service and its port, if one comes in time.
    ///
    /// # Errors
    /// When the service is closed.
    fn accept(&self, service: u64) -> impl Future<Output = Result<Option<Client>, CallError>> + Send;

    /// Ends an onion service.
    fn close_service(&self, service: u64) -> impl Future<Output = ()> + Send;

    /// The descriptor of an onion service, and the directory that it is from.
    fn descriptor(&self, address: &str, servers: &[String]) -> impl Future<Output = Result<(String, String), CallError>> + Send;

    /// Gives a descriptor to directories: each with the reason for which it did not take it, if it did not.
    fn publish(
        &self,
        address: &str,
        servers: &[String],
        descriptor: &str,
    ) -> impl Future<Output = Result<Vec<(String, Option<String>)>, CallError>> + Send;

    /// What happens to the function's circuits and onion services from now on.
    fn happenings(&self) -> mpsc::Receiver<Happening>;
}

/// A relay.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Relay {
    /// Its fingerprint.
    pub fingerprint: String,
    /// The name that it gives itself.
    pub nickname: String,
}

impl std::fmt::Display for Relay {
    /// `$FINGERPRINT~nickname`.
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(out, "${}~{}", self.fingerprint, self.nickname)
    }
}

/// An onion service that was made.
#[derive(Clone)]
pub struct Service {
    /// The broker's number for it.
    pub number: u64,
    /// Its address.
    pub address: String,
    /// Its key, `ED25519-V3:` and base64.
    pub key: String,
}

/// A key must not end in a log by way of `{:?}`.
impl std::fmt::Debug for Service {
    fn fmt(&self, out: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        out.debug_struct("Service").field("number", &self.number).finish_non_exhaustive()
    }
}

/// What the broker tells.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Happening {
    /// To a circuit, by its number.
    Circuit(u64, Change),
    /// A directory has stored the descriptor of a service, or has not and why.
    Uploaded {
        /// The service's number.
        service: u64,
        /// The directory's fingerprint, where it is known.
        directory: Option<String>,
        /// Why not.
        failed: Option<String>,
    },
}

/// What has become of a circuit.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Change {
    /// `LAUNCHED`, `EXTENDED`, `BUILT`, `FAILED` or `CLOSED`.
    pub status: &'static str,
    /// `$FINGERPRINT~nickname` of its relays so far, with commas between.
    pub path: String,
    /// Why it ended, in Tor's word.
    pub reason: Option<String>,
}
