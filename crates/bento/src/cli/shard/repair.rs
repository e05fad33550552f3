//! `bento shard repair`.
//!
//! What is begun is kept as with `put`: the same command goes on. Until the new recipe is there, the old one holds.

use std::path::{Path, PathBuf};

use bento::{Recipe, Shards};
use bento_proto::Span;
use serde_json::json;

use super::{
    Named, Names, get, in_conclaves,
    kept::{Kept, Open, Shelves, Task, Work},
    named, put,
    work::{self, Ended},
};
use crate::cli::{args, context::Context, failure::Failure};

/// How long new shards are kept for a recipe that came from elsewhere.
const KEEP: Span = Span::seconds(24 * 3600);

pub(super) async fn run(context: &Context, args: args::ShardRepair) -> Result<(), Failure> {
    let shelves = Shelves::new()?;
    let mut open = match named(&args.recipe)? {
        Named::Ours(name, kept) => {
            get::whole(context, &name, *kept).await?;
            shelves.open(&name)?
        }
        Named::Recipe(path, recipe) => {
            // Before it takes the place of the one that is kept.
            in_conclaves(context, &recipe.shards)?;
            ours(&shelves, &path, *recipe)?
        }
    };
    if let Some(shards) = &open.kept.shards {
        in_conclaves(context, shards)?;
    }
    let task = Task::Repair { more: args.more, thorough: args.thorough };
    let again = match &open.kept.work {
        Some(work) if work.task == task => true,
        Some(_) => {
            return Err(Failure::input(format!("another repair of {} was cut off", open.kept.file.name))
                .with_hint(format!("go on with it first, with the options that it had; or `bento shard rm {}`", open.name)));
        }
        None => {
            open.kept.work = Some(Work::new(task)?);
            open.save()?;
            false
        }
    };
    let before = open.kept.shards.clone();
    let (shard, chosen) = match work::shard(context, &mut open, args.node.as_deref(), None).await {
        Ok(found) => found,
        Err(failure) => {
            if open.work()?.shard.is_none() {
                open.kept.work = None;
                open.save()?;
            }
            return Err(failure);
        }
    };
    if again {
        context.show.step("going on with the repair that was cut off");
    }
    let ended = work::done(context, &mut open, &shard, chosen, None, false).await;
    let shards = match ended {
        Ok(Ended::Shards(shards)) => *shards,
        Ok(_) => return Err(Failure::input("the repair ended as none does").with_hint("try again")),
        Err(failure) => {
            // It has failed, and left nothing behind: another time it begins anew.
            if open.work()?.output.is_none() {
                if let Some(place) = open.work()?.shard.clone() {
                    work::give_up(context, &place).await;
                }
                open.kept.work = None;
                open.save()?;
            }
            return Err(failure);
        }
    };
    put::settle(context, &mut open, shards).await?;
    told(context, &open, before.as_ref())
}

/// A recipe that came from elsewhere becomes one of ours, so that what is cut off can go on; the new one is written to its file.
fn ours(shelves: &Shelves, path: &Path, recipe: Recipe) -> Result<Open, Failure> {
    for name in shelves.names()? {
        let Some(kept) = shelves.read(&name)? else { continue };
        if kept.file == recipe.file && kept.shards.is_some() {
            let mut open = shelves.open(&name)?;
            // Which of two is the newer one nobody can tell but by what was done with it.
            if open.kept.work.is_none() {
                open.kept.shards = Some(recipe.shards);
            }
            open.kept.recipe = Some(PathBuf::from(path));
            open.save()?;
            return Ok(open);
        }
    }
    let split = recipe.shards.split();
    let mut kept = Kept::new(recipe.file, split, KEEP);
    (kept.shards, kept.recipe) = (Some(recipe.shards), Some(PathBuf::from(path)));
    shelves.add(kept)
}

fn told(context: &Context, open: &Open, before: Option<&Shards>) -> Result<(), Failure> {
    let (Some(shards), file) = (&open.kept.shards, &open.kept.file) else { return Ok(()) };
    let names = Names::new(context)?;
    let called = |shelf: &bento::Shelf| shelf.node().map(|node| names.of(&node.to_string())).unwrap_or_default();
    let has = |of: &Shards, number: u32| of.shards.iter().any(|shelf| shelf.number == number);
    let fresh: Vec<&bento::Shelf> = shards.shards.iter().filter(|shelf| !before.is_some_and(|before| has(before, shelf.number))).collect();
    let gone: Vec<&bento::Shelf> = before.iter().flat_map(|before| &before.shards).filter(|shelf| !has(shards, shelf.number)).collect();
    let mut text = String::new();
    for shelf in &gone {
        text.push_str(&format!("Shard {} at {} was lost.\n", shelf.number, called(shelf)));
    }
    for shelf in &fresh {
        text.push_str(&format!("Shard {} is new, at {}.\n", shelf.number, called(shelf)));
    }
    let split = shards.split();
    let done = if fresh.is_empty() { "Nothing was lost: " } else { "" };
    text.push_str(&format!("{done}{} is in {} shards, of which any {} bring it back.\n", file.name, split.of, split.need));
    if let Some(path) = open.kept.recipe.as_ref().filter(|_| !fresh.is_empty()) {
        text.push_str(&format!("The new recipe is in {}.\n", path.display()));
    }
    let list = |shelves: &[&bento::Shelf]| -> Vec<_> {
        shelves.iter().map(|shelf| json!({"number": shelf.number, "node": called(shelf)})).collect()
    };
    let json = json!({
        "name": open.name, "need": split.need, "of": split.of, "lost": list(&gone), "made": list(&fresh),
        "recipe": open.kept.recipe.as_ref().map(|path| path.display().to_string()),
    });
    context.say(&text, &json)
}
