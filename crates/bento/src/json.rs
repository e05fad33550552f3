//! Short answers of a node: JSON, and errors in the words of RFC 9457.

use bento_proto::{Outcome, Problem, node::Description, node::FunctionStatus};
use http_body_util::{BodyExt as _, Limited};
use hyper::{StatusCode, header};
use serde::de::DeserializeOwned;

use crate::{
    ClientError,
    activity::End,
    client::Answer,
    error,
    text::{line, paragraph},
};

/// Longest answer that is read, in bytes. A policy has at most 64 KiB; a description has it as JSON, and lists of packages.
pub(crate) const ANSWER_BYTES_MAX: usize = 256 * 1024;

/// The whole body of a short answer.
pub(crate) async fn bytes(answer: Answer) -> Result<Vec<u8>, ClientError> {
    let Answer { response, activity, bounds, end, connection } = answer;
    // A node that sends one byte now and then must not keep us: all of it within the time of an answer.
    let own = End::after(bounds.answer);
    let end = end.filter(|end| end.at < own.at).unwrap_or(own);
    let collected =
        activity.wait(Limited::new(response.into_body(), ANSWER_BYTES_MAX).collect(), "the answer", bounds.answer, Some(end)).await?;
    drop(connection);
    match collected {
        Ok(whole) => Ok(whole.to_bytes().to_vec()),
        Err(error) => Err(match error.downcast_ref::<hyper::Error>() {
            Some(error) => error::of_stream(error),
            None => ClientError::Violation(format!("its answer has more than {ANSWER_BYTES_MAX} bytes")),
        }),
    }
}

/// The body of a good answer as JSON, or the node's error.
pub(crate) async fn read<T: DeserializeOwned>(answer: Answer, what: &str) -> Result<T, ClientError> {
    let answer = good(answer).await?;
    parse(&bytes(answer).await?, what)
}

/// JSON of a node.
pub(crate) fn parse<T: DeserializeOwned>(bytes: &[u8], what: &str) -> Result<T, ClientError> {
    serde_json::from_slice(bytes).map_err(|error| ClientError::Violation(format!("{what} cannot be read: {}", line(&error.to_string()))))
}

/// The answer itself when it is a good one, else the error that it is.
pub(crate) async fn good(answer: Answer) -> Result<Answer, ClientError> {
    let status = answer.response.status();
    if matches!(status, StatusCode::OK | StatusCode::CREATED | StatusCode::NO_CONTENT) {
        return Ok(answer);
    }
    let kind = answer.response.headers().get(header::CONTENT_TYPE).map(|value| value.as_bytes().to_vec()).unwrap_or_default();
    if !kind.starts_with(b"application/problem+json") {
        return Err(ClientError::Violation(format!("it answers with HTTP status {}, and not as a node does", status.as_u16())));
    }
    let problem = parse(&bytes(answer).await?, "its error")?;
    Err(of_problem(problem))
}

fn of_problem(problem: Problem) -> ClientError {
    let problem = clean(problem);
    match (problem.code(), problem.bound) {
        ("function-failed", _) => {
            let traceback = problem.traceback.unwrap_or_default();
            ClientError::Ended(Outcome::Failed { error: problem.detail, traceback })
        }
        ("function-killed", Some(bound)) => ClientError::Ended(Outcome::Killed { bound }),
        ("trouble", _) => ClientError::Trouble(problem.detail),
        _ => ClientError::Refused(Box::new(problem)),
    }
}

fn clean(mut problem: Problem) -> Problem {
    problem.kind = line(&problem.kind);
    problem.detail = line(&problem.detail);
    problem.traceback = problem.traceback.map(|text| paragraph(&text));
    if let Some(hit) = &mut problem.line {
        for text in [&mut hit.key, &mut hit.needs, &mut hit.offers] {
            *text = line(text);
        }
    }
    problem
}

/// A description whose texts can be shown and whose policy is one.
pub(crate) fn description(mut told: Description) -> Result<Description, ClientError> {
    told.policy.check().map_err(|error| ClientError::Violation(format!("its policy is none: {}", line(&error.to_string()))))?;
    told.name = line(&told.name);
    told.contact = told.contact.map(|text| line(&text));
    told.version = line(&told.version);
    told.tee = line(&told.tee);
    let images = std::mem::take(&mut told.images);
    told.images = images.into_iter().map(|(name, list)| (line(&name), list.iter().map(|item| line(item)).collect())).collect();
    Ok(told)
}

/// A status whose texts can be shown.
pub(crate) fn status(mut told: FunctionStatus) -> FunctionStatus {
    told.name = line(&told.name);
    for text in told.methods.iter_mut().chain(&mut told.log) {
        *text = line(text);
    }
    told
}
