//! `nodes.invoke` and `nodes.outcome`.

use std::{io, sync::Arc, time::Duration};

use bytes::Bytes;
use futures_util::stream::try_unfold;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        UnixStream,
        unix::{OwnedReadHalf, OwnedWriteHalf},
    },
    time::timeout,
};
use tokio_util::io::StreamReader;

use bento::{ClientError, Demand, Input, NodeAddress, OutputId, Part};
use bento_proto::{
    InvocationToken, Outcome,
    limits::{ERROR_CHARS_MAX, TRACEBACK_CHARS_MAX},
};

use super::{CODE_CHARS_MAX, address, bad_call, client, demand, fitting, hand_over, number, trouble, used_up};
use crate::{
    container::Container,
    link::{Call, CallError, CallErrorKind},
    meter::{Meter, Way},
    process::{Process, clip},
};

const TAKES: &str = "nodes.invoke takes `node`, an address, `invocation`, a token, `method`, and, if wanted, `arguments`, an object, `detach`, and `conclave`, a demand";

#[derive(Deserialize)]
struct Order {
    node: String,
    invocation: String,
    method: String,
    #[serde(default)]
    arguments: Map<String, Value>,
    detach: Option<String>,
    conclave: Option<String>,
}

/// Why there is no outcome.
enum NoOutcome {
    /// The function's own stream, or what it may use.
    Own(CallError),
    /// The other node, or the way to it.
    Theirs(ClientError),
}

/// Hands over a stream for input and output, and has the outcome ready for [`end`].
pub(super) async fn begin(process: &Process, container: &Container, call: &Call) -> Result<(), CallError> {
    let Order { node, invocation, method, arguments, detach, conclave } = call.arguments(TAKES)?;
    let node = address(container, &node)?;
    let demand = demand(container, &node, conclave.as_deref())?;
    let token: InvocationToken = invocation.parse().map_err(bad_call)?;
    let detach: Option<OutputId> = detach.map(|id| id.parse()).transpose().map_err(|error| trouble(&error))?;
    let mut order = bento::Call::new(method);
    (order.arguments, order.within) = (arguments, Some(container.remaining().duration()));
    let (number, result) = process.begun.invocations.begin()?;
    match hand_over(process, call, json!({"invocation": number})).await {
        Ok(stream) => {
            let outcome = invoke(container, (&node, demand), &token, (order, detach), stream).await;
            let _ = result.send(outcome);
            Ok(())
        }
        Err(error) => {
            process.begun.invocations.forget(number);
            Err(error)
        }
    }
}

/// How an invocation ended.
pub(super) async fn end(process: &Process, call: &Call) -> Result<Value, CallError> {
    let number = number(call, "invocation", "nodes.outcome takes `invocation`, a number that nodes.invoke gave")?;
    process.begun.invocations.end(number).await
}

async fn invoke(
    container: &Container,
    (node, demand): (&NodeAddress, Option<Demand>),
    token: &InvocationToken,
    (mut call, detach): (bento::Call, Option<OutputId>),
    stream: UnixStream,
) -> Result<Value, CallError> {
    let client = client(container, demand).await?;
    let idle = container.node.limits.idle.duration();
    let (reads, mut writes) = stream.into_split();
    call.input = input(reads, Arc::clone(&container.meter));
    let words = serde_json::to_vec(&call.arguments).map_or(0, |arguments| arguments.len());
    container.meter.pass(Way::Sent, words).await.map_err(|_| used_up())?;
    let ended = async {
        if let Some(id) = detach {
            client.detach(node, token, id, call).await.map_err(NoOutcome::Theirs)?;
            return Ok(None);
        }
        let mut output = client.invoke(node, token, call).await.map_err(NoOutcome::Theirs)?;
        loop {
            match output.next().await.map_err(NoOutcome::Theirs)? {
                Part::Bytes(bytes) => pass_on(&mut writes, &bytes, &container.meter, idle).await.map_err(NoOutcome::Own)?,
                Part::End(outcome) => return Ok(Some(outcome)),
            }
        }
    };
    let told = match ended.await {
        Ok(None) => json!({"outcome": "detached"}),
        Ok(Some(outcome)) | Err(NoOutcome::Theirs(ClientError::Ended(outcome))) => outcome_of(outcome),
        Err(NoOutcome::Theirs(ClientError::Refused(problem))) => {
            json!({"outcome": "refused", "code": clip(problem.code(), CODE_CHARS_MAX), "text": clip(&problem.detail, ERROR_CHARS_MAX)})
        }
        Err(NoOutcome::Theirs(error @ ClientError::Request(_))) => return Err(trouble(&error)),
        Err(NoOutcome::Theirs(error)) => {
            let CallError { kind, text, .. } = trouble(&error);
            json!({"outcome": "lost", "kind": kind, "text": text})
        }
        Err(NoOutcome::Own(error)) => return Err(error),
    };
    fitting(told)
}

