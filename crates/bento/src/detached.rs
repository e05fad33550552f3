//! Detached invocations: the client leaves when its input is there, and comes back for the output; and leases.

use std::{fmt, str::FromStr, time::Duration};

use bento_proto::{InvocationToken, ShutdownToken, Span};
use data_encoding::HEXLOWER;
use hyper::{Method, StatusCode, header};
use serde::Deserialize;

use crate::{
    Call, Client, ClientError, Input, NodeAddress, Output,
    client::{bearer, function, start},
    json,
    tokens::random,
};

/// The name of a detached invocation, made before the node hears of it, so that a lost answer loses nothing. 128 random bits.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub struct OutputId([u8; 16]);

/// What there is of a detached invocation's output.
#[derive(Debug)]
pub enum Fetched {
    /// It runs, and has written so many bytes.
    Running(u64),
    /// It has ended: here is its output.
    Ended {
        /// From which byte on.
        from: u64,
        /// How many bytes it has in all.
        size: u64,
        /// The bytes, and how the invocation ended.
        output: Box<Output>,
    },
}

impl OutputId {
    /// A new one.
    ///
    /// # Errors
    /// When the system has no random numbers.
    pub fn mint() -> Result<Self, ClientError> {
        let mut id = [0; 16];
        id.copy_from_slice(&random()?[..16]);
        Ok(Self(id))
    }
}

impl fmt::Display for OutputId {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&HEXLOWER.encode(&self.0))
    }
}

impl FromStr for OutputId {
    type Err = ClientError;

    fn from_str(text: &str) -> Result<Self, ClientError> {
        let wrong = || ClientError::Request("an output is named by 32 hexadecimal digits in lower case".into());
        HEXLOWER.decode(text.as_bytes()).ok().and_then(|bytes| bytes.try_into().ok()).map(Self).ok_or_else(wrong)
    }
}

impl Client {
    /// Invokes a method that goes on without its client. Returns when the node has all input; the same again does nothing.
    ///
    /// # Errors
    /// When the node refuses; [`ClientError::is_undecided`] when it may have begun nevertheless.
    pub async fn detach(&self, node: &NodeAddress, token: &InvocationToken, id: OutputId, call: Call) -> Result<(), ClientError> {
        let request = start(Method::POST, &format!("/v1/invoke/{}", call.method()?), node)
            .header(header::AUTHORIZATION, bearer(&token.reveal())?)
            .header("bento-detach", id.to_string())
            .header("bento-arguments", call.arguments()?);
        let request = match call.seen {
            Some(seen) => request.header("bento-seen", seen),
            None => request,
        };
        let answer = self.send(request, None, call.input, node, &function(node, token.digest()), call.within).await?;
        if answer.response.status() == StatusCode::ACCEPTED {
            return Ok(());
        }
        json::good(answer).await?;
        Err(ClientError::Violation("it does not say that it took the invocation".into()))
    }

    /// Asks for the output of a detached invocation, from some byte on; waits up to `wait`, which a node cuts to a minute, for its end.
    ///
    /// # Errors
    /// When the node knows no such output.
    pub async fn output(
        &self,
        node: &NodeAddress,
        token: &InvocationToken,
        id: OutputId,
        from: u64,
        wait: Duration,
    ) -> Result<Fetched, ClientError> {
        let path = format!("/v1/output/{id}?wait={}", wait.as_secs());
        let mut request = start(Method::GET, &path, node).header(header::AUTHORIZATION, bearer(&token.reveal())?);
        if from > 0 {
            request = request.header(header::RANGE, format!("bytes={from}-"));
        }
        let answer = self.send(request, None, Input::Empty, node, &function(node, token.digest()), None).await?;
        let violation = |text: &str| ClientError::Violation(format!("its answer about an output has no {text}"));
        let number = |name: &str| answer.response.headers().get(name)?.to_str().ok()?.parse::<u64>().ok();
        match answer.response.status() {
            StatusCode::ACCEPTED => Ok(Fetched::Running(number("bento-output-bytes").ok_or_else(|| violation("`bento-output-bytes`"))?)),
            StatusCode::PARTIAL_CONTENT => {
                let range = answer.response.headers().get(header::CONTENT_RANGE).and_then(|value| value.to_str().ok());
                let size = range.and_then(|text| {
                    let (part, size) = text.strip_prefix("bytes ")?.split_once('/')?;
                    (part.split_once('-')?.0.parse() == Ok(from)).then(|| size.parse().ok())?
                });
                let size = size.ok_or_else(|| violation("`Content-Range` that fits"))?;
                Ok(Fetched::Ended { from, size, output: Box::new(Output::kept(answer, None)?) })
            }
            _ => {
                let answer = json::good(answer).await?;
                let output = Box::new(Output::kept(answer, None)?);
                let size = output.length().ok_or_else(|| violation("`Content-Length`"))?;
                Ok(Fetched::Ended { from: 0, size, output })
            }
        }
    }

    /// Has the node forget the output of a detached invocation.
    ///
    /// # Errors
    /// When there is none, or the invocation has not ended.
    pub async fn forget_output(&self, node: &NodeAddress, token: &InvocationToken, id: OutputId) -> Result<(), ClientError> {
        let request = start(Method::DELETE, &format!("/v1/output/{id}"), node).header(header::AUTHORIZATION, bearer(&token.reveal())?);
        json::good(self.send(request, None, Input::Empty, node, &function(node, token.digest()), None).await?).await?;
        Ok(())
    }

    /// Makes a function's lifetime begin anew. Returns the time that is left then.
    ///
    /// # Errors
    /// When the node does not know the token.
    pub async fn renew(&self, node: &NodeAddress, token: &ShutdownToken) -> Result<Span, ClientError> {
        #[derive(Deserialize)]
        struct Renewed {
            remaining: Span,
        }
        let request = start(Method::POST, "/v1/renew", node).header(header::AUTHORIZATION, bearer(&token.reveal())?);
        let answer = self.send(request, None, Input::Empty, node, &function(node, token.digest()), None).await?;
        let renewed: Renewed = json::read(answer, "the time that is left").await?;
        Ok(renewed.remaining)
    }
}
