//! An upload that goes on where a broken stream left it.

use std::time::Duration;

use tokio::time::sleep;

use super::{Announcement, DropError, Dropbox, Parcel};
use crate::ClientError;

/// Tries without a byte more.
const TRIES_MAX: u32 = 6;

/// Pause before the second try. Each further one is twice as long, up to [`PAUSE_MAX`].
const PAUSE: Duration = Duration::from_secs(1);

const PAUSE_MAX: Duration = Duration::from_secs(20);

/// What an upload tells meanwhile.
#[derive(Debug)]
pub enum Upload<'a> {
    /// The drop is announced, and so much of it is there; from there it goes on.
    From(u64),
    /// So much was taken by the stream.
    Sent(u64),
    /// The stream broke.
    Broke(&'a ClientError),
    /// All of it is there, and the Dropbox checks it.
    Checking,
}

/// A drop that is there.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct Uploaded {
    /// When it expires, in seconds since 1970.
    pub expires: u64,
    /// How often the stream broke.
    pub broken: u32,
}

impl Dropbox {
    /// Sends a drop, or what is missing of it, and has it checked. A stream that breaks is followed by another one, which goes on from
    /// what the Dropbox has; so does a later call for the same drop.
    ///
    /// # Errors
    /// When the Dropbox refuses, the file was changed, or stream after stream breaks without a byte more.
    pub async fn upload(
        &self,
        drop: &Announcement,
        parcel: &Parcel,
        told: impl Fn(Upload<'_>) + Clone + Send + 'static,
    ) -> Result<Uploaded, DropError> {
        let hashed = parcel.clone();
        // Beside the upload: it takes less time than that.
        let mut digest = Some(tokio::task::spawn_blocking(move || hashed.sha256()));
        let mut sha256 = None;
        let (mut best, mut tries, mut broken, mut reached) = (0, 0, 0, false);
        loop {
            let tried = async {
                let mut there = self.begin(drop).await?;
                reached = true;
                if there > best {
                    (best, tries) = (there, 0);
                }
                told(Upload::From(there));
                while there < parcel.size() {
                    let tell = told.clone();
                    let now = self.put(drop.id, there, parcel.input(there, move |offset| tell(Upload::Sent(offset)))).await?;
                    if now <= there || now > parcel.size() {
                        return Err(ClientError::Violation(format!("it has {now} bytes of the drop after it had {there}")).into());
                    }
                    (there, best, tries) = (now, now, 0);
                }
                told(Upload::Checking);
                if let Some(digest) = digest.take() {
                    let digest = digest.await.map_err(|error| DropError::File(std::io::Error::other(error.to_string())))?;
                    sha256 = Some(digest.map_err(DropError::File)?);
                }
                self.finish(drop.id, &sha256.unwrap_or_default()).await
            };
            let error = match tried.await {
                Ok(expires) => return Ok(Uploaded { expires, broken }),
                Err(DropError::Client(ClientError::Input(error))) => return Err(DropError::File(error)),
                // What was never reached is no stream that broke.
                Err(error) if !reached || !error.is_passing() => return Err(error),
                Err(DropError::Client(error)) => error,
                Err(error) => return Err(error),
            };
            told(Upload::Broke(&error));
            (tries, broken) = (tries + 1, broken + 1);
            if is_tired(tries) {
                return Err(DropError::Tired { tries, at: best, size: parcel.size(), last: Box::new(error) });
            }
            pause(tries).await;
        }
    }
}

/// Tries that may follow one another without a byte more, and the pause between them.
pub(super) async fn pause(tries: u32) {
    sleep((PAUSE * (1 << tries.min(10).saturating_sub(1))).min(PAUSE_MAX)).await;
}

/// Is it enough?
pub(super) fn is_tired(tries: u32) -> bool {
    tries >= TRIES_MAX
}
