//! Descriptors of onion services as text: fetched from directories, and given to them.
//!
//! Directories are named one by one. Left to choose, Tor asks none a second time within a quarter of an hour, and gives a descriptor to those of
//! one period only. What a descriptor says is not looked at here.

use std::time::Duration;

use tokio::time::{Instant, timeout_at};

use super::{ControlError, Controller, Event, Events};

/// The kind of event that carries a descriptor.
const CONTENT: &str = "HS_DESC_CONTENT";

/// The kind of event that says what became of it.
const STEP: &str = "HS_DESC";

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
    /// Fetches a descriptor from the first of these directories (40 hexadecimal digits each) that has it: its text and the directory, if one has.
    /// Each is waited for as long as `patience` says.
    pub async fn fetch_descriptor(
        &self,
        address: &str,
        directories: &[String],
        patience: Duration,
    ) -> Result<Option<(String, String)>, ControlError> {
        let id = service_id(address)?;
        for directory in directories {
            fingerprint(directory)?;
            let mut events = self.events(&[STEP, CONTENT]).await?;
            match self.command(&format!("HSFETCH {id} SERVER={directory}")).await {
                Err(error) if is_unknown(&error) => continue,
                done => done?,
            };
            let end = Instant::now() + patience;
            if let Some(text) = content(&mut events, id, directory, end).await? {
                return Ok(Some((text, directory.clone())));
            }
        }
        Ok(None)
    }

    /// Gives each of these directories its descriptor, some at a time. Says what each said, in their order.
    pub async fn post_descriptors(
        &self,
        address: &str,
        descriptors: &[(String, String)],
        patience: Duration,
    ) -> Result<Vec<Stored>, ControlError> {
        let id = service_id(address)?;
        let mut all = Vec::with_capacity(descriptors.len());
        for some in descriptors.chunks(AT_ONCE) {
            let mut events = self.events(&[STEP]).await?;
            let mut said = vec![None; some.len()];
            for ((directory, text), said) in some.iter().zip(&mut said) {
                fingerprint(directory)?;
                match self.command_with_data(&format!("+HSPOST SERVER={directory} HSADDRESS={id}"), text).await {
                    Err(error) if is_unknown(&error) => *said = Some(Stored::Refused(UNKNOWN.to_owned())),
                    done => drop(done?),
                }
            }
            let end = Instant::now() + patience;
            while said.iter().any(Option::is_none) {
                let event = match timeout_at(end, events.next()).await {
                    Err(_) => break,
                    Ok(Err(ControlError::EventsLost(_))) => continue,
                    Ok(event) => event?,
                };
                let place = some.iter().position(|(directory, _)| concerns(&event, id, directory));
                let told = event.words().next().and_then(|action| told(action, &event));
                if let (Some(place), Some(told)) = (place, told) {
                    said[place] = Some(told);
                }
            }
            all.extend(said.into_iter().map(|said| said.unwrap_or(Stored::Silent)));
        }
        Ok(all)
    }
}

/// Waits for what a directory answers: the descriptor, or nothing if it has none.
///
/// ```text
/// 650 HS_DESC FAILED bk5uipfi…wryd NO_AUTH $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1 B8/JKRfZCTFx…TItns REASON=NOT_FOUND
/// 650+HS_DESC_CONTENT bk5uipfi…wryd B8/JKRfZCTFx…TItns $95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1
/// hs-descriptor 3
/// …
/// .
/// 650 OK
/// ```
async fn content(events: &mut Events, id: &str, directory: &str, end: Instant) -> Result<Option<String>, ControlError> {
    loop {
        let event = match timeout_at(end, events.next()).await {
            Err(_) => return Ok(None),
            Ok(Err(ControlError::EventsLost(_))) => continue,
            Ok(event) => event?,
        };
        if !concerns(&event, id, directory) {
            continue;
        }
        if event.kind == CONTENT {
            // Empty where the directory has none.
            let text = event.lines.into_iter().find_map(|line| line.data).filter(|text| !text.is_empty());
            return Ok(text);
        }
        // An upload of the same service fails as well, and is somebody else's affair.
        if event.words().next() == Some("FAILED") && event.field("REASON").is_none_or(|reason| reason != "UPLOAD_REJECTED") {
            return Ok(None);
        }
    }
}

