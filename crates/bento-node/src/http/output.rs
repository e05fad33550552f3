//! Detached invocations: begun, looked at, fetched and forgotten.
//!
//! Their output is kept in the function's store, under a name that the client made, until it is deleted or the function ends. Beside it stands
//! how far the invocation is; one that was under way when the node ended has failed.

use std::{sync::Arc, time::Duration};

use axum::{
    Json,
    body::Body,
    extract::{Path, Query, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
};
use bytes::Bytes;
use http_body_util::{BodyExt, StreamBody};
use hyper::body::Frame;
use serde::Deserialize;
use serde_json::{json, value::RawValue};
use tokio::{sync::OwnedSemaphorePermit, time::timeout};

use bento_proto::{Bound, Outcome, Problem, Refusal, SealKey};

use super::{
    Failure, invocation_token,
    invoke::{Event, OUTCOME, OUTCOME_BYTES_MAX, Output, REST_BYTES_MAX, header_of},
};
use crate::{
    container::Container,
    cpu::Cpu,
    detached::Running,
    keep::blocking,
    meter::{Meter, Way},
    node::{Node, trouble},
    store::{Mode, Reader, Space, Store, StoreError, Writer},
};

const DETACH: HeaderName = HeaderName::from_static("bento-detach");
const OUTPUT_BYTES: HeaderName = HeaderName::from_static("bento-output-bytes");

/// Most detached invocations whose outputs a function keeps.
const OUTPUTS_MAX: usize = 256;

/// Longest that a client may wait in one request for an invocation to end, in seconds. Less than a session may be idle.
const WAIT_SECONDS_MAX: u64 = 60;

/// The name of a detached invocation: 32 hexadecimal digits in lower case.
pub(super) struct OutputId(String);

impl OutputId {
    fn parse(text: &str) -> Result<Self, Refusal> {
        let is_id = text.len() == 32 && text.bytes().all(|byte| byte.is_ascii_digit() || (b'a'..=b'f').contains(&byte));
        let wrong = || Refusal::BadRequest("a detached invocation is named by 32 hexadecimal digits in lower case".into());
        if is_id { Ok(Self(text.to_owned())) } else { Err(wrong()) }
    }

    /// Where it is kept how the invocation ended.
    fn state(&self) -> String {
        format!("{}/state", self.0)
    }
}

/// Is the invocation to be a detached one?
pub(super) fn wanted(headers: &HeaderMap) -> Result<Option<OutputId>, Refusal> {
    let Some(value) = headers.get(DETACH) else { return Ok(None) };
    OutputId::parse(value.to_str().unwrap_or_default()).map(Some)
}

/// Begins a detached invocation, and answers when its input is there. The same again does nothing.
pub(super) async fn detach(
    container: Arc<Container>,
    key: SealKey,
    id: OutputId,
    (method, arguments): (&str, &RawValue),
    mut body: Body,
) -> Result<Response, Failure> {
    if container.grant.storage().as_bytes() == 0 {
        return Err(Refusal::BadRequest("the function asks for no `storage`, where the output could be kept".into()).into());
    }
    let accepted = (StatusCode::ACCEPTED, Json(json!({"output": id.0})));
    let idle = container.node.limits.idle.duration();
    loop {
        let running = match container.detached.begin(&id.0) {
            Ok(running) => running,
            // A client that lost the answer asks again, perhaps before the first is decided.
            Err(running) => {
                tokio::select! {
                    () = running.fed.cancelled() => {}
                    () = running.ended.cancelled() => continue,
                    () = tokio::time::sleep(idle) => return Err(Refusal::Busy { what: "inputs of this invocation", limit: 1 }.into()),
                }
                drain(&mut body, idle).await;
                return Ok(accepted.into_response());
            }
        };
        // Taken back when anything below goes wrong.
        let begun = Begun { container: Arc::clone(&container), id: id.0.clone() };
        let store = outputs(&container, &key).await?;
        if state(&container.cpu, &store, &id).await?.is_some() {
            drain(&mut body, idle).await;
            return Ok(accepted.into_response());
        }
        // Finished once begun, so that a client that leaves now finds all of it or nothing.
        let (method, arguments) = (method.to_owned(), arguments.to_owned());
        let starting = tokio::spawn(async move { begin((begun, running), key, store, id, (&method, &arguments), body).await });
        starting.await.map_err(|_| Problem::new("trouble", 500, "the node failed"))??;
        return Ok(accepted.into_response());
    }
}

/// Takes what nobody wants, as far as it is on its way at most.
async fn drain(body: &mut Body, idle: Duration) {
    let mut rest = REST_BYTES_MAX;
    let draining = async {
        while let Some(Ok(frame)) = body.frame().await {
            let Some(left) = rest.checked_sub(frame.data_ref().map_or(0, Bytes::len)) else { return };
            rest = left;
        }
    };
    let _ = timeout(idle.min(Duration::from_secs(WAIT_SECONDS_MAX)), draining).await;
}

async fn begin(
    (begun, running): (Begun, Arc<Running>),
    key: SealKey,
    store: Store,
    id: OutputId,
    (method, arguments): (&str, &RawValue),
    body: Body,
) -> Result<(), Failure> {
    let container = Arc::clone(&begun.container);
    let (kept, name) = (store.clone(), id.0.clone());
    let writer = container.cpu.work(move || {
        if kept.list("", None, 2 * OUTPUTS_MAX)?.0.len() >= 2 * OUTPUTS_MAX {
            return Err(StoreError::Busy);
        }
        // As long as any outcome, so that there is room for it whatever the function stores.
        kept.put(&format!("{name}/state"), &[b' '; OUTCOME_BYTES_MAX])?;
        kept.writer(&name, Mode::Put)
    });
    let writer = match writer.await {
        Ok(writer) => writer,
        Err(error) => {
            // What was put before there was no room for more would say that it goes on.
            if matches!(error, StoreError::Full { .. } | StoreError::DiskFull) {
                forget_state(store, id).await;
            }
            return Err(failure(error, OUTPUTS_MAX));
        }
    };
    let invocation = match container.invoke(method, arguments, Some(&key)).await {
        Ok(invocation) => invocation,
        Err(error) => {
            forget_state(store, id).await;
            return Err(error.into());
        }
    };
    let mut output = Output::new(invocation, &container, None, Bytes::new(), body);
    // Nobody waits for it, and it may take as long as the function is here.
    let (fed, ended) = (output.fed.clone(), running.ended.clone());
    output.wait_long(container.lease.left());
    tokio::spawn(collect(output, writer, store, id, Arc::clone(&running), begun));
    tokio::select! {
        biased;
        () = ended.cancelled() => {}
        () = fed.cancelled() => {}
    }
    running.fed.cancel();
    Ok(())
}

/// A detached invocation that has begun. Dropped, it has ended.
struct Begun {
    container: Arc<Container>,
    id: String,
}

impl Drop for Begun {
    fn drop(&mut self) {
        self.container.detached.end(&self.id);
    }
}

/// Keeps what comes of an invocation, and at last how it ended.
async fn collect(mut output: Output, mut writer: Writer, store: Store, id: OutputId, running: Arc<Running>, begun: Begun) {
    let (state, cpu) = (id.state(), Arc::clone(&begun.container.cpu));
    let outcome = loop {
        match output.next().await {
            Event::End(outcome) => break outcome,
            Event::Data(data) => {
                let bytes = data.len();
                let written = cpu.work(move || match writer.write(&data) {
                    Ok(()) => Ok((writer, true)),
                    Err(StoreError::Full { .. }) => Ok((writer, false)),
                    // The writer ends here, and gives its room to what is said of it.
                    Err(error) => Err(error),
                });
                match written.await {
                    Ok((rest, true)) => writer = rest,
                    Ok((rest, false)) => {
                        writer = rest;
                        break Outcome::Killed { bound: Bound::Storage };
                    }
                    Err(error) => {
                        drop(output);
                        let _ = keep_state(store, state, &failed(&error)).await;
                        return;
                    }
                }
                running.wrote(bytes);
            }
        }
    };
    if output.is_cut_off() {
        // It never began as far as its client knows; asked again, it does.
        forget_state(store, id).await;
        return;
    }
    drop(output);
    let outcome = match cpu.work(move || writer.commit()).await {
        Ok(_) => outcome,
        Err(error) => failed(&error),
    };
    // There is room for it; and one that was shut down meanwhile keeps nothing.
    let _ = keep_state(store, state, &outcome).await;
    drop(begun);
}

fn failed(error: &StoreError) -> Outcome {
    Outcome::Failed { error: format!("its output could not be kept: {error}"), traceback: String::new() }
}

async fn keep_state(store: Store, name: String, outcome: &Outcome) -> Result<(), StoreError> {
    // As a header has it, which is short enough.
    let text = header_of(outcome).as_bytes().to_vec();
    blocking(move || store.put(&name, &text).map(|_| ())).await
}

async fn forget_state(store: Store, id: OutputId) {
    let _ = blocking(move || store.delete(&id.state())).await;
}

/// How an invocation ended: as text; nothing if there was none.
async fn state(cpu: &Arc<Cpu>, store: &Store, id: &OutputId) -> Result<Option<Vec<u8>>, Failure> {
    let (store, name) = (store.clone(), id.state());
    let read = cpu.serve(move || {
        let (mut reader, mut text) = (store.reader(&name, 0, None)?, Vec::new());
        while let Some(piece) = reader.piece()? {
            text.extend_from_slice(&piece);
        }
        Ok(text)
    });
    match read.await {
        Ok(text) => Ok(Some(text)),
        Err(StoreError::Missing) => Ok(None),
        Err(error) => Err(failure(error, OUTPUTS_MAX)),
    }
}

async fn outputs(container: &Container, key: &SealKey) -> Result<Store, Failure> {
    Ok(container.keep.vault(Some(key)).await.map_err(|error| failure(error, OUTPUTS_MAX))?.space(Space::Outputs))
}

fn failure(error: StoreError, most: usize) -> Failure {
    match error {
        StoreError::Busy => Refusal::Busy { what: "outputs of this function", limit: most as u64 }.into(),
        StoreError::Full { limit } => Refusal::Busy { what: "bytes of this function's storage", limit }.into(),
        error => trouble(error).into(),
    }
}

fn none() -> Failure {
    Problem::new("no-output", 404, "there is no output of this name; it was never begun, or was deleted").into()
}

/// How long to wait for an invocation to end.
#[derive(Deserialize)]
pub(super) struct Waiting {
    #[serde(default)]
    wait: u64,
}

/// `GET /v1/output/{id}`.
pub(super) async fn fetch(
    State(node): State<Arc<Node>>,
    Path(id): Path<String>,
    Query(waiting): Query<Waiting>,
    headers: HeaderMap,
) -> Result<Response, Failure> {
    let (container, key) = node.function(&invocation_token(&headers)?).await?;
    let id = OutputId::parse(&id)?;
    if let Some(running) = container.detached.get(&id.0) {
        let bound = Duration::from_secs(waiting.wait.min(WAIT_SECONDS_MAX)).min(node.config().limits.idle.duration() / 2);
        if timeout(bound, running.ended.cancelled()).await.is_err() {
            return Ok((StatusCode::ACCEPTED, [(OUTPUT_BYTES, running.bytes().to_string())], Json(json!({"bytes": running.bytes()})))
                .into_response());
        }
    }
    let permit = container.fetch()?;
    let store = outputs(&container, &key).await?;
    let outcome = state(&container.cpu, &store, &id).await?.ok_or_else(none)?;
    let outcome: Outcome = serde_json::from_slice(&outcome)
        .unwrap_or(Outcome::Failed { error: "the node was stopped before the method returned".into(), traceback: String::new() });
    container.meter.pass(Way::Sent, outcome.text_bytes()).await.map_err(|_| Refusal::Spent(Bound::Traffic))?;
    let name = id.0.clone();
    let (reader, size, part) = match range(&headers) {
        None => (open(&container.cpu, &store, name, 0, None).await?, None, false),
        Some((from, to)) => {
            let reader = open(&container.cpu, &store, name, from, to.map(|to| (to - from).saturating_add(1))).await?;
            (reader, Some(from), true)
        }
    };
    let Some(reader) = reader else {
        // It ended before anything was kept.
        return Ok(([(OUTCOME, header_of(&outcome))], [(header::CONTENT_LENGTH, "0")], Body::empty()).into_response());
    };
    let (size, from, left) = (reader.size(), size.unwrap_or(0), reader.remaining());
    if part && from >= size {
        let mut response = Failure::from(Problem::new("range", 416, format!("the output has {size} bytes"))).into_response();
        response.headers_mut().insert(header::CONTENT_RANGE, value(format!("bytes */{size}")));
        return Ok(response);
    }
    let body = Body::new(StreamBody::new(futures_util::stream::unfold(
        Kept {
            reader: Some(reader),
            rest: Bytes::new(),
            meter: Arc::clone(&container.meter),
            cpu: Arc::clone(&container.cpu),
            _permit: permit,
        },
        Kept::step,
    )));
    let mut response = body.into_response();
    if part {
        *response.status_mut() = StatusCode::PARTIAL_CONTENT;
        response.headers_mut().insert(header::CONTENT_RANGE, value(format!("bytes {from}-{}/{size}", from + left - 1)));
    }
    for (name, text) in [
        (header::CONTENT_TYPE, "application/octet-stream".into()),
        (header::ACCEPT_RANGES, "bytes".into()),
        (header::CONTENT_LENGTH, left.to_string()),
    ] {
        response.headers_mut().insert(name, value(text));
    }
    response.headers_mut().insert(OUTCOME, header_of(&outcome));
    Ok(response)
}

/// `DELETE /v1/output/{id}`.
pub(super) async fn forget(State(node): State<Arc<Node>>, Path(id): Path<String>, headers: HeaderMap) -> Result<StatusCode, Failure> {
    let (container, key) = node.function(&invocation_token(&headers)?).await?;
    let id = OutputId::parse(&id)?;
    if container.detached.get(&id.0).is_some() {
        return Err(Problem::new("running", 409, "the invocation has not ended; its output can be deleted when it has").into());
    }
    let store = outputs(&container, &key).await?;
    let gone = container.cpu.serve(move || {
        // The state last: as long as it is there, the client can ask again.
        store.delete(&id.0)?;
        store.delete(&id.state())
    });
    if gone.await.map_err(|error| failure(error, OUTPUTS_MAX))? { Ok(StatusCode::NO_CONTENT) } else { Err(none()) }
}

async fn open(cpu: &Arc<Cpu>, store: &Store, name: String, from: u64, length: Option<u64>) -> Result<Option<Reader>, Failure> {
    let store = store.clone();
    match cpu.serve(move || store.reader(&name, from, length)).await {
        Ok(reader) => Ok(Some(reader)),
        Err(StoreError::Missing) => Ok(None),
        Err(error) => Err(failure(error, OUTPUTS_MAX)),
    }
}

fn value(text: String) -> HeaderValue {
    HeaderValue::try_from(text).unwrap_or(HeaderValue::from_static(""))
}

/// One range of bytes (RFC 9110, section 14.1.2), from its first to its last, if that is what is asked for. What is none is passed over, as
/// section 14.2 has it.
fn range(headers: &HeaderMap) -> Option<(u64, Option<u64>)> {
    let text = headers.get(header::RANGE)?.to_str().ok()?.strip_prefix("bytes=")?;
    let (from, to) = text.split_once('-')?;
    let from = from.parse().ok()?;
    match to {
        "" => Some((from, None)),
        to => to.parse().ok().filter(|to| *to >= from).map(|to| (from, Some(to))),
    }
}

/// What is kept, piece by piece.
struct Kept {
    reader: Option<Reader>,
    /// Of a piece that was opened, what was not passed on.
    rest: Bytes,
    meter: Arc<Meter>,
    cpu: Arc<Cpu>,
    _permit: OwnedSemaphorePermit,
}

impl Kept {
    async fn step(mut self) -> Option<(Result<Frame<Bytes>, &'static str>, Self)> {
        if self.rest.is_empty() {
            let mut reader = self.reader.take()?;
            match self.cpu.serve(move || reader.piece().map(|piece| (piece, reader))).await {
                Ok((None, _)) => return None,
                Ok((Some(piece), reader)) => (self.rest, self.reader) = (piece.into(), Some(reader)),
                // Never served wrong: the body ends short.
                Err(_) => return Some((Err("what is kept is damaged"), self)),
            }
        }
        let piece = self.rest.split_to(self.rest.len().min(self.meter.chunk_bytes()));
        if self.meter.pass(Way::Sent, piece.len()).await.is_err() {
            self.reader = None;
            self.rest.clear();
            return Some((Err("traffic is used up"), self));
        }
        Some((Ok(Frame::data(piece)), self))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_range_is_read_and_others_are_passed_over() {
        let of = |text: &str| range(&HeaderMap::from_iter([(header::RANGE, HeaderValue::from_str(text).unwrap())]));
        assert_eq!(of("bytes=0-"), Some((0, None)));
        assert_eq!(of("bytes=10-19"), Some((10, Some(19))));
        for other in ["bytes=-5", "bytes=5-4", "bytes=1-2,4-5", "lines=1-2", "bytes=x-", "bytes="] {
            assert_eq!(of(other), None, "{other}");
        }
    }

    #[test]
    fn a_name_is_what_it_should_be() {
        assert!(OutputId::parse(&"0a".repeat(16)).is_ok());
        for wrong in ["", "0A", &"0A".repeat(16), &"0a".repeat(17), &"zz".repeat(16), "../../../../../../../../../../../x"] {
            assert!(OutputId::parse(wrong).is_err(), "{wrong}");
        }
    }
}
