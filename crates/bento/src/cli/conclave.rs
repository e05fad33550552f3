//! `bento verify`, the conclaves of `bento nodes`, and what a person says of which are accepted.

use std::{
    fs::{self, File},
    io::{self, Read as _},
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use bento::{Attested, Demand, DemandError, NodeAddress, Pinned};
use bento_proto::Span;
use serde_json::json;
use tokio::task::JoinSet;

use super::{
    args::{self, Options},
    ask,
    context::Context,
    failure::{EVIDENCE, Failure},
    function::time,
    place::{self, lock, make_private, write_whole},
    table::table,
};

/// Longest file that is read: a list of measurements has at most 128 KiB.
const BYTES_MAX: u64 = 256 * 1024;

/// Which conclaves are accepted, by the options and what was kept.
pub(crate) fn demand(options: &Options) -> Result<Demand, Failure> {
    if let Some(first) = options.simulator_protects_nobody.first() {
        let roots = options.simulator_protects_nobody.iter().map(|directory| read(&directory.join("root.der")));
        let (roots, measurements) = (roots.collect::<Result<Vec<_>, _>>()?, text(&first.join("measurements"))?);
        return Demand::simulated(&roots, &measurements)
            .map_err(|error| failure(&error).with_hint("the directory is the one that the simulator was told to hand over: `--give DIR`"));
    }
    let config = place::config()?;
    let hint =
        "get a list of measurements and the key of its publisher, from somebody whom you believe: `--measurements FILE --publisher KEY`";
    let path = options.measurements.clone().unwrap_or_else(|| config.join("measurements"));
    let publisher = match &options.publisher {
        Some(key) => key.clone(),
        None if config.join("publisher").exists() => text(&config.join("publisher"))?.trim().to_owned(),
        None => return Err(Failure::input("nothing says which conclaves are accepted: no publisher's key").with_hint(hint)),
    };
    if options.measurements.is_none() && !path.exists() {
        return Err(Failure::input(format!("nothing says which conclaves are accepted: there is no {}", path.display())).with_hint(hint));
    }
    pinned(&text(&path)?, &publisher, options)
}

/// Reads a list, and keeps which version it was: an older one is never taken again.
fn pinned(list: &str, publisher: &str, options: &Options) -> Result<Demand, Failure> {
    let directory = place::data()?;
    make_private(&directory)?;
    let name = if publisher.bytes().all(|byte| byte.is_ascii_hexdigit()) { publisher.to_ascii_lowercase() } else { String::new() };
    let path = directory.join(format!("measurements-{name}.json"));
    let _lock = lock(&path)?;
    let seen: Pinned = match fs::read(&path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|_| {
            Failure::input(format!("{} is damaged", path.display())).with_hint("it says which version of the list was seen last")
        })?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => Pinned::default(),
        Err(error) => return Err(Failure::file("reading", &path, &error)),
    };
    let (demand, now) = Demand::hardware(list, publisher, &options.accept_state, seen).map_err(|error| failure(&error))?;
    if now != seen {
        let bytes = serde_json::to_vec(&now).unwrap_or_default();
        write_whole(&path, &bytes, 0o600).map_err(|error| Failure::file("writing", &path, &error))?;
    }
    Ok(demand)
}

fn failure(error: &DemandError) -> Failure {
    let status = if matches!(error, DemandError::Refused(_)) { EVIDENCE } else { super::failure::BAD_INPUT };
    Failure::new(status, bento::line(&error.to_string())).with_hint("look at the list of measurements and the key of its publisher")
}

fn text(path: &Path) -> Result<String, Failure> {
    String::from_utf8(read(path)?).map_err(|_| Failure::input(format!("{} is no text", path.display())).with_hint("look at the file"))
}

fn read(path: &Path) -> Result<Vec<u8>, Failure> {
    let mut bytes = Vec::new();
    let reading = File::open(path).and_then(|file| file.take(BYTES_MAX).read_to_end(&mut bytes));
    reading.map_err(|error| Failure::file("reading", path, &error))?;
    Ok(bytes)
}

