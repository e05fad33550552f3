//! Pages browsed through nodes.

use testnet::bento::SITE_RULE;

use crate::{
    bento::Person,
    world::{Case, Outcome, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_page_with_all_it_needs_comes_through_both_kinds_of_egress", gazette),
    case!("what_is_received_has_exactly_the_promised_size", sizes),
    case!("hard_sites_end_in_a_clear_error_of_the_same_size", hard),
];

async fn gazette(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "gazette"));
    for (name, node, url) in [("direct", &bento.direct, &bento.site.http), ("tor", &bento.tor, &bento.site.https)] {
        let file = format!("{name}.html");
        let browsed =
            person.bento(&["browse", url, "--node", &node.address, "--connect", SITE_RULE, "-o", &file, "--json"]).await.good().json();
        assert_eq!(browsed["missing"], serde_json::json!([]), "{browsed}");
        assert!(browsed["fetched"].as_u64() > Some(40), "{browsed}");
        assert_eq!(browsed["received"].as_u64().map(|bytes| bytes % 1_000_000), Some(0), "{browsed}");
        let html = std::fs::read_to_string(person.home.join(&file))?;
        assert!(html.contains("Content-Security-Policy") && html.contains("Gazette"));
    }
    Ok(())
}

async fn sizes(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "sizes"));
    for (bytes, bucket) in [(0, 100_000), (1, 100_000), (99_999, 100_000), (100_000, 100_000), (100_001, 100_000), (1, 1_000_000)] {
        let url = format!("{}size/{bytes}", bento.site.http);
        let (bucket_text, file) = (bucket.to_string(), format!("{bytes}-{bucket}.html"));
        let arguments =
            ["browse", &url, "--node", &bento.direct.address, "--connect", SITE_RULE, "--bucket", &bucket_text, "-o", &file, "--json"];
        let browsed = person.bento(&arguments).await.good().json();
        let received = browsed["received"].as_u64().unwrap_or(1);
        assert!(received > 0 && received % bucket == 0, "{bytes}: {browsed}");
        // It is that page, and not one that says that there is none.
        assert!(browsed["html"].as_u64() >= Some(bytes) && browsed["missing"] == serde_json::json!([]), "{bytes}: {browsed}");
    }
    Ok(())
}

async fn hard(world: &World) -> Outcome {
    let (bento, person) = (world.bento().await?, Person::new(world, "hard"));
    let base = &bento.site.http;
    // Each is an error of the page, told in words; none is told by its size, and nothing is written.
    for url in [format!("{base}test/zeros/gzip"), "http://nowhere.example/".to_owned(), "http://127.80.0.9/".to_owned()] {
        let arguments = ["browse", &url, "--node", &bento.tor.address, "--connect", SITE_RULE, "-o", "hard.html", "--json"];
        let browsed = person.bento(&arguments).await;
        assert_eq!(browsed.status, Some(1), "{url}: {} {}", browsed.text(), browsed.stderr);
        assert_eq!(browsed.json()["received"], 1_000_000, "{url}: {}", browsed.text());
        assert!(!person.home.join("hard.html").exists());
    }
    Ok(())
}
