//! Descriptors of onion services as text: fetched from directories, and given to them.
//!
//! Directories are named one by one. Left to choose, Tor asks none a second time within a quarter of an hour, and gives a descriptor to those of
//! one period only. What a descriptor says is not looked at here.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ControlError, Controller, Descriptor, DescriptorContent, Event, Events, Fingerprint, Step};

/// Directories that are spoken to at the same time. More would be as many new circuits through the guard at once.
const AT_ONCE: usize = 4;

/// The word for a directory that this Tor does not know, or no longer.
const UNKNOWN: &str = "UNKNOWN";

/// What one directory said to a descriptor that it was given.
#[derive(Clone, Debug, Eq, PartialEq)]
#[non_exhaustive]
pub enum Stored {
    /// It has stored it.
    Took,
    /// It has not, with Tor's word for why.
    Refused(String),
    /// It has not answered in time.
    Silent,
}

impl Controller {
    /// Fetches a descriptor from the first of these directories that has it: its text and the directory, if one has. Each is waited for as long as
    /// `patience` says.
    pub async fn fetch_descriptor(
        &self,
        address: &str,
        directories: &[Fingerprint],
        patience: Duration,
    ) -> Result<Option<DescriptorContent>, ControlError> {
        let id = service_id(address)?;
        for directory in directories {
            let mut events = self.events(&[Descriptor::EVENT, DescriptorContent::EVENT]).await?;
            match self.command(&format!("HSFETCH {id} SERVER={directory}")).await {
                Err(error) if is_unknown(&error) => continue,
                done => done?,
            };
            let end = Instant::now() + patience;
            if let Some(content) = content(&mut events, id, directory, end).await? {
                return Ok(Some(content));
            }
        }
        Ok(None)
    }

    /// Gives each of these directories its descriptor, some at a time. Says what each said, in their order.
    pub async fn post_descriptors(
        &self,
        address: &str,
        descriptors: &[(Fingerprint, String)],
        patience: Duration,
    ) -> Result<Vec<Stored>, ControlError> {
        let id = service_id(address)?;
        let mut all = Vec::with_capacity(descriptors.len());
        for some in descriptors.chunks(AT_ONCE) {
            let mut events = self.events(&[Descriptor::EVENT]).await?;
            let mut said = vec![None; some.len()];
            for ((directory, text), said) in some.iter().zip(&mut said) {
                match self.command_with_data(&format!("+HSPOST SERVER={directory} HSADDRESS={id}"), text).await {
                    Err(error) if is_unknown(&error) => *said = Some(Stored::Refused(UNKNOWN.to_owned())),
                    done => drop(done?),
                }
            }
            let end = Instant::now() + patience;
            while said.iter().any(Option::is_none) {
                let Some(event) = next(&mut events, end).await? else { break };
                let Some(descriptor) = Descriptor::parse(&event).filter(|descriptor| is_of(&descriptor.address, id)) else { continue };
                let told = match descriptor.step {
                    Step::Uploaded => Stored::Took,
                    Step::Failed(why) => Stored::Refused(why),
                    _ => continue,
                };
                if let Some(place) = some.iter().position(|(directory, _)| Some(*directory) == descriptor.hsdir) {
                    said[place] = Some(told);
                }
            }
            all.extend(said.into_iter().map(|said| said.unwrap_or(Stored::Silent)));
        }
        Ok(all)
    }
}

/// Waits for what a directory answers: the descriptor, or nothing if it has none.
async fn content(events: &mut Events, id: &str, directory: &Fingerprint, end: Instant) -> Result<Option<DescriptorContent>, ControlError> {
    while let Some(event) = next(events, end).await? {
        if let Some(content) = DescriptorContent::parse(&event) {
            if is_of(&content.address, id) && content.hsdir == *directory {
                return Ok(Some(content).filter(|content| !content.text.is_empty()));
            }
        } else if let Some(Descriptor { address, step: Step::Failed(why), hsdir }) = Descriptor::parse(&event) {
            // An upload of the same service fails as well, and is somebody else's affair.
            if is_of(&address, id) && hsdir == Some(*directory) && why != Descriptor::REJECTED {
                return Ok(None);
            }
        }
    }
    Ok(None)
}

/// The next event; nothing when it is too late. Those that were lost are waited for in vain, and then it is too late.
async fn next(events: &mut Events, end: Instant) -> Result<Option<Event>, ControlError> {
    loop {
        match timeout_at(end, events.next()).await {
            Err(_) => return Ok(None),
            Ok(Err(ControlError::EventsLost(_))) => {}
            Ok(event) => return event.map(Some),
        }
    }
}

fn is_of(address: &str, id: &str) -> bool {
    address.strip_suffix(".onion") == Some(id)
}

/// There is a newer consensus, and the directory is not in it:
/// ```text
/// 552 Server "4168E77BDD00FA8715368FDC49F15779F7C4684D" not found
/// ```
fn is_unknown(error: &ControlError) -> bool {
    matches!(error, ControlError::Refused { code: 552, .. })
}

fn service_id(address: &str) -> Result<&str, ControlError> {
    let id = address.strip_suffix(".onion").unwrap_or(address);
    let good = id.len() == 56 && id.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit());
    good.then_some(id).ok_or(ControlError::Argument("this is no address of an onion service of version 3"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_but_an_address_gets_into_a_command() {
        for bad in ["", "abc.onion", &"B".repeat(56), &format!("{} x", "b".repeat(54)), &"b".repeat(57)] {
            assert!(service_id(bad).is_err(), "{bad}");
        }
        assert!(service_id(&format!("{}.onion", "b".repeat(56))).is_ok());
    }
}
