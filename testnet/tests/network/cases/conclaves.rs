//! Conclaves of nodes that are reached over Tor. They are simulated, and so protect from nobody; that a host sees nothing is tried in `crates/bento-simulator`.

use std::time::{Duration, Instant};

use testnet::bento::{Node, SITE_RULE};

use crate::{
    bento::Person,
    world::{Case, Outcome, World, case},
};

pub(crate) const CASES: &[Case] =
    &[case!("a_page_and_a_file_in_shards_go_from_one_nodes_conclave_to_anothers_and_to_their_client", conclave_to_conclave)];

async fn conclave_to_conclave(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "conclaves"));
    let place = |name: &str| world.scratch.path().join(name);
    let (fetches, keeps) = (place("conclave-fetches"), place("conclave-keeps"));
    let ((fetches, inside), (keeps, kept)) = tokio::try_join!(
        Node::start_with_conclave(&world.network, &fetches, "Fetches", "direct"),
        Node::start_with_conclave(&world.network, &keeps, "Keeps", "tor")
    )?;
    let given = [&inside.given, &kept.given].map(|given| given.display().to_string());
    let accepted = given.each_ref().map(|given| ["--simulator-protects-nobody", given]).concat();
    let inside_only = [&["--require-conclave"][..], &accepted].concat();

    // Each is the conclave of the onion service that it was asked for at, and of no other.
    for (node, given) in [(&fetches, &given[0]), (&keeps, &given[1])] {
        let told = person.bento(&["verify", &node.address, "--json", "--simulator-protects-nobody", given]).await.good().json();
        assert_eq!((&told["evidence"]["kind"], &told["evidence"]["simulated"]), (&"simulated-tdx".into(), &true.into()), "{told}");
    }
    let other = person.bento(&["verify", &fetches.address, "--simulator-protects-nobody", &given[1]]).await;
    assert_eq!(other.status, Some(4), "{}", other.stderr);
    // A node without one says so, and nothing more is said to it.
    let none = person.bento(&[&["browse", &bento.site.http, "--node", &bento.direct.address][..], &inside_only].concat()).await;
    assert!(none.status == Some(4) && none.stderr.contains("has none"), "{}", none.stderr);

    // Egress through Tor: the host of this one opens it, TLS ends inside.
    let page = ["browse", &bento.site.https, "--node", &keeps.address, "-o", "page.html", "--json"];
    let page = [&page[..], &["--connect", SITE_RULE], &inside_only].concat();
    let told = person.bento(&page).await.good().json();
    assert_eq!((&told["outcome"], &told["missing"]), (&"page".into(), &serde_json::json!([])), "{told}");

    let sent = ["browse", &bento.site.https, "--offline", "--json", "--node", &fetches.address, "--dropbox", &keeps.address];
    let sent = [&sent[..], &["--connect", SITE_RULE], &inside_only].concat();
    let name = person.bento(&sent).await.good().json()["name"].as_str().ok_or("no name")?.to_owned();
    let collect = [&["collect", &name, "-o", "left.html", "--json"][..], &inside_only].concat();
    let end = Instant::now() + Duration::from_secs(120);
    let collected = loop {
        let said = person.bento(&collect).await;
        if said.status == Some(0) {
            break said.json();
        }
        assert!(said.stderr.contains("still on its way"), "{}", said.stderr);
        assert!(Instant::now() < end, "it never comes");
    };
    assert_eq!(collected["outcome"], "page", "{collected}");
    assert!(std::fs::read_to_string(person.home.join("left.html"))?.contains("Gazette"));

    // A file in two shards, made in one of them: what is in conclaves stays there without being told again.
    let letter = "nobody's business".repeat(5000);
    std::fs::write(person.home.join("letter"), &letter)?;
    for (name, node) in [("fetches", &fetches), ("keeps", &keeps)] {
        person.bento(&["nodes", "add", name, &node.address]).await.good();
    }
    let put = ["shard", "put", "letter", "--need", "2", "--of", "2", "--node", "fetches", "--json"];
    let told = person.bento(&[&put[..], &inside_only].concat()).await.good().json();
    let mut nodes: Vec<&str> = told["nodes"].as_array().into_iter().flatten().filter_map(|node| node.as_str()).collect();
    nodes.sort_unstable();
    assert_eq!(nodes, ["fetches", "keeps"], "{told}");
    let got = ["shard", "get", "letter", "-o", "back", "--node", "keeps", "--json"];
    person.bento(&[&got[..], &accepted].concat()).await.good();
    assert_eq!(std::fs::read_to_string(person.home.join("back"))?, letter);
    let ended = person.bento(&[&["shard", "rm", "letter", "--json"][..], &accepted].concat()).await.good().json();
    assert_eq!(ended["ended"], 2, "{ended}");
    for program in [inside.program, kept.program, fetches.program, keeps.program] {
        program.stop().await;
    }
    Ok(())
}
