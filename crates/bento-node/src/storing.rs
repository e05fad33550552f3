//! The calls `store.*`: a function's own store, through frames and streams.
//!
//! What it writes changes nothing before `store.commit`, so that a function that is killed leaves nothing half written. Bytes to and from the
//! disk are slowed to the function's rate and are no traffic: they do not leave the machine.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use data_encoding::BASE64;
use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::UnixStream,
    sync::OwnedSemaphorePermit,
    time::{Duration, timeout},
};
use tokio_util::task::AbortOnDropHandle;

use crate::{
    container::Container,
    cpu::Cpu,
    link::{Call, CallError, CallErrorKind, stream_pair},
    links,
    meter::Meter,
    process::{Process, answer_call},
    said::say,
    sending,
    store::{Mode, Reader, Space, Store, StoreError, Writer},
};

/// Longest value that travels in a frame, in bytes.
const INLINE_BYTES_MAX: usize = 8 * 1024;

/// Bytes that are sealed, or opened, at once.
const PIECE_BYTES: usize = 256 * 1024;

/// What a change counts for at the function's rate besides its bytes, in bytes: about what a disk writes for it.
const CHANGE_BYTES: usize = 4 * 1024;

/// Most writers that a function may have open.
const WRITERS_MAX: usize = 32;

/// Entries of a list that are read at once, and most bytes of their names in one answer, as JSON may make them six times as long.
const LIST_MAX: usize = 256;
const LIST_BYTES_MAX: usize = 8 * 1024;

/// Values that are being written, by number.
#[derive(Debug, Default)]
pub(crate) struct Writers(Mutex<Open>);

#[derive(Debug, Default)]
struct Open {
    last: u64,
    open: HashMap<u64, AbortOnDropHandle<Result<Writer, CallError>>>,
}

impl Writers {
    fn add(&self, writing: AbortOnDropHandle<Result<Writer, CallError>>) -> Result<u64, CallError> {
        let mut table = self.table();
        if table.open.len() >= WRITERS_MAX {
            return Err(CallError::new(CallErrorKind::Busy, format!("a function may have {WRITERS_MAX} values open for writing")));
        }
        table.last += 1;
        let number = table.last;
        table.open.insert(number, writing);
        Ok(number)
    }

    /// Gives up all that is not committed.
    pub(crate) fn clear(&self) {
        self.table().open.clear();
    }

    fn take(&self, number: u64) -> Option<AbortOnDropHandle<Result<Writer, CallError>>> {
        self.table().open.remove(&number)
    }

    fn table(&self) -> std::sync::MutexGuard<'_, Open> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl From<StoreError> for CallError {
    fn from(error: StoreError) -> Self {
        let kind = match &error {
            StoreError::Missing => CallErrorKind::Missing,
            StoreError::BadName => CallErrorKind::BadCall,
            StoreError::Busy => CallErrorKind::Busy,
            StoreError::Full { .. } | StoreError::DiskFull => CallErrorKind::Full,
            StoreError::Damaged { .. } => CallErrorKind::Damaged,
            StoreError::System(..) => {
                let cause = std::error::Error::source(&error).map(ToString::to_string).unwrap_or_default();
                say!(error, %error, cause, "a store failed");
                return Self::new(CallErrorKind::Failed, "the node could not do it; nothing was changed");
            }
        };
        Self::new(kind, error.to_string())
    }
}

/// Room for one more of these calls.
pub(crate) fn permit(container: &Container) -> Result<OwnedSemaphorePermit, CallError> {
    let busy = |_| CallError::new(CallErrorKind::Busy, "the function has as many calls to its store under way as its descriptors allow");
    Arc::clone(&container.storing).try_acquire_owned().map_err(busy)
}

