//! The call `store.send`: stored bytes that go to an invocation's output without passing through the function.
//!
//! What the function wrote before comes before them. They are slowed, counted and held up by a slow client as anything else that it writes.

use std::sync::Arc;

use bytes::Bytes;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::sync::oneshot;

use crate::{
    container::Container,
    cpu::Cpu,
    link::{Call, CallError},
    process::Process,
    store::{Reader, Space, StoreError},
};

/// Bytes that are read and opened at once.
pub const PIECE_BYTES: usize = 256 * 1024;

/// Stored bytes on their way to an output. Dropped, it tells the function how many were taken.
#[derive(Debug)]
pub struct Sending {
    /// Gone at the end, or when it fails.
    reader: Option<Reader>,
    /// Opening it is the function's time.
    cpu: Arc<Cpu>,
    rest: Bytes,
    sent: u64,
    told: Option<oneshot::Sender<Result<u64, StoreError>>>,
}

impl Sending {
    fn new(reader: Reader, cpu: Arc<Cpu>) -> (Self, oneshot::Receiver<Result<u64, StoreError>>) {
        let (told, sent) = oneshot::channel();
        (Self { reader: Some(reader), cpu, rest: Bytes::new(), sent: 0, told: Some(told) }, sent)
    }

    /// Was anything of it taken?
    pub fn is_begun(&self) -> bool {
        self.sent > 0
    }

    /// The next bytes, at most so many; they count as sent. None at the end, which may be too early: then the function knows why.
    pub async fn next(&mut self, most: usize) -> Option<Bytes> {
        if self.rest.is_empty() {
            let mut reader = self.reader.take()?;
            let read = self.cpu.work(move || {
                let mut piece = Vec::with_capacity(PIECE_BYTES.min(usize::try_from(reader.remaining()).unwrap_or(PIECE_BYTES)));
                reader.fill(&mut piece, PIECE_BYTES)?;
                Ok((reader, piece))
            });
            match read.await {
                Ok((_, piece)) if piece.is_empty() => return None,
                Ok((reader, piece)) => (self.reader, self.rest) = (Some(reader), piece.into()),
                Err(error) => {
                    // Whoever asked may have ended.
                    let _ = self.told.take().map(|told| told.send(Err(error)));
                    return None;
                }
            }
        }
        let piece = self.rest.split_to(most.min(self.rest.len()));
        self.sent += piece.len() as u64;
        Some(piece)
    }
}

impl Drop for Sending {
    fn drop(&mut self) {
        let _ = self.told.take().map(|told| told.send(Ok(self.sent)));
    }
}

/// Does what the call asks, and says how many bytes were sent. Fewer than there are means that nobody takes more.
pub(crate) async fn send(process: &Process, container: &Container, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct Send {
        name: String,
        #[serde(default)]
        offset: u64,
        length: Option<u64>,
    }
    let Send { name, offset, length } =
        call.arguments("store.send takes `name`, a text, and may take `offset` and `length`, whole numbers")?;
    let output = process.output_of(call)?;
    let store = process.vault(container).await?.space(Space::Function);
    let reader = container.cpu.work(move || store.reader(&name, offset, length)).await?;
    let bytes = reader.size();
    let (sending, sent) = Sending::new(reader, Arc::clone(&container.cpu));
    let sent = match output.send(sending).await {
        Ok(()) => sent.await.unwrap_or(Ok(0))?,
        // The output has ended.
        Err(_) => 0,
    };
    Ok(json!({"bytes": bytes, "sent": sent}))
}
