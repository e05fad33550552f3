//! The task behind a control connection.
//!
//! Tor answers commands in their order and never puts an event inside a reply, so one queue is enough to tell whose reply it is. Replies and
//! events are heard one after the other, as they came.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::sync::{broadcast, mpsc};
use tokio::time::timeout;

use super::order::{Heard, Order};
use super::wire::Assembler;
use super::{ControlError, Event, Kinds};

/// How long Tor may leave a command unread. It always reads; longer means that it hangs.
const WRITE_DEADLINE: Duration = Duration::from_secs(20);

/// Commands whose replies are awaited. It only fills when Tor hangs, and then further commands meet their deadline.
const PENDING_MAX: usize = 256;

/// Hears each event within the connection's task, in order and without a gap: it must neither wait nor take long. What it gives is written at once.
pub(super) type Observer = Arc<dyn Fn(&Event) -> Vec<Order> + Send + Sync>;

/// What is asked of the task.
pub(super) enum Request {
    /// Commands, written as one.
    Commands(Vec<(String, Heard)>),
    /// From now on this hears the events too.
    Observe(Observer),
}

/// Runs until the connection ends, the peer breaks the protocol, or nobody can send a command any more.
pub(super) async fn run<S>(stream: S, mut inbox: mpsc::Receiver<Request>, events: broadcast::Sender<Event>, kinds: Arc<Mutex<Kinds>>)
where
    S: AsyncRead + AsyncWrite,
{
    let (mut reader, mut writer) = tokio::io::split(stream);
    let mut assembler = Assembler::default();
    let mut pending: VecDeque<Heard> = VecDeque::new();
    let mut observers: Vec<Observer> = Vec::new();
    let mut buffer = vec![0; 16 * 1024];
    let told = |event: Event| {
        if kinds.lock().unwrap_or_else(PoisonError::into_inner).subscribed.contains(&event.kind) {
            // Nobody may be subscribed at the moment; the event is then of no use.
            let _ = events.send(event);
        }
    };
    let failure = loop {
        let mut text = String::new();
        tokio::select! {
            request = inbox.recv(), if pending.len() < PENDING_MAX => match request {
                None => break ControlError::Closed,
                Some(Request::Observe(observer)) => observers.push(observer),
                Some(Request::Commands(commands)) => {
                    for (line, heard) in commands {
                        text += &line;
                        pending.push_back(heard);
                    }
                }
            },
            read = reader.read(&mut buffer) => {
                let Ok(length @ 1..) = read else { break ControlError::Closed };
                assembler.push(&buffer[..length]);
                match deliver(&mut assembler, &mut pending, &observers, &told) {
                    Ok(orders) => text = orders,
                    Err(failure) => break failure,
                }
            }
        }
        if !text.is_empty() && !matches!(timeout(WRITE_DEADLINE, writer.write_all(text.as_bytes())).await, Ok(Ok(()))) {
            break ControlError::Closed;
        }
    };
    // Closing first makes that no further command is taken; then those that wait learn why.
    inbox.close();
    if let Some(heard) = pending.pop_front() {
        drop(heard(Err(failure)));
    }
}

/// Tells all that has come as a whole, and gives the lines to write then.
fn deliver(
    assembler: &mut Assembler,
    pending: &mut VecDeque<Heard>,
    observers: &[Observer],
    told: &impl Fn(Event),
) -> Result<String, ControlError> {
    let mut lines = String::new();
    while let Some(reply) = assembler.next()? {
        let orders = if reply.is_event() {
            let event = Event::from(reply);
            let orders = observers.iter().flat_map(|observer| observer(&event)).collect();
            told(event);
            orders
        } else {
            let heard = pending.pop_front().ok_or(ControlError::Protocol("a reply came without a command"))?;
            heard(Ok(reply))
        };
        for (line, heard) in orders.into_iter().map(Order::parts) {
            lines += &line;
            pending.push_back(heard);
        }
    }
    Ok(lines)
}
