//! The public directory in Tor's own words, for scripts that read it so. What is asked for is one of these, and no text of a function's.

use bento_tor::{ControlError, Fingerprint};

use super::{Broker, by_control};
use crate::link::CallError;

/// What can be asked for.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Directory {
    /// The version of the node's Tor.
    Version,
    /// What the consensus says of all relays.
    Statuses,
    /// Of one.
    Status(Fingerprint),
    /// All microdescriptors.
    Microdescriptors,
    /// That of one relay.
    Microdescriptor(Fingerprint),
}

impl Broker {
    /// A part of the directory; nothing, if Tor does not have it.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn directory(&self, what: Directory) -> Result<Option<String>, CallError> {
        let key = match what {
            Directory::Version => "version".to_owned(),
            Directory::Statuses => "ns/all".to_owned(),
            Directory::Status(relay) => format!("ns/id/{relay}"),
            Directory::Microdescriptors => "md/all".to_owned(),
            Directory::Microdescriptor(relay) => format!("md/id/{relay}"),
        };
        match self.tor.running()?.controller.get_info(&key).await {
            Ok(text) => Ok(Some(text)),
            Err(ControlError::Refused { code: 552, .. }) => Ok(None),
            Err(error) => Err(by_control(&error)),
        }
    }
}
