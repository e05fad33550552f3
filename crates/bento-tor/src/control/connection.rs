//! The task behind a control connection.
//!
//! Tor answers commands in their order and never puts an event inside a reply, so one queue is enough to tell whose reply it is.

use std::collections::VecDeque;
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc, oneshot};
use tokio::time::timeout;

use super::wire::{Assembler, Reply};
use super::{ControlError, Event};

/// How long Tor may leave a command unread. It always reads; longer means that it hangs.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Commands whose replies are awaited. It only fills when Tor hangs, and then further commands meet their deadline.
const PENDING_MAX: usize = 256;

/// One command on its way.
#[derive(Debug)]
pub(super) struct Request {
    pub(super) text: String,
    pub(super) answer: oneshot::Sender<Result<Reply, ControlError>>,
}

/// Runs until the connection ends, the peer breaks the protocol, or nobody can send a command any more.
pub(super) async fn run<S>(stream: S, mut inbox: mpsc::Receiver<Request>, events: broadcast::Sender<Event>)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut assembler = Assembler::default();
    let mut pending = VecDeque::new();
    let mut buffer = vec![0; 16 * 1024];
    let failure = loop {
        tokio::select! {
            request = inbox.recv(), if pending.len() < PENDING_MAX => {
                let Some(Request { text, answer }) = request else { break ControlError::Closed };
                pending.push_back(answer);
                match timeout(WRITE_DEADLINE, writer.write_all(text.as_bytes())).await {
                    Ok(Ok(())) => {}
                    _ => break ControlError::Closed,
                }
            }
            read = reader.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { break ControlError::Closed };
                assembler.push(&buffer[..length]);
                match deliver(&mut assembler, &mut pending, &events) {
                    Ok(()) => {}
                    Err(failure) => break failure,
                }
            }
        }
    };
    // Closing first makes that no further command is taken; then those that wait learn why.
    inbox.close();
    if let Some(answer) = pending.pop_front() {
        let _ = answer.send(Err(failure));
    }
}

fn deliver(
    assembler: &mut Assembler,
    pending: &mut VecDeque<oneshot::Sender<Result<Reply, ControlError>>>,
    events: &broadcast::Sender<Event>,
) -> Result<(), ControlError> {
    while let Some(reply) = assembler.next()? {
        if reply.is_event() {
            // Nobody may be subscribed at the moment; the event is then of no use.
            let _ = events.send(Event::from(reply));
            continue;
        }
        let Some(answer) = pending.pop_front() else {
            return Err(ControlError::Protocol("a reply came without a command"));
        };
        // Whoever asked may have met the deadline and gone; the reply still had to be taken off the queue.
        let _ = answer.send(Ok(reply));
    }
    Ok(())
}
