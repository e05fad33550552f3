//! `bento shard list`, `check`, `renew` and `rm`.
//!
//! To renew and to end shards their tokens are enough, and so this program asks their nodes itself; to look at them takes Shard, which knows what
//! they should be.

use bento::{Checked, NodeAddress, Recipe, Tokens, visit_bundle};
use bento_proto::Span;
use serde_json::{Value, json};
use tokio::task::JoinSet;

use super::{
    Named, Names, failure_of, get, in_conclaves,
    kept::{Kept, Place, Shelves, Task},
    named, nodes, now,
};
use crate::cli::{
    args,
    context::Context,
    failure::{FUNCTION, Failure, NODE},
    function::time,
    table::table,
};

/// Lists all files.
pub(super) fn list(context: &Context) -> Result<(), Failure> {
    let shelves = Shelves::new()?;
    let (mut rows, mut json) = (Vec::new(), Vec::new());
    for name in shelves.names()? {
        let Some(kept) = shelves.read(&name)? else { continue };
        let split = kept.shards.as_ref().map_or(kept.split, bento::Shards::split);
        let (state, left) = state(&name, &kept);
        rows.push(vec![name.clone(), format!("{} bytes", kept.file.size), format!("{} of {} shards", split.need, split.of), state.clone()]);
        json.push(json!({
            "name": name, "file": kept.file.name, "bytes": kept.file.size, "sealed": kept.file.sealed, "need": split.need, "of": split.of,
            "mode": split.mode, "underway": kept.is_underway(), "left": left, "state": state,
        }));
    }
    if rows.is_empty() {
        rows.push(vec!["No file is in shards; `bento shard put FILE` puts one there.".into()]);
    }
    context.say(&table(&rows), &json!({ "files": json }))
}

/// How it is with a file, in words; and how long its shards last.
fn state(name: &str, kept: &Kept) -> (String, Option<Span>) {
    let left = kept.left();
    let state = match (&kept.work, &kept.shards) {
        (None, None) => "cut off before all of it came; `bento shard rm` forgets it".to_owned(),
        (Some(work), None) => {
            let how = match &work.dripping {
                _ if work.output.is_some() => "a node makes the shards".to_owned(),
                Some(dripping) => format!("{} of {} uploads are there", dripping.drip.done(), dripping.drip.portions.len()),
                None if work.staged => "a node has it".to_owned(),
                None => "on its way to a node".to_owned(),
            };
            format!("{how}; `bento shard put --resume {name}` goes on")
        }
        (Some(_), Some(_)) => format!("a repair was cut off; `bento shard repair {name}` goes on"),
        (None, Some(_)) => match left {
            Some(left) if left.as_millis() == 0 => "its shards are at their end, if they were not renewed".to_owned(),
            Some(left) => format!("kept for {}", time(left)),
            None => "kept as long as it was put for".to_owned(),
        },
    };
    (state, left)
}

/// Looks which shards are there.
pub(super) async fn check(context: &Context, args: args::ShardCheck) -> Result<(), Failure> {
    let (name, recipe) = found(context, &args.recipe).await?;
    let shards = &recipe.shards;
    in_conclaves(context, shards)?;
    let (_, node) = nodes::visited(context, &visit_bundle(shards.size)?, shards.mode, args.node.as_deref()).await?;
    let client = context.client(&node).await?;
    context.show.now(if args.thorough { "all shards are read there" } else { "their nodes are asked" });
    let told = Checked::look(&client, &node, shards, args.thorough).await.map_err(|error| failure_of(error, &name))?;
    let names = Names::new(context)?;
    let mut rows = Vec::new();
    let mut json: Vec<Value> = Vec::new();
    for shard in &told.shards {
        let called = names.of(&shard.node);
        rows.push(vec![format!("shard {}", shard.number), called.clone(), shard.why.clone().unwrap_or_else(|| "good".into())]);
        json.push(json!({"number": shard.number, "node": called, "address": shard.node, "good": shard.good, "why": shard.why}));
    }
    let (good, of, need) = (told.good, told.shards.len(), told.k);
    let mut text = table(&rows);
    text.push_str(&format!("{good} of {of} are good, and {need} are needed.\n"));
    if good < of && good >= need as usize {
        text.push_str(&format!("`bento shard repair {}` makes up the others.\n", args.recipe));
    }
    context.say(&text, &json!({"name": name, "need": need, "of": of, "good": good, "thorough": args.thorough, "shards": json}))?;
    if good < need as usize {
        return Err(Failure::new(FUNCTION, format!("too few shards are good: {good} of {of}, and {need} are needed"))
            .with_hint("try again when their nodes can be reached"));
    }
    Ok(())
}

/// The recipe of what was named.
async fn found(context: &Context, text: &str) -> Result<(String, Recipe), Failure> {
    match named(text)? {
        Named::Recipe(_, recipe) => Ok((text.to_owned(), *recipe)),
        Named::Ours(name, kept) => {
            let recipe = get::whole(context, &name, *kept).await?;
            Ok((name, recipe))
        }
    }
}