fn concerns(event: &Event, id: &str, directory: &str) -> bool {
    // With data, the first line is among the lines.
    let first = event.lines.first().filter(|_| event.kind == CONTENT).map_or(&*event.text, |line| &*line.text);
    let mut words = first.split(' ');
    words.any(|word| word == id) && words.any(|word| is_relay(word, directory))
}

/// Is it `$95499F60677E3C40DB0A58F706AB93CEAD3FDBC7~middle1`, or without the name?
fn is_relay(word: &str, directory: &str) -> bool {
    word.strip_prefix('$').and_then(|word| word.get(..40)).is_some_and(|found| found.eq_ignore_ascii_case(directory))
}

fn told(action: &str, event: &Event) -> Option<Stored> {
    match action {
        "UPLOADED" => Some(Stored::Took),
        "FAILED" => Some(Stored::Refused(event.field("REASON").unwrap_or_default())),
        _ => None,
    }
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

fn fingerprint(text: &str) -> Result<(), ControlError> {
    let good = text.len() == 40 && text.bytes().all(|byte| byte.is_ascii_hexdigit());
    good.then_some(()).ok_or(ControlError::Argument("a relay is named by 40 hexadecimal digits"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::control::ReplyLine;

    const FP: &str = "95499F60677E3C40DB0A58F706AB93CEAD3FDBC7";

    fn event(kind: &str, text: &str) -> Event {
        Event { kind: kind.to_owned(), text: text.to_owned(), lines: Vec::new() }
    }

    #[test]
    fn an_event_is_of_the_service_and_the_directory_that_it_names() {
        let id = "b".repeat(56);
        let step = event(STEP, &format!("UPLOADED {id} UNKNOWN ${FP}~middle1"));
        assert!(concerns(&step, &id, FP) && concerns(&step, &id, &FP.to_lowercase()));
        assert!(!concerns(&step, &"c".repeat(56), FP) && !concerns(&step, &id, &FP.replace('9', "8")));
        let first = format!("{CONTENT} {id} B8/JKRfZCTFx ${FP}~middle1");
        let lines = vec![ReplyLine { code: 650, text: first.clone(), data: Some("hs-descriptor 3\n".into()) }];
        let carried = Event { lines, ..event(CONTENT, first.split_once(' ').unwrap().1) };
        assert!(concerns(&carried, &id, FP) && !concerns(&carried, &id, &FP.replace('9', "8")));
    }

    #[test]
    fn what_a_directory_says_is_read_as_tor_writes_it() {
        let failed = event(STEP, &format!("FAILED x UNKNOWN ${FP}~m y REASON=UPLOAD_REJECTED"));
        assert_eq!(told("FAILED", &failed), Some(Stored::Refused("UPLOAD_REJECTED".into())));
        assert_eq!(told("UPLOADED", &event(STEP, "")), Some(Stored::Took));
        assert_eq!(told("UPLOAD", &event(STEP, "")), None);
    }

    #[test]
    fn nothing_but_an_address_and_a_fingerprint_gets_into_a_command() {
        for bad in ["", "abc.onion", &"B".repeat(56), &format!("{} x", "b".repeat(54)), &"b".repeat(57)] {
            assert!(service_id(bad).is_err(), "{bad}");
        }
        assert!(service_id(&format!("{}.onion", "b".repeat(56))).is_ok());
        for bad in ["", &FP[1..], &format!("${FP}"), &format!("{} X", &FP[2..])] {
            assert!(fingerprint(bad).is_err(), "{bad}");
        }
    }
}