/// Does what a call asks, and answers it.
pub(crate) async fn serve(process: &Arc<Process>, container: &Arc<Container>, call: &Call) {
    let asked = async {
        container.grant.permits_call(&call.name).map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))?;
        match call.name.as_str() {
            "store.put" => write(process, container, call, Mode::Put).await,
            "store.append" => write(process, container, call, Mode::Append).await,
            "store.commit" => commit(process, container, call).await.map(Answer::Value),
            "store.get" => read(process, container, call).await,
            "store.send" => sending::send(process, container, call).await.map(Answer::Value),
            "store.delete" => {
                let Named { name } = call.arguments("store.delete takes `name`, a text")?;
                let store = store(process, container).await?;
                container.meter.slow(CHANGE_BYTES).await;
                Ok(Answer::Value(json!({"existed": container.cpu.work(move || store.delete(&name)).await?})))
            }
            "store.list" => list(process, container, call).await.map(Answer::Value),
            "store.usage" => {
                let store = store(process, container).await?;
                let usage = container.cpu.work(move || store.usage()).await?;
                Ok(Answer::Value(json!({"used": usage.used, "limit": usage.limit})))
            }
            "link.make" => links::make(process, container, call).await.map(Answer::Value),
            "link.end" => links::end(process, container, call).await.map(Answer::Value),
            _ => Err(CallError::new(CallErrorKind::BadCall, "there is no such call")),
        }
    };
    let link = process.link();
    // A link that does not take the answer is seen to end by whoever reads it.
    let _ = match asked.await {
        Ok(Answer::Value(value)) => answer_call(link, call.number, Ok(value), None).await,
        Ok(Answer::Writer(value, theirs)) => answer_call(link, call.number, Ok(value), Some(theirs)).await,
        Ok(Answer::Reader(value, reader)) => match stream_pair() {
            Err(_) => answer_call(link, call.number, Err(CallError::new(CallErrorKind::Busy, "the node has no more sockets")), None).await,
            Ok((ours, theirs)) => {
                let answered = answer_call(link, call.number, Ok(value), Some(theirs)).await;
                if answered.is_ok() {
                    pour(*reader, ours, container).await;
                }
                answered
            }
        },
        Err(error) => answer_call(link, call.number, Err(error), None).await,
    };
}

enum Answer {
    Value(Value),
    Writer(Value, std::os::fd::OwnedFd),
    Reader(Value, Box<Reader>),
}

#[derive(Deserialize)]
struct Named {
    name: String,
}

async fn store(process: &Process, container: &Container) -> Result<Store, CallError> {
    Ok(process.vault(container).await?.space(Space::Function))
}

async fn write(process: &Process, container: &Arc<Container>, call: &Call, mode: Mode) -> Result<Answer, CallError> {
    #[derive(Deserialize)]
    struct Written {
        name: String,
        value: Option<String>,
    }
    let bad = |text| CallError::new(CallErrorKind::BadCall, text);
    let Written { name, value } = call.arguments("store.put and store.append take `name`, a text, and may take `value`, base64")?;
    let store = store(process, container).await?;
    let Some(value) = value else {
        let writer = container.cpu.work(move || store.writer(&name, mode)).await?;
        let (ours, theirs) = stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))?;
        let (meter, cpu, idle) = (Arc::clone(&container.meter), Arc::clone(&container.cpu), container.node.limits.idle.duration());
        let writing = AbortOnDropHandle::new(tokio::spawn(fill(ours, writer, (meter, cpu), idle)));
        return Ok(Answer::Writer(json!({"writer": process.writers.add(writing)?}), theirs));
    };
    let value = BASE64.decode(value.as_bytes()).map_err(|_| bad("`value` is no base64"))?;
    if value.len() > INLINE_BYTES_MAX {
        return Err(bad("a `value` of more than 8,192 bytes goes through a stream"));
    }
    container.meter.slow(value.len() + CHANGE_BYTES).await;
    let written = container.cpu.work(move || match mode {
        Mode::Put => store.put(&name, &value),
        Mode::Append => {
            let mut writer = store.writer(&name, mode)?;
            writer.write(&value)?;
            writer.commit()
        }
    });
    Ok(Answer::Value(json!({"bytes": written.await?})))
}

/// Takes what the function writes, until it shuts its end.
async fn fill(mut ours: UnixStream, mut writer: Writer, (meter, cpu): (Arc<Meter>, Arc<Cpu>), idle: Duration) -> Result<Writer, CallError> {
    let silent = |_| CallError::new(CallErrorKind::Timeout, "nothing was written for too long");
    let mut piece = Vec::with_capacity(PIECE_BYTES);
    loop {
        while piece.len() < PIECE_BYTES {
            let read = timeout(idle, ours.read_buf(&mut piece)).await.map_err(silent)?;
            if read.map_err(|_| CallError::new(CallErrorKind::Failed, "the stream broke"))? == 0 {
                break;
            }
        }
        if piece.is_empty() {
            return Ok(writer);
        }
        let mut rest = piece.len();
        while rest > 0 {
            let part = rest.min(meter.piece_bytes(PIECE_BYTES));
            meter.slow(part).await;
            rest -= part;
        }
        let written = cpu.work(move || {
            writer.write(&piece)?;
            piece.clear();
            Ok((writer, piece))
        });
        (writer, piece) = written.await?;
    }
}

