//! The examples of `docs/writing-functions.md` that use Tor, as they stand there.

use serde_json::json;

use super::broker::Going;
use crate::{
    bento::{Person, Said},
    world::{Case, Outcome, Web, World, case},
};

pub(crate) const CASES: &[Case] = &[case!("the_examples_of_the_documentation_that_use_tor_do_what_it_says", examples)];

const NEEDS: &str = "image = 'tor'\nmemory = '256 MiB'\ncalls = ['tor.*']\ncircuits = 2\nonion_services = 1\nprocesses = 32\n\
    connect = ['accept 127.80.0.0/16:*', 'accept *:80']";

const TEXT: &str = include_str!("../../../../docs/writing-functions.md");

/// Blocks of code of this language.
fn blocks(language: &str) -> impl Iterator<Item = &'static str> {
    let begin = format!("```{language}\n");
    let parts: Vec<&str> = TEXT.split("```").collect();
    // Every other part is within a block; it begins with the language.
    let inside = parts.into_iter().skip(1).step_by(2);
    inside.filter_map(move |part| part.strip_prefix(begin.trim_start_matches('`')))
}

async fn examples(world: &World) -> Outcome {
    let (lender, person) = (world.lender().await?, Person::new(world, "examples"));
    let web = Web::start("127.80.47.1:0", "here").await?;
    let code: Vec<&str> = blocks("python").filter(|block| block.contains("api.tor.")).collect();
    let function = person.function("examples", NEEDS, &code.join("\n\n"));
    let node = lender.node.address.as_str();
    let run = async |method: &str, arguments: &[String]| -> Said {
        let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
        person.bento(&[&["run", node, &function, method][..], &arguments].concat()).await.good()
    };

    let port = web.address.port();
    let said = run("ways", &["host=127.80.47.1".to_owned(), format!("port={port}")]).await.text();
    let lines: Vec<&str> = said.lines().collect();
    assert!(lines[0].starts_with("2 of ") && lines[0].ends_with(&format!("relays exit to port {port}")), "{said}");
    assert_eq!(lines[1..], ["chosen: 3 relays to 127.80.47.1", "given: 3 relays to 127.80.47.1"]);

    let said = run("watched", &[]).await.text();
    assert!(said.starts_with("circuit launched\n") && said.ends_with("circuit closed\n"), "{said}");

    let mut serving = Going::start(&person, node, &function, "serve", &json!({}))?;
    let address = serving.line().await?;
    let said = run("meet", &[format!("address={address}")]).await.text();
    assert!(said.starts_with("hs-descriptor 3: ") && said.ends_with("you came to port 80\n"), "{said}");
    serving.end().await?;

    let said = run("scan", &["exit=exit1".to_owned()]).await.text();
    assert!(said.contains("'middle1'") && said.contains("'exit1'"), "{said}");

    // The output stands there as well.
    let said = run("refused", &[]).await.text();
    let shown = blocks("").find(|block| block.starts_with("MAPADDRESS")).ok_or("no output is shown")?;
    assert_eq!(said, shown);
    Ok(())
}
