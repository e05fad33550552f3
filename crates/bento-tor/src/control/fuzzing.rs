//! What reads Tor's bytes, opened for `fuzz/` and built for nothing else.

use super::wire::{self, Assembler};
use super::{ControlError, Event, Onion, Reply, auth, conf, info};

/// The replies in these bytes, which arrive in pieces of these lengths, one after the other and again from the first.
///
/// # Errors
/// When they are none.
pub fn replies(mut bytes: &[u8], pieces: &[usize]) -> Result<Vec<Reply>, ControlError> {
    let mut assembler = Assembler::default();
    let mut replies = Vec::new();
    let mut pieces = pieces.iter().cycle();
    while !bytes.is_empty() {
        let (piece, rest) = bytes.split_at(pieces.next().copied().unwrap_or(bytes.len()).clamp(1, bytes.len()));
        bytes = rest;
        assembler.push(piece);
        while let Some(reply) = assembler.next()? {
            replies.push(reply);
        }
    }
    Ok(replies)
}

/// Every reading that a reply may get, and the texts that came of it.
pub fn readings(reply: &Reply, key: &str) -> Vec<String> {
    let mut read = conf(reply);
    read.extend(info(reply.clone(), key));
    read.extend(Onion::parse(reply, None).ok().map(|onion| onion.address));
    read.extend(auth::readings(reply));
    read.extend(reply.lines.iter().filter_map(|line| wire::field(&line.text, key)));
    read.extend(Event::from(reply.clone()).words().map(str::to_owned));
    read
}

/// Is it an event, and no answer to a command?
pub fn is_event(reply: &Reply) -> bool {
    reply.is_event()
}

/// A value as a quoted string, read back.
pub fn quoted(value: &str) -> Option<String> {
    wire::quote(value).ok().map(|quoted| wire::unquote(&quoted))
}
