//! `GET /l/LINK`: one method with given arguments, for whoever has the link; also for a browser with nothing else installed.

use std::sync::Arc;

use axum::{
    body::Body,
    extract::{Path, State},
    http::{HeaderMap, HeaderName, HeaderValue, Method, header},
    response::{Html, IntoResponse, Response},
};
use bytes::Bytes;
use serde_json::{Value, value::to_raw_value};

use bento_proto::{Problem, Refusal};

use super::{
    Failure,
    invoke::{Output, deliver},
    page::escape,
};
use crate::{
    keep::blocking,
    links::{self, LinkToken},
    node::{Node, trouble},
    store::StoreError,
};

/// What a page of a function may do in a browser: run its own script and save a file. It has no origin of its own, so pages of different
/// functions cannot read each other, and what it loads comes from this node.
const CONTENT_SECURITY_POLICY: &str = "sandbox allow-scripts allow-downloads; default-src 'none'; script-src 'unsafe-inline'; \
     style-src 'unsafe-inline'; img-src data: blob:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// Longest part of a path behind a link, in bytes.
const PATH_BYTES_MAX: usize = 256;

/// `GET /l/{link}`.
pub(super) async fn follow(State(node): State<Arc<Node>>, Path(link): Path<String>, method: Method, headers: HeaderMap) -> Response {
    if method == Method::HEAD {
        return answer(&headers, Err(only_get()));
    }
    answer(&headers, run(&node, &link, None).await)
}

/// `GET /l/{link}/{path}`.
pub(super) async fn follow_further(
    State(node): State<Arc<Node>>,
    Path((link, path)): Path<(String, String)>,
    method: Method,
    headers: HeaderMap,
) -> Response {
    if method == Method::HEAD {
        return answer(&headers, Err(only_get()));
    }
    answer(&headers, run(&node, &link, Some(path)).await)
}

/// A method would run for nothing, and what it counts would be counted.
fn only_get() -> Failure {
    Problem::new("method", 405, "a link is followed by GET alone").into()
}

async fn run(node: &Node, link: &str, path: Option<String>) -> Result<Response, Failure> {
    let nothing = || Problem::new("no-link", 404, "there is nothing at this link, or there is no longer");
    let token = LinkToken::parse(link).ok_or_else(nothing)?;
    let digest = token.digest();
    let registry = node.registry();
    let found = blocking(move || registry.linked(digest, token.secret())).await.map_err(trouble)?;
    let (id, key) = found.ok_or_else(nothing)?;
    let installed = node.functions().all().into_iter().find(|installed| installed.record.id == id).ok_or_else(nothing)?;
    let container = node.open(&installed, &key).await?;
    let linked = match links::read(&container, &key, digest).await {
        Ok(linked) => linked,
        Err(StoreError::Missing) => return Err(nothing().into()),
        Err(error) => return Err(trouble(error).into()),
    };
    if node.stopping.is_cancelled() {
        return Err(Refusal::Stopping.into());
    }
    let mut arguments = linked.arguments;
    if let Some(path) = path.filter(|path| !path.is_empty()) {
        // The arguments are whoever's made the link, and nobody else's.
        if arguments.contains_key("path") {
            return Err(nothing().into());
        }
        if path.len() > PATH_BYTES_MAX {
            return Err(Refusal::TooLong { what: "the path behind the link", limit: PATH_BYTES_MAX as u64 }.into());
        }
        arguments.insert("path".into(), Value::String(path));
    }
    let arguments = to_raw_value(&arguments).map_err(|_| nothing())?;
    let invocation = container.invoke(&linked.method, &arguments, Some(&key)).await?;
    let output = Output::new(invocation, &container, None, Bytes::new(), Body::empty());
    drop(container);
    // A browser takes no trailers: a method that does not return ends the body short.
    deliver(output, false).await
}

fn answer(headers: &HeaderMap, result: Result<Response, Failure>) -> Response {
    let is_browser = headers.get_all(header::ACCEPT).iter().any(|value| value.to_str().is_ok_and(|text| text.contains("text/html")));
    let result = result.map_err(|mut failure| {
        // Its error in one line is for whoever comes; where in its code is for who holds the token.
        failure.0.traceback = None;
        failure
    });
    let mut response = match result {
        Ok(response) => response,
        Err(failure) if is_browser => {
            let (status, detail) = (failure.0.status, escape(&failure.0.detail));
            let page = format!(
                "<!doctype html><meta charset=utf-8><title>Bento</title><style>body{{font-family:sans-serif;max-width:40rem;margin:4rem auto;padding:0 1rem}}</style><h1>This did not work</h1><p>{detail}.</p>"
            );
            let mut response = Html(page).into_response();
            *response.status_mut() = status.try_into().unwrap_or_default();
            response
        }
        Err(failure) => failure.into_response(),
    };
    let more = [
        (header::CONTENT_SECURITY_POLICY, CONTENT_SECURITY_POLICY),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        // Its own script asks from no origin; whoever has the link may have what is behind it.
        (header::ACCESS_CONTROL_ALLOW_ORIGIN, "*"),
        (HeaderName::from_static("x-robots-tag"), "noindex"),
    ];
    // Nobody who follows a link reads trailers.
    response.headers_mut().remove(header::TRAILER);
    for (name, value) in more {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    response
}