/// Every shard's node, and the rights to it.
fn places(recipe: &Recipe) -> Result<Vec<(u32, NodeAddress, Tokens)>, Failure> {
    let wrong = |error: bento::RecipeError| Failure::input(error.to_string());
    let place = |shelf: &bento::Shelf| Ok((shelf.number, shelf.node().map_err(wrong)?, shelf.tokens().map_err(wrong)?));
    recipe.shards.shards.iter().map(place).collect()
}

/// Makes all lifetimes begin anew.
pub(super) async fn renew(context: &Context, args: args::ShardRenew) -> Result<(), Failure> {
    let (name, recipe) = found(context, &args.recipe).await?;
    let (names, since) = (Names::new(context)?, now());
    let mut asked = JoinSet::new();
    for (number, node, tokens) in places(&recipe)? {
        let client = context.quiet_client(&node).await?;
        asked.spawn(async move { (number, node.to_string(), client.renew(&node, &tokens.shutdown).await) });
    }
    context.show.now(&format!("asking {} nodes", asked.len()));
    let mut answers = asked.join_all().await;
    answers.sort_by_key(|(number, ..)| *number);
    let (mut rows, mut json, mut good) = (Vec::new(), Vec::new(), 0);
    for (number, node, renewed) in answers {
        let called = names.of(&node);
        let (said, remaining, why) = match renewed {
            Ok(remaining) => {
                good += 1;
                (format!("now ends in {}", time(remaining)), Some(remaining), None)
            }
            Err(error) => {
                let why = Failure::from(error).text;
                (why.clone(), None, Some(why))
            }
        };
        rows.push(vec![format!("shard {number}"), called.clone(), said]);
        json.push(json!({"number": number, "node": called, "remaining": remaining, "why": why}));
    }
    if good == json.len()
        && let Named::Ours(name, _) = named(&args.recipe)?
    {
        let mut open = Shelves::new()?.open(&name)?;
        open.kept.since = Some(since);
        open.save()?;
    }
    let (count, need) = (json.len(), recipe.shards.k);
    context.say(&table(&rows), &json!({"name": name, "renewed": good, "need": need, "shards": json}))?;
    if good < need as usize {
        return Err(Failure::new(NODE, format!("{good} of {count} shards were renewed, and {need} are needed"))
            .with_hint(format!("try again; `bento shard check {}` looks at each", args.recipe)));
    }
    Ok(())
}

/// Ends all shards, and what was begun.
pub(super) async fn remove(context: &Context, args: args::ShardRm) -> Result<(), Failure> {
    let (mut open, recipe) = match named(&args.recipe)? {
        Named::Ours(name, _) => {
            let open = Shelves::new()?.open(&name)?;
            let recipe = open.kept.whole();
            (Some(open), recipe)
        }
        Named::Recipe(_, recipe) => (None, Some(*recipe)),
    };
    let names = Names::new(context)?;
    let (mut ended, mut left) = (0, Vec::new());
    let mut all: Vec<(String, NodeAddress, Tokens)> = Vec::new();
    for (number, node, tokens) in recipe.as_ref().map(places).transpose()?.unwrap_or_default() {
        all.push((format!("shard {number}"), node, tokens));
    }
    if let Some(work) = open.as_ref().and_then(|open| open.kept.work.as_ref()) {
        let begun: Vec<&Place> = work
            .shard
            .iter()
            .chain(work.dripping.iter().flat_map(|dripping| dripping.places.iter().filter(|place| place.installed)))
            .collect();
        if work.shard.is_some() && work.output.is_some() && work.task == Task::Spread {
            // What it made so far only it knows, and these end with their lifetime.
            context.show.step("what a node has made of the shards so far ends with its lifetime");
        }
        for place in begun {
            all.push(("what was begun".into(), place.node()?, place.tokens()?));
        }
    }
    let mut asked = JoinSet::new();
    for (what, node, tokens) in all {
        let client = context.quiet_client(&node).await?;
        asked.spawn(async move {
            let ended = client.shutdown(&node, &tokens.shutdown).await;
            (what, node.to_string(), ended)
        });
    }
    context.show.now(&format!("asking {} nodes", asked.len()));
    for (what, node, answer) in asked.join_all().await {
        match answer {
            Ok(()) => ended += 1,
            // It is what was wanted.
            Err(error) if crate::cli::function::is_unknown(&error) => ended += 1,
            Err(error) => left.push((what, names.of(&node), Failure::from(error).text)),
        }
    }
    left.sort();
    let called = open.as_ref().map_or_else(|| args.recipe.clone(), |open| open.kept.file.name.clone());
    if (left.is_empty() || args.forget)
        && let Some(open) = open.take()
    {
        open.remove()?;
    }
    let mut text = format!("Ended {ended} functions of {called}.\n");
    for (what, node, why) in &left {
        text.push_str(&format!("{what} at {node} is left: {why}\n"));
    }
    let list: Vec<Value> = left.iter().map(|(what, node, why)| json!({"what": what, "node": node, "why": why})).collect();
    context.say(&text, &json!({"name": args.recipe, "ended": ended, "left": list}))?;
    if !left.is_empty() && !args.forget {
        return Err(Failure::new(NODE, format!("{} of them could not be ended", left.len()))
            .with_hint(format!("try again; `bento shard rm {} --forget` leaves them to the end of their lifetime", args.recipe)));
    }
    Ok(())
}
