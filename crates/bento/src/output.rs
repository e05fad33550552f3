//! An invocation's output, as it arrives.

use std::{sync::Arc, time::Duration};

use bento_proto::Outcome;
use bytes::Bytes;
use http_body_util::BodyExt as _;
use hyper::{HeaderMap, body::Body as _};

use crate::{ClientError, client::Answer, error, json, text};

/// The trailer that says how an invocation ended.
const OUTCOME: &str = "bento-outcome";

/// A piece of an output, or its end.
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum Part {
    /// Some bytes.
    Bytes(Bytes),
    /// The output is whole, as far as the function wrote it, and this is how the invocation ended.
    End(Outcome),
}

/// The output of an invocation. Dropping it closes the stream.
#[derive(Debug)]
pub struct Output {
    answer: Answer,
    length: Option<u64>,
    received: u64,
    max: Option<u64>,
    /// How it ends when it is whole, where that is known before.
    whole: Outcome,
    end: Option<Outcome>,
}

impl Output {
    pub(crate) fn new(answer: Answer, max: Option<u64>) -> Result<Self, ClientError> {
        Self::of(answer, max, Outcome::Returned)
    }

    /// Output of an invocation that has ended.
    pub(crate) fn kept(answer: Answer, max: Option<u64>) -> Result<Self, ClientError> {
        let outcome = outcome(answer.response.headers())?;
        Self::of(answer, max, outcome)
    }

    fn of(answer: Answer, max: Option<u64>, whole: Outcome) -> Result<Self, ClientError> {
        let length = answer.response.body().size_hint().exact();
        match (length, max) {
            (Some(length), Some(max)) if length > max => Err(too_much(max)),
            _ => Ok(Self { answer, length, received: 0, max, whole, end: None }),
        }
    }

    /// How many bytes it will have, where the function declared that.
    pub fn length(&self) -> Option<u64> {
        self.length
    }

    /// How many have arrived.
    pub fn received(&self) -> u64 {
        self.received
    }

    /// The next piece. After the end it is the end again.
    ///
    /// # Errors
    /// When the stream ends before the node said how the invocation did, stands still for too long, or brings too much.
    pub async fn next(&mut self) -> Result<Part, ClientError> {
        loop {
            if let Some(outcome) = &self.end {
                return Ok(Part::End(outcome.clone()));
            }
            let Answer { response, activity, bounds, end, .. } = &mut self.answer;
            let activity = Arc::clone(activity);
            let frame = activity.wait(response.body_mut().frame(), "the next bytes of the output", bounds.idle, *end).await?;
            activity.moved();
            let frame = match frame {
                Some(Ok(frame)) => frame,
                Some(Err(error)) => return Err(activity.take_input_error().unwrap_or_else(|| error::of_stream(&error))),
                // With a length all bytes are there by now, or hyper would have told of an error: the node holds the last one back until
                // the method has returned.
                None if self.length.is_some() => {
                    self.end = Some(self.whole.clone());
                    continue;
                }
                None => return Err(ClientError::Broken("it did not say how the invocation ended".into())),
            };
            match frame.into_data() {
                Ok(bytes) => {
                    self.received += bytes.len() as u64;
                    if let Some(max) = self.max.filter(|max| self.received > *max) {
                        return Err(too_much(max));
                    }
                    if !bytes.is_empty() {
                        return Ok(Part::Bytes(bytes));
                    }
                }
                Err(frame) => {
                    if let Ok(trailers) = frame.into_trailers() {
                        self.end = Some(outcome(&trailers)?);
                    }
                }
            }
        }
    }

    /// All of it in memory.
    ///
    /// # Errors
    /// As [`next`](Self::next), and when it has more than `max` bytes.
    pub async fn collect(mut self, max: u64) -> Result<(Vec<u8>, Outcome), ClientError> {
        self.max = Some(self.max.map_or(max, |own| own.min(max)));
        let mut all = Vec::new();
        loop {
            match self.next().await? {
                Part::Bytes(bytes) => all.extend_from_slice(&bytes),
                Part::End(outcome) => return Ok((all, outcome)),
            }
        }
    }

    /// Changes how long it may stand still.
    pub fn set_idle(&mut self, idle: Duration) {
        self.answer.bounds.idle = idle;
    }
}

fn too_much(max: u64) -> ClientError {
    ClientError::Violation(format!("it sends more than {max} bytes, which is more than can be expected"))
}

/// ```text
/// Bento-Outcome: {"outcome":"failed","error":"ValueError: no","traceback":"…"}
/// ```
fn outcome(trailers: &HeaderMap) -> Result<Outcome, ClientError> {
    let value = trailers.get(OUTCOME).ok_or_else(|| ClientError::Broken("it did not say how the invocation ended".into()))?;
    let outcome = json::parse(value.as_bytes(), "the outcome")?;
    Ok(clean(outcome))
}

/// An outcome whose texts can be shown.
pub(crate) fn clean(outcome: Outcome) -> Outcome {
    match outcome {
        Outcome::Failed { error, traceback } => Outcome::Failed { error: text::line(&error), traceback: text::paragraph(&traceback) },
        other => other,
    }
}
