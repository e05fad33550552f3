//! A download that goes on where a broken stream left it, and is decrypted while it comes.

use bento_proto::Outcome;
use bytes::Bytes;
use zeroize::Zeroizing;

use super::{
    AgeIdentity, DropError, DropId, DropLink, Dropbox, Locked, OpenError, Opener, Opening,
    age::AgeOpener,
    pad::Unpad,
    upload::{is_tired, pause},
};
use crate::{Client, ClientError, Output, Part, shard::Rebuild};

/// Where a drop comes from.
#[derive(Clone, Debug)]
pub enum Origin {
    /// Through a link, which needs no token.
    Link(Client, DropLink),
    /// From a Dropbox whose token one has.
    Dropbox(Dropbox, DropId),
    /// From shards, through a function that puts them together.
    Shards(Box<Rebuild>),
}

/// What comes next of a download.
#[derive(Debug)]
pub enum Piece {
    /// Some bytes of the file.
    Bytes(Vec<u8>),
    /// The stream broke; it goes on from this byte of the drop.
    Broke(u64, ClientError),
    /// The file is whole, and what its sender sent.
    End,
}

/// One download. All its requests count as one get.
#[derive(Debug)]
pub struct Download {
    origin: Origin,
    reader: DropId,
    output: Option<Output>,
    layers: Option<Layers>,
    received: u64,
    total: Option<u64>,
    tries: u32,
    /// What came behind the drop, from shards.
    report: Vec<u8>,
}

/// What is around the file.
#[derive(Debug)]
struct Layers {
    lock: Lock,
    unpad: Option<Unpad>,
}

#[derive(Debug)]
enum Lock {
    None,
    Key(Box<Opener>),
    Age(Box<AgeOpener>),
}

impl Download {
    /// A download that has not begun. `identities` are for what was encrypted to recipients.
    ///
    /// # Errors
    /// When it was encrypted to recipients and there is no identity, or the system has no random numbers.
    pub fn new(origin: Origin, opening: &Opening, identities: Vec<AgeIdentity>) -> Result<Self, DropError> {
        let lock = match &opening.locked {
            Locked::No => Lock::None,
            Locked::Key(key) => Lock::Key(Box::new(Opener::new(*Zeroizing::clone(key)))),
            Locked::Age if identities.is_empty() => {
                return Err(OpenError::Age("it is encrypted to a recipient, and no identity was given".into()).into());
            }
            Locked::Age => Lock::Age(Box::new(AgeOpener::new(identities))),
        };
        let layers = Some(Layers { lock, unpad: opening.padded.then(Unpad::default) });
        Ok(Self { origin, reader: DropId::mint()?, output: None, layers, received: 0, total: None, tries: 0, report: Vec::new() })
    }

    /// What was said of the shards behind the drop, once it has come.
    pub(crate) fn report(&self) -> &[u8] {
        &self.report
    }

    /// Bytes that have come, of the drop as it is on the node.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// Bytes of the drop as it is on the node, once they are known.
    pub fn total(&self) -> Option<u64> {
        self.total
    }

    /// The next piece. After the end there is no more to ask for.
    ///
    /// # Errors
    /// When it is refused, does not open, or stream after stream breaks without a byte more.
    pub async fn next(&mut self) -> Result<Piece, DropError> {
        loop {
            let error = match self.bytes().await {
                Ok(Some(mut bytes)) => {
                    if let Origin::Shards(rebuild) = &self.origin {
                        let begin = self.received - bytes.len() as u64;
                        let of_file = usize::try_from(rebuild.size.saturating_sub(begin)).unwrap_or(usize::MAX).min(bytes.len());
                        self.report.extend_from_slice(&bytes.split_off(of_file));
                    }
                    let Some(layers) = &mut self.layers else { return Ok(Piece::End) };
                    let plain = layers.take(bytes).await?;
                    if plain.is_empty() {
                        continue;
                    }
                    return Ok(Piece::Bytes(plain));
                }
                Ok(None) => {
                    let Some(layers) = self.layers.take() else { return Ok(Piece::End) };
                    let plain = layers.end().await?;
                    return Ok(if plain.is_empty() { Piece::End } else { Piece::Bytes(plain) });
                }
                Err(error) => error,
            };
            self.output = None;
            let error = match error {
                // What was never reached is no stream that broke.
                error if self.total.is_none() || !error.is_passing() => return Err(error),
                DropError::Client(error) => error,
                error => return Err(error),
            };
            self.tries += 1;
            if is_tired(self.tries) {
                let (tries, at, size) = (self.tries, self.received, self.total.unwrap_or_default());
                return Err(DropError::Tired { tries, at, size, last: Box::new(error) });
            }
            pause(self.tries).await;
            return Ok(Piece::Broke(self.received, error));
        }
    }

