//! Commands that are given from within the connection's own task, as an answer to what it has just heard.
//!
//! They are written at once, in their order, and before anything else that Tor says is looked at; nobody waits for them. That is what makes it
//! possible to keep a table of Tor's objects without a gap between a reply and the event that follows it.

use std::fmt;

use super::ids::{CircuitId, StreamId};
use super::wire::Reply;
use super::{ControlError, outcome, word};

/// What hears a reply, within the connection's task: it must neither wait nor take long.
pub(super) type Heard = Box<dyn FnOnce(Result<Reply, ControlError>) -> Vec<Order> + Send>;

/// A command for [`Controller::order`](super::Controller::order), or an answer to an event.
pub struct Order {
    pub(super) text: String,
    pub(super) then: Option<Then>,
}

type Then = Box<dyn FnOnce(Result<(), ControlError>) -> Vec<Order> + Send>;

impl Order {
    /// Attaches a stream to this circuit, or to one that Tor chooses.
    pub fn attach(stream: &StreamId, circuit: Option<&CircuitId>) -> Self {
        match circuit {
            Some(circuit) => Self::new(format!("ATTACHSTREAM {stream} {circuit}")),
            None => Self::new(format!("ATTACHSTREAM {stream} 0")),
        }
    }

    /// Attaches a stream that looks a name up to a circuit of purpose `controller`. What comes of it is heard by `then`.
    ///
    /// `tor` 0.4.9 ends itself (a failed assertion in `connection_ap_handshake_send_resolve`) when such a stream is attached to a circuit of that
    /// purpose. So the circuit has the purpose `general` for as long as it takes to attach: the three commands are written as one, and Tor, which
    /// reads on in what it has, attaches nothing else to the circuit between them.
    pub fn attach_resolve(
        stream: &StreamId,
        circuit: &CircuitId,
        then: impl FnOnce(Result<(), ControlError>) -> Vec<Self> + Send + 'static,
    ) -> Vec<Self> {
        vec![
            Self::new(format!("SETCIRCUITPURPOSE {circuit} purpose=general")),
            Self::attach(stream, Some(circuit)).then(then),
            Self::new(format!("SETCIRCUITPURPOSE {circuit} purpose=controller")),
        ]
    }

    /// Ends a stream for this reason, a number of the streams' RELAY_END (tor-spec, "Closing streams").
    pub fn close_stream(stream: &StreamId, reason: u8) -> Self {
        Self::new(format!("CLOSESTREAM {stream} {reason}"))
    }

    /// Ends a circuit.
    pub fn close_circuit(circuit: &CircuitId) -> Self {
        Self::new(format!("CLOSECIRCUIT {circuit}"))
    }

    /// Ends an onion service, given by its address with or without `.onion`.
    ///
    /// # Errors
    /// When it is no address.
    pub fn del_onion(address: &str) -> Result<Self, ControlError> {
        let id = address.strip_suffix(".onion").unwrap_or(address);
        word(id)?;
        Ok(Self::new(format!("DEL_ONION {id}")))
    }

    /// What hears how it ended, within the connection's task: it must neither wait nor take long. It may give further orders.
    #[must_use]
    pub fn then(self, then: impl FnOnce(Result<(), ControlError>) -> Vec<Self> + Send + 'static) -> Self {
        Self { then: Some(Box::new(then)), ..self }
    }

    /// The line that is written.
    pub fn line(&self) -> &str {
        self.text.trim_end()
    }

    fn new(text: String) -> Self {
        Self { text: text + "\r\n", then: None }
    }

    /// The line as it is written, and what is to hear the reply.
    pub(super) fn parts(self) -> (String, Heard) {
        let Self { text, then } = self;
        let command = text.split(' ').next().unwrap_or_default().to_owned();
        let heard = move |reply: Result<Reply, ControlError>| match then {
            Some(then) => then(reply.and_then(|reply| outcome(&command, reply)).map(drop)),
            None => Vec::new(),
        };
        (text, Box::new(heard))
    }
}

impl fmt::Debug for Order {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Order").field("command", &self.text.split(' ').next()).finish_non_exhaustive()
    }
}
