//! Streams that leave through an exit.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use bento_tor::{Isolation, SocksError};

use crate::world::{Case, Outcome, STREAM_DEADLINE, Web, World, case, fetch};

pub(crate) const CASES: &[Case] = &[
    case!("a_page_is_fetched_through_an_exit_by_its_address", by_address),
    case!("a_page_is_fetched_through_an_exit_by_its_name", by_name),
    case!("a_name_that_does_not_exist_is_told_at_once", missing_name),
    case!("a_port_where_nobody_listens_is_told_at_once", refused),
];

async fn by_address(world: &World) -> Outcome {
    let web = Web::start("127.0.0.1:0", "by address").await?;
    assert_eq!(fetch(&world.socks(), "127.0.0.1", web.address.port(), "by-address").await?, "by address");
    Ok(())
}

async fn by_name(world: &World) -> Outcome {
    let web = Web::start("127.61.0.1:0", "by name").await?;
    world.network.names().set("page.example", &[Ipv4Addr::new(127, 61, 0, 1)]);
    let isolation = Isolation::new("by-name");
    let address = world.socks().resolve("page.example", &isolation, STREAM_DEADLINE).await?;
    assert_eq!(address, IpAddr::from([127, 61, 0, 1]));
    assert_eq!(fetch(&world.socks(), "page.example", web.address.port(), "by-name").await?, "by name");
    assert!(world.network.names().asked("page.example") > 0);
    Ok(())
}

async fn missing_name(world: &World) -> Outcome {
    let asked = Instant::now();
    let error = fetch(&world.socks(), "nobody.example", 80, "missing").await.expect_err("nothing may answer");
    assert!(matches!(error, SocksError::HostUnreachable), "{error:?}");
    assert!(asked.elapsed() < STREAM_DEADLINE / 2, "it took {:?}", asked.elapsed());

    let isolation = Isolation::new("missing");
    let error = world.socks().resolve("nobody.example", &isolation, STREAM_DEADLINE).await.expect_err("nothing may answer");
    assert!(matches!(error, SocksError::HostUnreachable), "{error:?}");
    Ok(())
}

async fn refused(world: &World) -> Outcome {
    // A port that was free a moment ago.
    let port = Web::start("127.0.0.1:0", "").await?.address.port();
    let asked = Instant::now();
    let error = fetch(&world.socks(), "127.0.0.1", port, "refused").await.expect_err("nothing may answer");
    // Exits of tor 0.4.9 end such a stream with the reason MISC, so the client often cannot say more than that it failed.
    assert!(matches!(error, SocksError::Refused | SocksError::General), "{error:?}");
    assert!(asked.elapsed() < STREAM_DEADLINE / 2, "it took {:?}", asked.elapsed());
    Ok(())
}
