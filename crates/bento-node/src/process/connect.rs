//! The call `net.connect`: a stream to elsewhere.

use std::{num::NonZeroU16, sync::Arc};

use serde::Deserialize;
use serde_json::json;
use tokio::sync::OwnedSemaphorePermit;

use super::{Process, answer_call};
use crate::{
    container::Container,
    controller,
    link::{Call, CallError, CallErrorKind, stream_pair},
    meter::{self, Way},
};

/// What an outgoing connection counts for in traffic, in bytes, before its first byte: about the cells and packets that making one takes.
pub(crate) const TRY_BYTES: usize = 1024;

/// Room for one more stream, in the function's own bound and in the node's.
pub(crate) fn connect_permit(container: &Container) -> Result<(OwnedSemaphorePermit, OwnedSemaphorePermit), CallError> {
    let busy = |text| CallError::new(CallErrorKind::Busy, text);
    let own = Arc::clone(&container.connections)
        .try_acquire_owned()
        .map_err(|_| busy("the function has as many connections as its descriptors allow"))?;
    let all =
        Arc::clone(&container.node.connections).try_acquire_owned().map_err(|_| busy("the node has as many connections as it takes"))?;
    Ok((own, all))
}

impl Process {
    pub(super) async fn connect(&self, call: &Call, container: &Container) {
        #[derive(Deserialize)]
        struct Place {
            host: String,
            port: NonZeroU16,
        }
        if let Ok(Place { host, port }) = call.arguments("")
            && let Some(door) = controller::door(&host, port.get(), &container.grant)
        {
            let value = json!({"address": "127.0.0.1", "port": port});
            return controller::open(self, container, call.number, door, value).await;
        }
        let connected = async {
            let Place { host, port } = call.arguments("net.connect takes `host`, a text, and `port`, 1 to 65535")?;
            let port = port.get();
            container.grant.permits_call("net.connect").map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string()))?;
            // Counted also when nothing comes of it: a try makes the node work, and Tor.
            container.meter.pass(Way::Sent, TRY_BYTES).await.map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))?;
            let (far, address) = container.node.egress.connect(&host, port, &container.grant, &container.isolation).await?;
            let pair = stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))?;
            Ok((far, pair, json!({"address": address.to_string(), "port": port})))
        };
        match connected.await {
            Err(error) => {
                let _ = answer_call(&self.link, call.number, Err(error), None).await;
            }
            Ok((far, (ours, theirs), value)) => {
                if answer_call(&self.link, call.number, Ok(value), Some(theirs)).await.is_ok() {
                    meter::join(ours, far, &*container.meter).await;
                }
            }
        }
    }
}
