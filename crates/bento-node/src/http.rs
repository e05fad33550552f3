//! The node's HTTP interface, as `spec/openapi.yaml` describes it.

mod invoke;
mod link;
mod output;
mod page;
mod session;

use std::sync::Arc;

use axum::{
    Json, Router,
    body::Body,
    extract::{Request, State},
    http::{HeaderMap, HeaderName, HeaderValue, StatusCode, header},
    response::{IntoResponse, Response},
    routing::{get, post},
};
use bytes::Bytes;
use http_body_util::BodyExt;
use tokio::time::timeout;

use bento_proto::{Digest, InvocationToken, Problem, Refusal, SealKey, ShutdownToken};
use serde_json::json;

use crate::{archive::Archive, node::Node, process::StartError, said::say};

pub use session::{Door, Listener, Opening, Stream, operator, serve};

const INVOCATION_DIGEST: HeaderName = HeaderName::from_static("bento-invocation-digest");
const SHUTDOWN_DIGEST: HeaderName = HeaderName::from_static("bento-shutdown-digest");
const SEEN: HeaderName = HeaderName::from_static("bento-seen");
const DEPTH: HeaderName = HeaderName::from_static("bento-depth");
const SEAL: HeaderName = HeaderName::from_static("bento-seal");

/// An answer that is an error.
#[derive(Debug)]
pub struct Failure(Box<Problem>);

impl From<Refusal> for Failure {
    fn from(refusal: Refusal) -> Self {
        Self(Box::new(Problem::from(&refusal)))
    }
}

impl From<Problem> for Failure {
    fn from(problem: Problem) -> Self {
        Self(Box::new(problem))
    }
}

impl From<StartError> for Failure {
    fn from(error: StartError) -> Self {
        match error {
            StartError::Refused(refusal) => refusal.into(),
            StartError::Trouble(trouble) => {
                // The operator's to mend; the client learns only that the node failed.
                let cause = std::error::Error::source(&trouble).map(ToString::to_string).unwrap_or_default();
                say!(error, %trouble, cause, "a function could not be started");
                Problem::new("trouble", 500, "the node failed; nothing is wrong with what you asked").into()
            }
        }
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let mut response = (status, Json(&self.0)).into_response();
        response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/problem+json"));
        if status == StatusCode::UNAUTHORIZED {
            response.headers_mut().insert(header::WWW_AUTHENTICATE, HeaderValue::from_static("Bearer"));
        }
        response
    }
}

/// All that a client can ask.
pub fn router(node: Arc<Node>) -> Router {
    Router::new()
        .route("/", get(page::page))
        .route("/v1/node", get(describe))
        .route("/v1/policy", get(policy))
        .route("/v1/functions", post(install))
        .route("/v1/function", get(status).delete(shutdown))
        .route("/v1/renew", post(renew))
        .route("/v1/invoke/{method}", post(invoke::invoke))
        .route("/v1/output/{output}", get(output::fetch).delete(output::forget))
        .route("/l/{link}", get(link::follow))
        .route("/l/{link}/{*path}", get(link::follow_further))
        .route("/v1/run/{method}", post(invoke::run))
        .fallback(async || Failure::from(Problem::new("not-found", 404, "there is nothing here; GET / says what this node is")))
        .method_not_allowed_fallback(async || {
            Failure::from(Problem::new("method", 405, "this is not done with that HTTP method; see spec/openapi.yaml"))
        })
        .layer(axum::extract::DefaultBodyLimit::disable())
        .with_state(node)
}

async fn describe(State(node): State<Arc<Node>>) -> Response {
    Json(node.description()).into_response()
}

async fn policy(State(node): State<Arc<Node>>) -> Response {
    ([(header::CONTENT_TYPE, "application/toml")], node.policy().to_toml()).into_response()
}

async fn install(State(node): State<Arc<Node>>, request: Request) -> Result<Response, Failure> {
    let invocation = digest(request.headers(), &INVOCATION_DIGEST)?;
    let shutdown = digest(request.headers(), &SHUTDOWN_DIGEST)?;
    let (key, depth) = (seal_key(request.headers())?, depth(request.headers())?);
    let (archive, _) = bundle(&node, &mut request.into_body(), None).await?;
    // Once begun, it is finished, so that a client that asks again finds it or nothing.
    let installing = tokio::spawn(async move { node.install(archive, (invocation, shutdown), key, depth).await });
    let (status, new) = installing.await.map_err(|_| Problem::new("trouble", 500, "the node failed"))??;
    let code = if new { StatusCode::CREATED } else { StatusCode::OK };
    Ok((code, Json(status)).into_response())
}

