//! Shard at work: installed, asked, waited for, asked again where its node was stopped, and ended.

use std::time::Duration;

use bento::{Bounds, ClientError, Drip, Intake, Load, OutputId, Progress, Shard, Shards, Split};
use bento_proto::{Outcome, Span, bundle::Bundle};
use tokio::time::sleep;

use super::{
    failure_of,
    kept::{Open, Place, Task},
    nodes::{Chosen, File, Wanted, choose},
    now_ms,
};
use crate::cli::{
    context::Context,
    failure::{Failure, NODE},
    function::is_unknown,
};

/// How long one question for the end waits where somebody watches, and where nobody does.
const WATCHED: Duration = Duration::from_secs(3);
const UNWATCHED: Duration = Duration::from_secs(45);

/// Tries to ask without an answer. With the pauses between them some minutes, besides what each try takes.
const TRIES_MAX: u32 = 8;

/// Pause before something is asked again; each further one is longer by as much.
const AGAIN: Duration = Duration::from_secs(3);

/// How long a node may take to be told that its function is no longer needed.
const END: Duration = Duration::from_secs(20);

/// How it ended.
pub(super) enum Ended {
    /// With the shards.
    Shards(Box<Shards>),
    /// Parts of the file are not where they were left.
    Missing(Vec<usize>),
    /// It goes on without us.
    Left,
}

/// What Shard needs of its node for this file.
fn load(open: &Open, task: Task, installs: u32) -> Load {
    let kept = &open.kept;
    let split = kept.shards.as_ref().map_or(kept.split, Shards::split);
    Load { size: kept.file.sealed, split, keep: kept.keep, made: count(open, task), installs }
}

/// Shard with room for a task.
pub(super) fn bundle(task: Task, load: &Load) -> Result<Bundle, ClientError> {
    match task {
        Task::Repair { thorough, .. } => load.repair_bundle(thorough),
        Task::Spread => load.shard_bundle(),
    }
}

/// How many functions Shard has elsewhere at least, and how many nodes have to take a shard.
fn count(open: &Open, task: Task) -> u32 {
    match (task, &open.kept.shards) {
        // All may be lost but those that are needed.
        (Task::Repair { more, .. }, Some(shards)) => (shards.split().of - shards.k).saturating_add(more).max(1),
        _ => open.kept.split.of,
    }
}

/// Chooses nodes for what is begun.
async fn chosen(context: &Context, open: &Open, task: Task, host: Option<&str>) -> Result<Chosen, Failure> {
    let installs = count(open, task);
    // A repair needs as many nodes as shards are lost, which only Shard will know.
    let count = if matches!(task, Task::Repair { .. }) { 1 } else { installs as usize };
    choose(context, &Wanted { load: load(open, task, installs), task, count, host, file: None }).await
}

/// Chooses nodes for a file of which nothing is kept yet, nor read.
pub(super) async fn chosen_for(context: &Context, file: File, split: Split, keep: Span, host: Option<&str>) -> Result<Chosen, Failure> {
    let load = Load { size: file.sealed()?, split, keep, made: split.of, installs: split.of };
    choose(context, &Wanted { load, task: Task::Spread, count: split.of as usize, host, file: Some(file) }).await
}