/// Judges one conclave, and says what was found.
pub(crate) async fn verify(context: &Context, args: args::Verify) -> Result<(), Failure> {
    let (name, node) = context.node(&args.node)?;
    let node = node.in_conclave();
    let client = context.client(&node).await?;
    let found = client.attest(&node).await.map_err(|error| {
        let mut failure = Failure::from(error);
        if failure.status == EVIDENCE {
            failure.text = format!("{name}: {}", failure.text);
        }
        failure
    })?;
    let mut rows = vec![row("node", &node.authority()), row("kind", &found.kind)];
    rows.push(row("runs", &found.runs));
    rows.push(row("measured", &found.measured));
    rows.push(row("configuration", &found.configuration));
    rows.push(row("state", &found.state));
    rows.extend(found.advisories.iter().map(|advisory| row("advisory", advisory)));
    rows.extend(found.facts.iter().map(|(key, value)| row(key, value)));
    rows.push(row("holds for", &time(left(&found))));
    rows.push(row("verdict", verdict(&found)));
    context.say(&table(&rows), &json!({"name": name, "node": node.authority(), "verdict": verdict(&found), "evidence": found}))
}

fn row(key: &str, value: &str) -> Vec<String> {
    vec![key.to_owned(), value.to_owned()]
}

fn verdict(found: &Attested) -> &'static str {
    if found.simulated { "as a simulator's it would be accepted; IT PROTECTS FROM NOBODY" } else { "accepted" }
}

fn left(found: &Attested) -> Span {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    Span::seconds(found.until.saturating_sub(now))
}

/// Asks all nodes of the list which conclave they have, and judges those that have one.
pub(crate) async fn all(context: &Context) -> Result<(), Failure> {
    let nodes: Vec<(String, NodeAddress)> = context.nodes()?.filled()?;
    let count = nodes.len();
    // What a node says of itself is asked of the node, not of its conclave, which may not be accepted.
    let demand = context.demand();
    let mut questions = JoinSet::new();
    for (index, (name, address)) in nodes.into_iter().enumerate() {
        let conclave = address.in_conclave();
        let client = context.asking_client(&conclave, demand.as_ref().ok()).await;
        questions.spawn(async move {
            let client = match client {
                Ok(client) => client,
                Err(failure) => return (index, name, conclave, "?".to_owned(), Err(failure.text)),
            };
            let plain: Option<NodeAddress> = conclave.authority().parse().ok();
            let told = match &plain {
                Some(plain) => client.describe(plain).await,
                None => return (index, name, conclave, "?".to_owned(), Err(String::new())),
            };
            let found = match &told {
                Err(error) => Err(error.to_string()),
                Ok(told) if told.tee == "none" => Err("no conclave".into()),
                Ok(_) => client.attest(&conclave).await.map_err(|error| error.to_string()),
            };
            (index, name, conclave, told.map_or_else(|_| "?".into(), |told| told.tee), found)
        });
    }
    context.show.now(&format!("asking {}", ask::counted(count)));
    let mut answers: Vec<_> = Vec::new();
    while let Some(answer) = questions.join_next().await {
        answers.extend(answer.ok());
    }
    answers.sort_by_key(|(index, ..)| *index);
    let mut rows = vec![["node", "conclave", "state", "verdict"].map(str::to_owned).to_vec()];
    let mut json = Vec::new();
    for (_, name, address, tee, found) in answers {
        let (state, text) = match &found {
            Ok(found) => (found.state.clone(), verdict(found).to_owned()),
            Err(text) => ("-".to_owned(), bento::line(text)),
        };
        json.push(
            json!({"name": name, "address": address.authority(), "tee": tee, "accepted": found.is_ok(), "state": state, "verdict": text}),
        );
        rows.push(vec![name, tee, state, text]);
    }
    let said = context.say(&table(&rows), &json!({ "nodes": json }));
    // Without a list nothing was judged, and the reason is said once, at the end.
    said.and(demand.map(drop))
}