/// In the lengths in which this node's own outcomes travel.
fn outcome_of(outcome: Outcome) -> Value {
    match outcome {
        Outcome::Returned => json!({"outcome": "returned"}),
        Outcome::Failed { error, traceback } => {
            json!({"outcome": "failed", "text": clip(&error, ERROR_CHARS_MAX), "traceback": clip(&traceback, TRACEBACK_CHARS_MAX)})
        }
        Outcome::Killed { bound } => json!({"outcome": "killed", "text": bound.to_string(), "bound": bound}),
    }
}

async fn pass_on(writes: &mut OwnedWriteHalf, bytes: &Bytes, meter: &Meter, idle: Duration) -> Result<(), CallError> {
    let deaf = |_| CallError::new(CallErrorKind::Timeout, format!("the function read nothing of the output for {} s", idle.as_secs()));
    for chunk in bytes.chunks(meter.chunk_bytes()) {
        meter.pass(Way::Received, chunk.len()).await.map_err(|_| used_up())?;
        let closed = |_| CallError::new(CallErrorKind::Failed, "the function closed the stream before the end of the output");
        timeout(idle, writes.write_all(chunk)).await.map_err(deaf)?.map_err(closed)?;
    }
    Ok(())
}

/// What the function writes, counted before it is passed on.
fn input(reads: OwnedReadHalf, meter: Arc<Meter>) -> Input {
    let chunks = try_unfold((reads, meter), |(mut reads, meter)| async move {
        let mut chunk = vec![0; meter.chunk_bytes()];
        let bytes = reads.read(&mut chunk).await?;
        if bytes == 0 {
            // Ended is what was ended; a stream that was closed, as by a process that died, must not pass for a whole input.
            return if is_closed(&reads)? { Err(io::Error::from(io::ErrorKind::BrokenPipe)) } else { Ok(None) };
        }
        meter.pass(Way::Sent, bytes).await?;
        chunk.truncate(bytes);
        Ok(Some((Bytes::from(chunk), (reads, meter))))
    });
    Input::stream(StreamReader::new(Box::pin(chunks)))
}

/// Has the other side closed both directions?
fn is_closed(reads: &OwnedReadHalf) -> io::Result<bool> {
    let stream: &UnixStream = reads.as_ref();
    let mut asked = [PollFd::new(stream, PollFlags::empty())];
    poll(&mut asked, Some(&Timespec { tv_sec: 0, tv_nsec: 0 }))?;
    Ok(asked[0].revents().intersects(PollFlags::HUP | PollFlags::ERR))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meter::UNBOUNDED;

    #[tokio::test(start_paused = true)]
    async fn a_function_that_does_not_read_keeps_no_invocation_elsewhere_and_a_slow_one_does() {
        const IDLE: Duration = Duration::from_secs(10);
        let (meter, output) = (Meter::new(u64::MAX, UNBOUNDED), Bytes::from(vec![0; 1 << 20]));
        let (ours, mut function) = UnixStream::pair().unwrap();
        let (_reads, mut writes) = ours.into_split();
        let refused = pass_on(&mut writes, &output, &meter, IDLE).await.unwrap_err();
        assert_eq!((refused.kind, refused.text.contains("10 s")), (CallErrorKind::Timeout, true), "{}", refused.text);
        // A socket takes more only when three quarters of what is in it were read.
        let slow = async move {
            let mut chunk = vec![0; 64 * 1024];
            while function.read(&mut chunk).await.is_ok_and(|bytes| bytes > 0) {
                tokio::time::sleep(IDLE / 8).await;
            }
        };
        tokio::spawn(slow);
        pass_on(&mut writes, &output, &meter, IDLE).await.unwrap();
    }

    async fn all(input: Input) -> io::Result<Vec<u8>> {
        let Input::Stream(mut stream) = input else { panic!("no stream") };
        let mut read = Vec::new();
        stream.read_to_end(&mut read).await.map(|_| read)
    }

    #[tokio::test]
    async fn an_input_that_is_ended_is_whole_and_one_that_is_closed_is_not() {
        for (ends, closes) in [(true, false), (false, true)] {
            let (ours, mut function) = UnixStream::pair().unwrap();
            let (reads, _writes) = ours.into_split();
            let meter = Arc::new(Meter::new(100, UNBOUNDED));
            function.write_all(b"input").await.unwrap();
            if ends {
                function.shutdown().await.unwrap();
            }
            let function = (!closes).then_some(function);
            let read = all(input(reads, Arc::clone(&meter))).await;
            assert_eq!(read.map_err(|error| error.kind()), if ends { Ok(b"input".to_vec()) } else { Err(io::ErrorKind::BrokenPipe) });
            assert_eq!(meter.sent(), 5);
            drop(function);
        }
        let (ours, mut function) = UnixStream::pair().unwrap();
        function.write_all(b"too much").await.unwrap();
        let meter = Arc::new(Meter::new(7, UNBOUNDED));
        assert!(all(input(ours.into_split().0, meter)).await.is_err());
    }
}