/// Shard, installed, and what was chosen if that was done now or just before. One that has ended meanwhile is followed by another.
pub(super) async fn shard(
    context: &Context,
    open: &mut Open,
    host: Option<&str>,
    mut chosen: Option<Chosen>,
) -> Result<(Shard, Option<Chosen>), Failure> {
    let task = open.work()?.task;
    if let (Some(host), Some(place)) = (host, &open.work()?.shard.clone())
        && context.node(host)?.1 != place.node()?
    {
        context.show.step("another node is to do it; what the other one has of it is given up");
        give_up(context, place).await;
        forgotten(open)?;
    }
    loop {
        let place = match open.work()?.shard.clone() {
            Some(place) => place,
            None => {
                let found = match chosen.take() {
                    Some(found) => found,
                    None => self::chosen(context, open, task, host).await?,
                };
                let place = Place::new(&found.node, found.installs)?;
                open.work()?.shard = Some(place.clone());
                open.save()?;
                chosen = Some(found);
                place
            }
        };
        let (node, tokens) = (place.node()?, place.tokens()?);
        let client = context.client(&node).await?;
        let shard = Shard { client: client.clone(), node: node.clone(), token: tokens.invocation.clone() };
        if place.installed {
            match client.status(&node, &tokens.invocation).await {
                Ok(_) => return Ok((shard, chosen)),
                Err(error) if is_unknown(&error) => {
                    context.show.step("its node does not know it any more; it begins anew");
                    forgotten(open)?;
                    continue;
                }
                Err(error) => return Err(elsewhere(Failure::about(error, "shard", None), open)),
            }
        }
        let load = load(open, task, place.installs);
        let bundle = bundle(task, &load)?;
        match client.install(&node, &bundle, &tokens).await {
            Ok(_) => {
                let mut place = place;
                (place.installed, place.renewed) = (true, now_ms());
                open.work()?.shard = Some(place);
                open.save()?;
                let name = chosen.as_ref().map_or_else(|| node.to_string(), |found| found.host.clone());
                context.show.step(&format!("installed shard on {name}"));
                return Ok((shard, chosen));
            }
            Err(error) if error.is_undecided() => return Err(elsewhere(Failure::from(error), open)),
            Err(error) => {
                // It is not there. Another time another node may be chosen.
                forgotten(open)?;
                return Err(Failure::about(error, "shard", None));
            }
        }
    }
}

/// Nothing of it is at a node any more.
fn forgotten(open: &mut Open) -> Result<(), Failure> {
    let work = open.work()?;
    (work.shard, work.staged, work.output) = (None, false, None);
    open.save()
}

fn elsewhere(failure: Failure, open: &Open) -> Failure {
    let name = &open.name;
    failure.with_hint(format!("the same command goes on; `--node` takes another node; `bento shard rm {name}` gives it up"))
}

/// Has Shard do what is begun, and waits for its end unless `leave`.
pub(super) async fn done(
    context: &Context,
    open: &mut Open,
    shard: &Shard,
    mut chosen: Option<Chosen>,
    parts: Option<(Drip, Vec<Intake>)>,
    leave: bool,
) -> Result<Ended, Failure> {
    let task = open.work()?.task;
    let wait = if context.show.is_watched() { WATCHED } else { UNWATCHED };
    let (mut tries, mut stopped) = (0, 0);
    loop {
        let id = match open.work()?.output()? {
            Some(id) => id,
            None => {
                let found = match chosen.take() {
                    Some(found) => found,
                    None => self::chosen(context, open, task, Some(&shard.node.to_string())).await?,
                };
                let id = OutputId::mint()?;
                open.work()?.output = Some(id.to_string());
                open.save()?;
                let begun = begin(open, shard, id, &found, parts.as_ref()).await;
                chosen = Some(found);
                match begun {
                    Ok(()) => {}
                    // It may have begun all the same; then it is found.
                    Err(error) if error.is_undecided() || is_passing(&error) => context.show.step(&format!("the stream broke: {error}")),
                    Err(error) => {
                        open.work()?.output = None;
                        open.save()?;
                        return Err(Failure::about(error, "shard", None));
                    }
                }
                id
            }
        };
        let asked = shard.progress(id, if leave { Duration::ZERO } else { wait }).await;
        match asked {
            Ok(Progress::Running(_)) if leave => return Ok(Ended::Left),
            Ok(Progress::Running(thousandths)) => {
                tries = 0;
                let (size, what) = (open.kept.file.sealed, if matches!(task, Task::Spread) { "spread" } else { "repaired" });
                context.show.moved(what, size * thousandths / 1000, size);
            }
            Ok(Progress::Done(shards)) => return Ok(Ended::Shards(shards)),
            Ok(Progress::Stopped) => {
                stopped += 1;
                open.work()?.output = None;
                open.save()?;
                if stopped > TRIES_MAX {
                    return Err(elsewhere(Failure::new(NODE, "its node is stopped again and again"), open));
                }
                context.show.step("its node was stopped meanwhile; it goes on");
                sleep(AGAIN).await;
            }
            // It never began, as far as its node knows.
            Err(ClientError::Refused(problem)) if problem.code() == "no-output" && tries < TRIES_MAX => {
                tries += 1;
                open.work()?.output = None;
                open.save()?;
            }
            Err(error) if is_passing(&error) && tries < TRIES_MAX => {
                tries += 1;
                context.show.step(&format!("the stream broke: {error}"));
                sleep(AGAIN * tries).await;
            }
            Err(error) if is_unknown(&error) => {
                forgotten(open)?;
                let failure = Failure::about(error, "shard", None);
                return Err(failure.with_hint("it has ended, and what it had with it; the same command begins anew"));
            }
            Err(error) if is_passing(&error) => return Err(elsewhere(Failure::from(error), open)),
            Err(error) => {
                open.work()?.output = None;
                open.save()?;
                return missing(&error).map(Ended::Missing).ok_or_else(|| failure_of(error, &open.name));
            }
        }
    }
}

