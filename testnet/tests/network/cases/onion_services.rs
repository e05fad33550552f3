//! Onion services: made over the control port, reached from another Tor.

use std::time::Duration;

use bento_tor::{Isolation, Managed, OnionService, SocksError, Target};
use tokio::time::{Instant, sleep};

use crate::world::{Case, Error, Outcome, STREAM_DEADLINE, Web, World, case, get};

pub(crate) const CASES: &[Case] = &[
    case!("an_onion_service_is_reached_and_keeps_its_address_with_its_key", round_trip),
    case!("an_onion_service_that_is_not_there_is_told", missing),
];

/// How long a new onion service may take to be reachable: its descriptor must be published first.
const PUBLISHED_DEADLINE: Duration = Duration::from_secs(60);

/// How long one attempt at it may take.
const ATTEMPT_DEADLINE: Duration = Duration::from_secs(10);

async fn round_trip(world: &World) -> Outcome {
    let web = Web::start("127.0.0.1:0", "by onion service").await?;
    let host = world.client("onion-host").await?;
    let mut service = OnionService::new(80, Target::Tcp(web.address));
    let mut events = host.control().events(&["HS_DESC"]).await?;
    let onion = host.control().add_onion(&service).await?;
    let uploaded = async {
        loop {
            if events.next().await?.words().next() == Some("UPLOADED") {
                return Ok::<_, bento_tor::ControlError>(());
            }
        }
    };
    tokio::time::timeout(PUBLISHED_DEADLINE, uploaded).await??;

    assert_eq!(reach(world, &onion.address).await?, "by onion service");

    // The same key after the host was stopped: the same address, reachable again.
    host.stop().await;
    let host = world.client("onion-host").await?;
    service.key = onion.key.clone();
    assert_eq!(host.control().add_onion(&service).await?.address, onion.address);
    assert_eq!(reach(world, &onion.address).await?, "by onion service");
    Ok(())
}

/// Fetches from an onion service that was made, or made again, a moment ago.
async fn reach(world: &World, address: &str) -> Result<String, Error> {
    let end = Instant::now() + PUBLISHED_DEADLINE;
    for attempt in 0.. {
        // Each attempt on circuits of its own: a rendezvous circuit to a service that has ended sometimes stays, and then every stream that
        // may share it hangs.
        let isolation = Isolation::new(&format!("{address} {attempt}"));
        let stream = world.socks().connect(address, 80, &isolation, ATTEMPT_DEADLINE).await;
        let failure: Error = match stream {
            Ok(mut stream) => return Ok(get(&mut stream, address).await?),
            Err(error) if !error.is_passing() => return Err(error.into()),
            Err(error) => error.into(),
        };
        if Instant::now() > end {
            return Err(failure);
        }
        sleep(Duration::from_millis(200)).await;
    }
    Err("no attempt was made".into())
}

async fn missing(world: &World) -> Outcome {
    // A well-formed address whose descriptor was never published: made by a Tor that is off the network.
    let off = world.tor("off", &["DisableNetwork 1"])?;
    let off = Managed::launch(&off).await?;
    let onion = off.control().add_onion(&OnionService::new(80, Target::Tcp(([127, 0, 0, 1], 9).into()))).await?;
    let isolation = Isolation::new("missing-onion");
    let error = world.socks().connect(&onion.address, 80, &isolation, STREAM_DEADLINE).await.expect_err("nobody is there");
    assert!(matches!(error, SocksError::OnionNotFound), "{error:?}");

    let error = world.socks().connect("abc.onion", 80, &isolation, STREAM_DEADLINE).await.expect_err("this is no address");
    assert!(matches!(error, SocksError::BadOnionAddress), "{error:?}");
    Ok(())
}
