//! Pages that are fetched while their client is away.

use std::time::{Duration, Instant};

use bento_tor::Isolation;
use serde_json::Value;
use testnet::bento::{Node, SITE_RULE};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::{
    bento::Person,
    world::{Case, Error, Outcome, STREAM_DEADLINE, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_page_is_left_on_another_node_while_its_client_is_away", client_gone),
    case!("a_page_that_was_left_outlives_the_node_that_fetched_it_and_the_one_that_keeps_it_may_start_again", nodes_killed),
];

async fn client_gone(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "offline"));
    let arguments = ["browse", &bento.site.http, "--node", &bento.direct.address, "--dropbox", &bento.tor.address, "--connect", SITE_RULE];
    // The program has ended when this returns: from here on nobody waits for the page.
    let sent = person.bento(&[&arguments[..], &["--offline", "--json"]].concat()).await.good().json();
    let name = sent["name"].as_str().ok_or("no name")?.to_owned();
    let end = Instant::now() + Duration::from_secs(80);
    let collected = loop {
        let said = person.bento(&["collect", &name, "-o", "page.html", "--json"]).await;
        if said.status == Some(0) {
            break said.json();
        }
        assert!(said.stderr.contains("still on its way"), "{}", said.stderr);
        assert!(Instant::now() < end, "it never comes");
    };
    assert_eq!((&collected["outcome"], &collected["missing"]), (&"page".into(), &serde_json::json!([])), "{collected}");
    assert!(collected["fetched"].as_u64() > Some(40), "{collected}");
    assert_eq!(collected["received"].as_u64().map(|bytes| bytes % 1_000_000), Some(0), "{collected}");
    let html = std::fs::read_to_string(person.home.join("page.html"))?;
    assert!(html.contains("Content-Security-Policy") && html.contains("Gazette"));
    // Once collected, nothing of it is left.
    let again = person.bento(&["collect", &name]).await;
    assert_eq!(again.status, Some(2), "{}", again.stderr);
    let list = person.bento(&["collect", "--list", "--json"]).await.good().json();
    assert_eq!(list["errands"], serde_json::json!([]));
    Ok(())
}

async fn nodes_killed(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "left"));
    let place = |name: &str| world.scratch.path().join(name);
    let (fetches, keeps) = (place("node-fetches"), place("node-keeps"));
    let (fetches, keeps) = tokio::try_join!(
        Node::start(&world.network, &fetches, "Fetches", "direct", ""),
        Node::start(&world.network, &keeps, "Keeps", "tor", "")
    )?;
    let arguments = ["browse", &bento.site.http, "--node", &fetches.address, "--dropbox", &keeps.address, "--connect", SITE_RULE];
    let sent = person.bento(&[&arguments[..], &["--offline", "--json"]].concat()).await.good().json();
    let name = sent["name"].as_str().ok_or("no name")?.to_owned();
    until_left(world, &person, &name, &fetches.address).await?;
    fetches.program.kill().await;
    let config = keeps.config.clone();
    keeps.program.kill().await;
    let keeps = Node::start_again("Keeps", &config).await?;
    let mut said = person.bento(&["collect", &name, "-o", "page.html", "--json"]).await;
    for _ in 0..5 {
        // Its descriptor is soon renewed.
        if said.status == Some(0) {
            break;
        }
        said = person.bento(&["collect", &name, "-o", "page.html", "--json"]).await;
    }
    assert_eq!(said.good().json()["outcome"], "page");
    keeps.program.stop().await;
    Ok(())
}

/// Waits until Browser says that it has left the page, as its client could.
async fn until_left(world: &World, person: &Person, name: &str, address: &str) -> Result<(), Error> {
    let functions: Value = serde_json::from_slice(&std::fs::read(person.home.join("data/bento/functions.json"))?)?;
    let errand = &functions["errands"][name];
    let (token, output) = (errand["browser"][1].as_str().ok_or("no token")?, errand["output"].as_str().ok_or("no output")?);
    for _ in 0..3 {
        let mut stream = world.socks().connect(address, 80, &Isolation::new("until left"), STREAM_DEADLINE).await?;
        let request =
            format!("GET /v1/output/{output}?wait=30 HTTP/1.1\r\nHost: n\r\nAuthorization: Bearer {token}\r\nConnection: close\r\n\r\n");
        stream.write_all(request.as_bytes()).await?;
        let mut answer = String::new();
        stream.read_to_string(&mut answer).await?;
        if answer.starts_with("HTTP/1.1 200") {
            assert!(answer.contains("\"returned\""), "{answer}");
            return Ok(());
        }
    }
    Err("the page is never left".into())
}