async fn commit(process: &Process, container: &Container, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct Commit {
        writer: u64,
        bytes: u64,
    }
    let bad = |text: String| CallError::new(CallErrorKind::BadCall, text);
    let Commit { writer, bytes } = call.arguments("store.commit takes `writer` and `bytes`, whole numbers")?;
    let writing = process.writers.take(writer).ok_or_else(|| bad("there is no such writer".into()))?;
    let writer = writing.await.map_err(|_| CallError::new(CallErrorKind::Failed, "the writing was ended"))??;
    if writer.written() != bytes {
        return Err(bad(format!("{} bytes came, and {bytes} were to be kept; nothing was changed", writer.written())));
    }
    container.meter.slow(CHANGE_BYTES).await;
    Ok(json!({"bytes": container.cpu.work(move || writer.commit()).await?}))
}

async fn read(process: &Process, container: &Container, call: &Call) -> Result<Answer, CallError> {
    #[derive(Deserialize)]
    struct Get {
        name: String,
        #[serde(default)]
        offset: u64,
        length: Option<u64>,
    }
    let Get { name, offset, length } =
        call.arguments("store.get takes `name`, a text, and may take `offset` and `length`, whole numbers")?;
    let store = store(process, container).await?;
    let reader = container.cpu.work(move || store.reader(&name, offset, length)).await?;
    let size = reader.size();
    if reader.remaining() > INLINE_BYTES_MAX as u64 {
        return Ok(Answer::Reader(json!({"bytes": size}), Box::new(reader)));
    }
    container.meter.slow(INLINE_BYTES_MAX).await;
    let value = container.cpu.work(move || {
        let (mut reader, mut value) = (reader, Vec::new());
        reader.fill(&mut value, INLINE_BYTES_MAX)?;
        Ok(value)
    });
    Ok(Answer::Value(json!({"bytes": size, "value": BASE64.encode(&value.await?)})))
}

/// Gives the function what it asked for. Damage, or a function that does not read, ends it short; the function knows the length.
async fn pour(mut reader: Reader, mut ours: UnixStream, container: &Container) {
    let idle = container.node.limits.idle.duration();
    let mut piece = Vec::with_capacity(PIECE_BYTES.min(usize::try_from(reader.remaining()).unwrap_or(PIECE_BYTES)));
    loop {
        let opened = container.cpu.work(move || {
            piece.clear();
            reader.fill(&mut piece, PIECE_BYTES)?;
            Ok((reader, piece))
        });
        let Ok(opened) = opened.await else { return };
        (reader, piece) = opened;
        if piece.is_empty() {
            let _ = ours.shutdown().await;
            return;
        }
        for part in piece.chunks(container.meter.piece_bytes(PIECE_BYTES)) {
            container.meter.slow(part.len()).await;
            if !matches!(timeout(idle, ours.write_all(part)).await, Ok(Ok(()))) {
                return;
            }
        }
    }
}

async fn list(process: &Process, container: &Container, call: &Call) -> Result<Value, CallError> {
    #[derive(Deserialize)]
    struct List {
        #[serde(default)]
        prefix: String,
        after: Option<String>,
    }
    let List { prefix, after } = call.arguments("store.list may take `prefix` and `after`, texts")?;
    let store = store(process, container).await?;
    let (mut entries, mut more) = container.cpu.work(move || store.list(&prefix, after.as_deref(), LIST_MAX)).await?;
    container.meter.slow(entries.len() * 64).await;
    let mut bytes = 0;
    let fits = entries.iter().take_while(|(name, _)| {
        bytes += name.len() + 32;
        bytes <= LIST_BYTES_MAX
    });
    let fits = fits.count();
    more |= fits < entries.len();
    entries.truncate(fits);
    Ok(json!({"entries": entries, "more": more}))
}

#[cfg(test)]
mod tests {
    use std::{
        io::{self, Write},
        sync::PoisonError,
    };

    use super::*;
    use crate::store::Cause;

    #[derive(Clone, Default)]
    struct Log(Arc<Mutex<Vec<u8>>>);

    impl Write for Log {
        fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
            self.0.lock().unwrap_or_else(PoisonError::into_inner).extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> io::Result<()> {
            Ok(())
        }
    }

    #[test]
    fn a_disk_that_fails_on_every_call_is_logged_and_does_not_fill_the_log() {
        let log = Log::default();
        let writer = log.clone();
        tracing::subscriber::with_default(tracing_subscriber::fmt().with_writer(move || writer.clone()).finish(), || {
            for _ in 0..10_000 {
                let failed = StoreError::System("reading a file", Cause::File(io::ErrorKind::Other.into()));
                assert_eq!(CallError::from(failed).kind, CallErrorKind::Failed);
                assert_eq!(CallError::from(StoreError::Missing).kind, CallErrorKind::Missing);
            }
        });
        let log = String::from_utf8(log.0.lock().unwrap().clone()).unwrap();
        assert!((1..5).contains(&log.lines().count()) && log.contains("a store failed"), "{log}");
    }
}
