//! The call `seal`: encrypts a stream to somebody's key, in the age format (age-encryption.org/v1), so that a function can leave what only its
//! client reads.
//!
//! Nothing leaves the node by it, so it counts as processor time and not as traffic.

use std::{
    io::{self, Write},
    iter,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use age::{Encryptor, x25519::Recipient};
use serde::Deserialize;
use serde_json::Value;
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    time::timeout,
};

use crate::{
    container::Container,
    cpu::thread_time,
    link::{Call, CallError, CallErrorKind, stream_pair},
    process::{Process, answer_call},
};

/// Bytes that are sealed at once: a chunk of the format.
const CHUNK_BYTES: usize = 64 * 1024;

/// Seals what comes on a stream until its end.
pub(crate) async fn serve(process: &Process, container: &Container, call: &Call) -> Result<(), CallError> {
    #[derive(Deserialize)]
    struct Order {
        to: String,
    }
    let Order { to } = call.arguments("seal takes `to`, a recipient that begins with `age1`")?;
    let bad = || {
        CallError::new(
            CallErrorKind::BadCall,
            "`to` is no X25519 recipient of age: it begins with `age1`, and 58 letters and digits follow",
        )
    };
    let recipient: Recipient = to.parse().map_err(|_| bad())?;
    let one = Arc::clone(&container.elsewhere.sealing).try_acquire_owned();
    let _one = one.map_err(|_| CallError::new(CallErrorKind::Busy, "a function seals one stream at a time"))?;
    let (ours, theirs) = stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))?;
    if answer_call(process.link(), call.number, Ok(Value::Null), Some(theirs)).await.is_ok() {
        // On an error the stream ends without the format's last chunk, and whoever opens it sees that.
        let _ = seal(ours, &recipient, container.node.limits.idle.duration(), |spent| {
            container.cpu.count(spent);
            !container.cpu.exhausted.is_cancelled()
        })
        .await;
    }
    Ok(())
}

/// What was sealed and not passed on yet.
#[derive(Clone, Default)]
struct Sealed(Arc<Mutex<Vec<u8>>>);

impl Sealed {
    fn take(&self) -> Vec<u8> {
        std::mem::take(&mut *self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

impl Write for Sealed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Reads to the end and writes it sealed. `charge` is told what it took, and says whether there may be more.
async fn seal(mut stream: UnixStream, recipient: &Recipient, idle: Duration, charge: impl Fn(Duration) -> bool) -> io::Result<()> {
    let begun = thread_time();
    let sealed = Sealed::default();
    let recipients = iter::once(recipient as &dyn age::Recipient);
    let mut writer = Encryptor::with_recipients(recipients).map_err(io::Error::other)?.wrap_output(sealed.clone())?;
    let mut unpaid = thread_time().saturating_sub(begun);
    let mut chunk = vec![0; CHUNK_BYTES];
    loop {
        stall(idle, stream.write_all(&sealed.take())).await?;
        let bytes = stall(idle, stream.read(&mut chunk)).await?;
        if bytes == 0 {
            break;
        }
        let begun = thread_time();
        writer.write_all(&chunk[..bytes])?;
        unpaid += thread_time().saturating_sub(begun);
        if unpaid >= Duration::from_millis(10) {
            let due = std::mem::take(&mut unpaid);
            if !charge(due) {
                return Err(io::ErrorKind::QuotaExceeded.into());
            }
            // At most half of a processor, for however long.
            tokio::time::sleep(due).await;
        }
    }
    writer.finish()?;
    charge(unpaid);
    stall(idle, stream.write_all(&sealed.take())).await?;
    stream.shutdown().await
}

async fn stall<T>(idle: Duration, work: impl Future<Output = io::Result<T>>) -> io::Result<T> {
    timeout(idle, work).await.unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
}

#[cfg(test)]
mod tests {
    use std::io::Read;

    use age::{Decryptor, x25519::Identity};

    use super::*;

    const IDLE: Duration = Duration::from_secs(10);

    fn opened(sealed: &[u8], identity: &Identity) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        let opening = Decryptor::new(sealed).map_err(io::Error::other)?;
        opening.decrypt(iter::once(identity as &dyn age::Identity)).map_err(io::Error::other)?.read_to_end(&mut out)?;
        Ok(out)
    }

    #[tokio::test]
    async fn what_is_sealed_opens_with_its_key_alone_and_only_as_a_whole() {
        let (identity, other) = (Identity::generate(), Identity::generate());
        for bytes in [0, 1, CHUNK_BYTES - 1, CHUNK_BYTES, 10 * CHUNK_BYTES + 7] {
            let plain: Vec<u8> = (0..bytes).map(|at| (at * 7 % 251) as u8).collect();
            let (ours, function) = UnixStream::pair().unwrap();
            let (mut reads, mut writes) = function.into_split();
            let recipient = identity.to_public();
            let writing = async {
                writes.write_all(&plain).await.unwrap();
                writes.shutdown().await.unwrap();
            };
            let reading = async {
                let mut sealed = Vec::new();
                reads.read_to_end(&mut sealed).await.unwrap();
                sealed
            };
            let (done, (), sealed) = tokio::join!(seal(ours, &recipient, IDLE, |_| true), writing, reading);
            done.unwrap();
            assert!(opened(&sealed, &identity).unwrap() == plain);
            assert!(opened(&sealed, &other).is_err());
            assert!(opened(&sealed[..sealed.len() - 1], &identity).is_err());
        }
    }

    #[tokio::test]
    async fn who_has_no_processor_time_left_gets_no_whole_file() {
        let identity = Identity::generate();
        let (ours, function) = UnixStream::pair().unwrap();
        let (mut reads, mut writes) = function.into_split();
        let recipient = identity.to_public();
        let writing = tokio::spawn(async move { while writes.write_all(&vec![0; CHUNK_BYTES]).await.is_ok() {} });
        let reading = async {
            let mut sealed = Vec::new();
            let _ = reads.read_to_end(&mut sealed).await;
            sealed
        };
        let (done, sealed) = tokio::join!(seal(ours, &recipient, IDLE, |_| false), reading);
        assert_eq!(done.unwrap_err().kind(), io::ErrorKind::QuotaExceeded);
        assert!(opened(&sealed, &identity).is_err());
        writing.await.unwrap();
    }

    #[tokio::test(start_paused = true)]
    async fn who_does_not_read_does_not_keep_it() {
        let (ours, _function) = UnixStream::pair().unwrap();
        assert_eq!(seal(ours, &Identity::generate().to_public(), IDLE, |_| true).await.unwrap_err().kind(), io::ErrorKind::TimedOut);
    }
}