    /// The next bytes of the drop as it is on the node, from where it is; nothing at its end.
    async fn bytes(&mut self) -> Result<Option<Bytes>, DropError> {
        if self.output.is_none() {
            if self.total == Some(self.received) {
                return Ok(None);
            }
            if let Origin::Shards(rebuild) = &self.origin {
                // Its report is as it is when it comes, so it comes whole.
                self.received = self.received.min(rebuild.size);
                self.report.clear();
            }
            let output = self.ask().await?;
            let violation = |text: &str| DropError::Client(ClientError::Violation(text.into()));
            let left = output.length().ok_or_else(|| violation("the drop comes without a length"))?;
            let total = self.received.checked_add(left).ok_or_else(|| violation("the drop's length is none"))?;
            if *self.total.get_or_insert(total) != total {
                return Err(violation("the drop has another length than before"));
            }
            self.output = Some(output);
        }
        let Some(output) = &mut self.output else { return Ok(None) };
        match output.next().await? {
            Part::Bytes(bytes) => {
                self.received += bytes.len() as u64;
                self.tries = 0;
                Ok(Some(bytes))
            }
            Part::End(Outcome::Returned) => {
                self.output = None;
                if self.total == Some(self.received) {
                    Ok(None)
                } else {
                    Err(ClientError::Broken("it sent less than it said".into()).into())
                }
            }
            Part::End(other) => Err(DropError::of(ClientError::Ended(other))),
        }
    }

    async fn ask(&self) -> Result<Output, DropError> {
        match &self.origin {
            Origin::Dropbox(dropbox, id) => dropbox.get(*id, self.reader, self.received).await,
            Origin::Shards(rebuild) => rebuild.get(self.received).await.map_err(DropError::of),
            Origin::Link(client, link) => {
                let path = format!("{}/raw/{}/{}", link.path, self.reader, self.received);
                client.follow(&link.node, &path).await.map_err(DropError::of)
            }
        }
    }
}

impl Layers {
    async fn take(&mut self, bytes: Bytes) -> Result<Vec<u8>, OpenError> {
        let mut opened = Vec::new();
        match &mut self.lock {
            Lock::None => opened = bytes.into(),
            Lock::Key(opener) => opener.take(&bytes, &mut opened)?,
            Lock::Age(opener) => opener.take(bytes, &mut opened).await?,
        }
        self.unpadded(opened)
    }

    async fn end(mut self) -> Result<Vec<u8>, OpenError> {
        let mut opened = Vec::new();
        match std::mem::replace(&mut self.lock, Lock::None) {
            Lock::None => {}
            Lock::Key(opener) => opener.end(&mut opened)?,
            Lock::Age(opener) => opener.end(&mut opened).await?,
        }
        let plain = self.unpadded(opened)?;
        match self.unpad {
            Some(unpad) => unpad.end().map(|()| plain),
            None => Ok(plain),
        }
    }

    fn unpadded(&mut self, opened: Vec<u8>) -> Result<Vec<u8>, OpenError> {
        let Some(unpad) = &mut self.unpad else { return Ok(opened) };
        let mut plain = Vec::with_capacity(opened.len());
        unpad.take(&opened, &mut plain).map(|()| plain)
    }
}
