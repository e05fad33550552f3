//! What passes between a client and a conclave, as a host sees it that is between them.

use tokio::io::AsyncReadExt;

/// Where a message is going.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum To {
    Conclave,
    Client,
}

/// Messages in one direction are counted from 0: Hello or Evidence, a handshake's, and from here on records.
pub(crate) const FIRST_RECORD: usize = 2;

/// What the host does with a message. Each comes with its length in front, which can be changed as well.
pub(crate) enum Do {
    /// Sends these bytes instead, or those.
    Pass(Vec<u8>),
    /// Sends these bytes, and ends the stream.
    Cut(Vec<u8>),
}

/// The next whole message, of which so many came before.
pub(crate) async fn next(from: &mut (impl AsyncReadExt + Unpin), count: usize) -> Option<Vec<u8>> {
    let mut message = vec![0; if count < FIRST_RECORD { 4 } else { 2 }];
    from.read_exact(&mut message).await.ok()?;
    let length = message.iter().fold(0, |length, byte| length << 8 | usize::from(*byte));
    let begin = message.len();
    message.resize(begin + length, 0);
    from.read_exact(&mut message[begin..]).await.ok()?;
    Some(message)
}
