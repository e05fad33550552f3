//! `nodes.install` and `nodes.installed`.

use std::sync::Arc;

use serde::Deserialize;
use serde_json::{Value, json};
use tokio::{io::AsyncReadExt, net::UnixStream, time::timeout};

use bento::{Demand, NodeAddress, Tokens};
use bento_proto::{Refusal, bundle::Bundle, limits::BUNDLE_BYTES_MAX};

use super::{Place, address, bad_call, client, demand, fitting, hand_over, number, trouble, used_up};
use crate::{
    archive::Archive,
    container::Container,
    link::{Call, CallError, CallErrorKind},
    meter::Way,
    process::Process,
};

const TAKES: &str = "nodes.install takes `node`, an address, `bytes`, the bundle's length, and, if wanted, the tokens `invocation` and `shutdown`, and `conclave`, a demand";

#[derive(Deserialize)]
struct Order {
    node: String,
    bytes: u64,
    invocation: Option<String>,
    shutdown: Option<String>,
    conclave: Option<String>,
}

/// Hands over the stream for a bundle, installs what comes, and has the result ready for [`end`].
pub(super) async fn begin(process: &Process, container: &Container, call: &Call) -> Result<(), CallError> {
    let Order { node, bytes, invocation, shutdown, conclave } = call.arguments(TAKES)?;
    let node = address(container, &node)?;
    let demand = demand(container, &node, conclave.as_deref())?;
    let bytes = usize::try_from(bytes).ok().filter(|bytes| *bytes <= BUNDLE_BYTES_MAX);
    let bytes = bytes.ok_or_else(|| refused(&Refusal::TooLong { what: "the bundle", limit: BUNDLE_BYTES_MAX as u64 }))?;
    let mut tokens = Tokens::mint().map_err(|error| trouble(&error))?;
    if let Some(text) = invocation {
        tokens.invocation = text.parse().map_err(bad_call)?;
    }
    if let Some(text) = shutdown {
        tokens.shutdown = text.parse().map_err(bad_call)?;
    }
    let place = container.elsewhere.take(&node, tokens.shutdown.digest(), container.grant.installs())?;
    let (upload, result) = process.begun.uploads.begin()?;
    match hand_over(process, call, json!({"upload": upload})).await {
        Ok(stream) => {
            let done = install((process, container), (&node, demand), &tokens, place, (stream, bytes)).await;
            // A function that does not ask has its reasons.
            let _ = result.send(done);
            Ok(())
        }
        Err(error) => {
            process.begun.uploads.forget(upload);
            Err(error)
        }
    }
}

/// The tokens and the status of what was installed.
pub(super) async fn end(process: &Process, call: &Call) -> Result<Value, CallError> {
    let upload = number(call, "upload", "nodes.installed takes `upload`, a number that nodes.install gave")?;
    process.begun.uploads.end(upload).await
}

async fn install(
    (process, container): (&Process, &Container),
    (node, demand): (&NodeAddress, Option<Demand>),
    tokens: &Tokens,
    mut place: Place<'_>,
    (stream, bytes): (UnixStream, usize),
) -> Result<Value, CallError> {
    let idle = container.node.limits.idle;
    let late = |_| CallError::new(CallErrorKind::Timeout, format!("the bundle did not come within {idle}"));
    let archive = timeout(idle.duration(), read(container, stream, bytes)).await.map_err(late)??;
    let bundle = Bundle::unpack(archive.bytes()).map_err(|error| refused(&Refusal::BadBundle(error.to_string())))?;
    container.grant.covers(&bundle.manifest).map_err(|refusal| refused(&refusal))?;
    let client = client(container, demand).await?;
    // From here on it may be there, whatever is heard of it, and whether this node then still runs.
    place.keep(bundle.manifest.needs.lifetime);
    if let Err(error) = process.write_down(container).await {
        place.give_back();
        return Err(error.into());
    }
    match client.install(node, &bundle, tokens).await {
        Ok(mut status) => {
            // Lines from its import would make the answer longer than a frame; its client can ask for them.
            status.log.clear();
            fitting(json!({"invocation": tokens.invocation.reveal(), "shutdown": tokens.shutdown.reveal(), "status": status}))
        }
        Err(error) => {
            if !error.is_undecided() {
                place.give_back();
            }
            Err(trouble(&error))
        }
    }
}

/// The bundle as the function sends it, in memory that all bundles of the node share.
async fn read(container: &Container, mut stream: UnixStream, bytes: usize) -> Result<Archive, CallError> {
    let mut archive = Archive::new(Arc::clone(&container.node.incoming));
    let mut chunk = vec![0; container.meter.chunk_bytes()];
    while archive.bytes().len() < bytes {
        let most = chunk.len().min(bytes - archive.bytes().len());
        let came = stream.read(&mut chunk[..most]).await.unwrap_or(0);
        if came == 0 {
            let text = format!("{} of the bundle's {bytes} bytes came", archive.bytes().len());
            return Err(CallError::new(CallErrorKind::BadCall, text));
        }
        container.meter.pass(Way::Sent, came).await.map_err(|_| used_up())?;
        archive.push(&chunk[..came]).map_err(|refusal| match refusal {
            Refusal::Busy { .. } => CallError::new(CallErrorKind::Busy, refusal.to_string()),
            _ => refused(&refusal),
        })?;
    }
    Ok(archive)
}

fn refused(refusal: &Refusal) -> CallError {
    CallError::new(CallErrorKind::Refused, refusal.to_string())
}
