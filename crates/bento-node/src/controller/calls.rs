//! The calls that lead here: `tor.controller`, `tor.listen`, and `net.connect` to the two ports that a `tor` of the function's own would have.

use std::{net::IpAddr, num::NonZeroU16};

use serde::Deserialize;
use serde_json::{Value, json};

use bento_proto::Grant;

use crate::{
    broker::Directory,
    container::Container,
    link::{Call, CallError, CallErrorKind, stream_pair},
    meter::{self, Way},
    process::{Process, TRY_BYTES, answer_call, connect_permit},
};

/// The call that all of this is granted by.
const CALL: &str = "tor.controller";

/// What a connection to the function's own address leads to.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub(crate) enum Door {
    /// The control port.
    Control,
    /// The SOCKS port.
    Socks,
}

/// Is it one of the calls here?
pub(crate) fn serves(call: &str) -> bool {
    call == CALL || call == "tor.listen"
}

/// The door that is at this address of the function's own, if its grant has them. Where it has not, the address is the node's, as for all others.
pub(crate) fn door(host: &str, port: u16, grant: &Grant) -> Option<Door> {
    let is_own = host == "localhost" || host.parse::<IpAddr>().is_ok_and(|address| address.to_canonical().is_loopback());
    let door = match port {
        9051 => Door::Control,
        9050 => Door::Socks,
        _ => return None,
    };
    (is_own && grant.permits_call(CALL).is_ok()).then_some(door)
}

/// Does what a call asks for, until the last byte of its stream.
pub(crate) async fn serve(process: &Process, container: &Container, call: &Call) {
    let permitted = container.grant.permits_call(CALL);
    let served = match permitted.map_err(|refusal| CallError::new(CallErrorKind::Refused, refusal.to_string())) {
        Err(error) => Err(error),
        Ok(()) if call.name == CALL => match connect_permit(container) {
            Err(error) => Err(error),
            Ok(_permits) => {
                open(process, container, call.number, Door::Control, Value::Null).await;
                return;
            }
        },
        Ok(()) => listen(process, container, call).await,
    };
    if let Some(answer) = served.transpose() {
        let _ = answer_call(process.link(), call.number, answer, None).await;
    }
}

/// Hands over a stream to what is behind a door, and serves it to its end.
pub(crate) async fn open(process: &Process, container: &Container, call: u64, door: Door, value: Value) {
    let made = async {
        // A control connection that can say nothing is none: without Tor there is no port to connect to.
        process.broker().directory(Directory::Version).await?;
        stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))
    };
    let (ours, theirs) = match made.await {
        Ok(pair) => pair,
        Err(error) => {
            let _ = answer_call(process.link(), call, Err(error), None).await;
            return;
        }
    };
    // Heard from before it can be used.
    let view = process.view(container);
    if answer_call(process.link(), call, Ok(value), Some(theirs)).await.is_ok() {
        match door {
            Door::Control => view.control(ours).await,
            Door::Socks => view.socks(ours).await,
        }
    }
}

async fn listen(process: &Process, container: &Container, call: &Call) -> Result<Option<Value>, CallError> {
    #[derive(Deserialize)]
    struct Port {
        port: NonZeroU16,
    }
    let Port { port } = call.arguments("tor.listen takes `port`, 1 to 65535")?;
    let Some(far) = process.view(container).listen(port.get()).await? else { return Ok(Some(json!({"port": null}))) };
    let _permits = connect_permit(container)?;
    let passed = container.meter.pass(Way::Received, TRY_BYTES).await;
    passed.map_err(|_| CallError::new(CallErrorKind::Refused, "traffic is used up"))?;
    let (ours, theirs) = stream_pair().map_err(|_| CallError::new(CallErrorKind::Busy, "the node has no more sockets"))?;
    if answer_call(process.link(), call.number, Ok(json!({"port": port})), Some(theirs)).await.is_ok() {
        meter::join(ours, far, &*container.meter).await;
    }
    Ok(None)
}

#[cfg(test)]
mod tests {
    use bento_proto::{Manifest, Policy};

    use super::*;

    #[test]
    fn the_doors_are_at_two_ports_of_ones_own_address_and_only_where_they_are_granted() {
        let policy =
            Policy::parse("[offers]\negress = [\"direct\"]\ncalls = [\"net.*\", \"tor.*\"]\nconnect = [\"accept *:*\"]\n").unwrap();
        let grant = |calls: &str| {
            let needs = format!("name = \"n\"\nmethods = [\"m\"]\n[needs]\ncalls = [{calls}]\nconnect = ['accept *:9051']\n");
            policy.admit(&Manifest::parse(&needs).unwrap()).unwrap()
        };
        let (with, without) = (grant("'net.connect', 'tor.controller'"), grant("'net.connect', 'tor.circuit'"));
        for own in ["127.0.0.1", "127.1.2.3", "localhost", "::1", "::ffff:127.0.0.1"] {
            assert_eq!((door(own, 9051, &with), door(own, 9050, &with)), (Some(Door::Control), Some(Door::Socks)), "{own}");
            assert_eq!((door(own, 9052, &with), door(own, 9051, &without)), (None, None), "{own}");
        }
        for other in ["192.0.2.1", "example.org", "localhost.example.org", "127.0.0.1.example.org", "::", "0.0.0.0"] {
            assert_eq!(door(other, 9051, &with), None, "{other}");
        }
    }
}