async fn begin(open: &Open, shard: &Shard, id: OutputId, found: &Chosen, parts: Option<&(Drip, Vec<Intake>)>) -> Result<(), ClientError> {
    let wrong = || ClientError::Request("nothing is begun with this file".into());
    let work = open.kept.work.as_ref().ok_or_else(wrong)?;
    let name = work.id.parse()?;
    match (work.task, &open.kept.shards) {
        (Task::Repair { more, thorough }, Some(shards)) => shard.repair(id, name, shards, &found.to, more, thorough).await,
        _ => shard.spread(id, name, open.kept.split, &found.to, parts.map(|(drip, places)| (drip, places.as_slice()))).await,
    }
}

/// `PartsMissing: 3,7; it is not what was left there`
fn missing(error: &ClientError) -> Option<Vec<usize>> {
    let ClientError::Ended(Outcome::Failed { error, .. }) = error else { return None };
    let (_, text) = error.split_once("PartsMissing: ")?;
    text.split(';').next()?.split(',').map(|index| index.trim().parse().ok()).collect()
}

/// May the same be asked again, as it is?
pub(super) fn is_passing(error: &ClientError) -> bool {
    match error {
        ClientError::Refused(problem) => matches!(problem.code(), "busy" | "stopping"),
        ClientError::Late { .. } | ClientError::Broken(_) | ClientError::NotThere(_) | ClientError::Trouble(_) => true,
        ClientError::Tor(_) => !error.is_tor_unreachable(),
        _ => false,
    }
}

/// Ends a function, if it can be reached soon. What cannot be ends with its lifetime. Was it ended?
pub(super) async fn give_up(context: &Context, place: &Place) -> bool {
    let (Ok(node), Ok(tokens)) = (place.node(), place.tokens()) else { return false };
    let Ok(client) = context.quiet_client(&node).await else { return false };
    let ended = client.with_bounds(Bounds { connect: END, answer: END, idle: END }).shutdown(&node, &tokens.shutdown).await;
    ended.is_ok() || ended.is_err_and(|error| is_unknown(&error))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn parts_that_are_missing_are_read_and_other_errors_are_none() {
        let failed = |error: &str| ClientError::Ended(Outcome::Failed { error: error.into(), traceback: String::new() });
        assert_eq!(missing(&failed("PartsMissing: 3,17; the node is gone; 4")), Some(vec![3, 17]));
        assert_eq!(missing(&failed("jobs.PartsMissing: 0; x")), Some(vec![0]));
        for other in ["NotEnoughNodes: 3,4; x", "PartsMissing: x; 3", "PartsMissing"] {
            assert_eq!(missing(&failed(other)), None, "{other}");
        }
    }
}