async fn status(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<Response, Failure> {
    let text = bearer(&headers)?;
    let status = match text.parse::<ShutdownToken>() {
        Ok(token) => node.functions().by_shutdown(token.digest())?.container.get().ok_or(Refusal::Sealed)?.status(None).await,
        Err(_) => {
            let (container, key) = node.function(&text.parse().map_err(Refusal::BadToken)?).await?;
            container.status(Some(&key)).await
        }
    };
    Ok(Json(status).into_response())
}

async fn shutdown(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<StatusCode, Failure> {
    let token: ShutdownToken = bearer(&headers)?.parse().map_err(Refusal::BadToken)?;
    node.functions().shutdown(token.digest()).await?;
    Ok(StatusCode::NO_CONTENT)
}

async fn renew(State(node): State<Arc<Node>>, headers: HeaderMap) -> Result<Response, Failure> {
    let token: ShutdownToken = bearer(&headers)?.parse().map_err(Refusal::BadToken)?;
    Ok(Json(json!({"remaining": node.renew(&token).await?})).into_response())
}

/// The key under which a function is to be kept. Its text is in no answer.
fn seal_key(headers: &HeaderMap) -> Result<SealKey, Failure> {
    let text = headers.get(&SEAL).and_then(|value| value.to_str().ok());
    let missing = || Refusal::BadRequest(format!("the header `{SEAL}` must have the key that belongs to the invocation token"));
    Ok(text.ok_or_else(missing)?.parse().map_err(|error: bento_proto::seal::NotASealKey| Refusal::BadRequest(error.to_string()))?)
}

fn invocation_token(headers: &HeaderMap) -> Result<InvocationToken, Failure> {
    Ok(bearer(headers)?.parse().map_err(Refusal::BadToken)?)
}

/// `Authorization: Bearer TOKEN` (RFC 6750, section 2.1).
fn bearer(headers: &HeaderMap) -> Result<&str, Refusal> {
    let value = headers.get(header::AUTHORIZATION).ok_or(Refusal::NoToken)?;
    let (scheme, token) = value.to_str().ok().and_then(|text| text.split_once(' ')).ok_or(Refusal::NoToken)?;
    if scheme.eq_ignore_ascii_case("bearer") { Ok(token.trim()) } else { Err(Refusal::NoToken) }
}

fn digest(headers: &HeaderMap, name: &HeaderName) -> Result<Digest, Failure> {
    let missing = || Refusal::BadRequest(format!("the header `{name}` must have the digest of a token"));
    let text = headers.get(name).and_then(|value| value.to_str().ok()).ok_or_else(missing)?;
    Ok(text.parse().map_err(Refusal::BadToken)?)
}

/// How often what the function keeps was changed when its client saw it last, if that says so.
fn seen(headers: &HeaderMap) -> Result<Option<u64>, Refusal> {
    let Some(value) = headers.get(SEEN) else { return Ok(None) };
    let number = value.to_str().ok().and_then(|text| text.parse().ok());
    number.map(Some).ok_or_else(|| Refusal::BadRequest(format!("the header `{SEEN}` must be a whole number")))
}

/// Through how many functions on other nodes an install comes; without a word of it, through none.
fn depth(headers: &HeaderMap) -> Result<u32, Refusal> {
    let Some(value) = headers.get(DEPTH) else { return Ok(0) };
    let digits = value.to_str().ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()));
    digits.and_then(|text| text.parse().ok()).ok_or_else(|| Refusal::BadRequest(format!("the header `{DEPTH}` must be a whole number")))
}

/// A bundle of this length, or of all that comes, and what came behind it. It has the time that a session may be idle to come as a whole:
/// byte by byte, it would hold its memory for days.
async fn bundle(node: &Node, body: &mut Body, length: Option<usize>) -> Result<(Archive, Bytes), Failure> {
    let cut = || Refusal::BadRequest("the bundle was cut off".into());
    let mut archive = Archive::new(node.incoming());
    let coming = async {
        while length != Some(archive.bytes().len()) {
            let Some(frame) = body.frame().await else {
                return if length.is_none() { Ok(Bytes::new()) } else { Err(cut()) };
            };
            let Ok(mut data) = frame.map_err(|_| cut())?.into_data() else { continue };
            let left = length.map_or(data.len(), |length| length - archive.bytes().len());
            let behind = data.split_off(left.min(data.len()));
            archive.push(&data)?;
            if !behind.is_empty() {
                return Ok(behind);
            }
        }
        Ok(Bytes::new())
    };
    let idle = node.config().limits.idle;
    let late = || Refusal::BadRequest(format!("the bundle did not come within {idle}"));
    let behind = timeout(idle.duration(), coming).await.map_err(|_| late())??;
    Ok((archive, behind))
}
