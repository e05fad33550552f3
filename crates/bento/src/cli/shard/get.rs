//! `bento shard get`.

use std::path::PathBuf;

use bento::{Download, Locked, Lost, Opening, Origin, Piece, Rebuild, Recipe};
use serde_json::json;

use super::{
    Named, Names, failure_of, in_conclaves,
    kept::{Kept, Open, Shelves, Task},
    named, nodes, put,
    work::{self, Ended},
};
use crate::cli::{args, context::Context, dropbox, failure::Failure, invoke::check_stdout, sink::Sink};

pub(super) async fn run(context: &Context, args: args::ShardGet) -> Result<(), Failure> {
    let (name, recipe) = match named(&args.recipe)? {
        Named::Recipe(_, recipe) => (args.recipe.clone(), *recipe),
        Named::Ours(name, kept) => (name.clone(), whole(context, &name, *kept).await?),
    };
    let key = recipe.file.key().map_err(|error| Failure::input(error.to_string()))?;
    let opening = Opening { locked: Locked::Key((*key.key()).into()), padded: true, name: Some(recipe.file.name.clone()) };
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(opening.file_name()));
    check_stdout(context, Some(&path))?;
    let mut sink = Sink::open(Some(&path), args.force).await?;

    let shards = &recipe.shards;
    in_conclaves(context, shards)?;
    let (host, node) = nodes::visited(context, &bento::visit_bundle(shards.size)?, shards.mode, args.node.as_deref()).await?;
    let client = context.client(&node).await?;
    let origin = Origin::Shards(Box::new(Rebuild::new(client, node, shards)?));
    let failed = |error| match error {
        bento::DropError::Client(error) => failure_of(error, &name),
        error => dropbox::failure(error, "shard"),
    };
    let mut download = Download::new(origin, &opening, Vec::new()).map_err(failed)?;
    let (mut bytes, mut broken) = (0, 0);
    loop {
        match download.next().await.map_err(failed)? {
            Piece::Bytes(plain) => {
                bytes += plain.len() as u64;
                if sink.is_terminal() {
                    context.show.clear();
                } else {
                    context.show.moved("received", download.received().min(shards.size), shards.size);
                }
                sink.write(&plain).await?;
            }
            Piece::Broke(at, error) => {
                broken += 1;
                context.show.step(&format!("the stream broke: {error}"));
                context.show.step(&format!("going on from {at} of {} bytes", shards.size));
            }
            Piece::End => break,
        }
    }
    let lost = Lost::of(&download)?;
    let file = sink.finish().await?;
    told(context, &args, &name, &host, (&lost, file, bytes, broken))
}

/// What came, and what was met on the way.
fn told(
    context: &Context,
    args: &args::ShardGet,
    name: &str,
    host: &str,
    (lost, file, bytes, broken): (&Lost, Option<PathBuf>, u64, u32),
) -> Result<(), Failure> {
    let names = Names::new(context)?;
    let mut text = String::new();
    for shard in &lost.lost {
        text.push_str(&format!("Shard {} at {} is {}\n", shard.number, names.of(&shard.node), shard.why));
    }
    if !lost.lost.is_empty() {
        text.push_str(&format!("{} of {} shards are left, and {} are needed: ", lost.good, lost.of, lost.k));
        text.push_str(&format!("`bento shard repair {}` makes up the others.\n", args.recipe));
    }
    let Some(file) = file else {
        // A file on stdout leaves no room for words; who wants them has stderr.
        text.lines().for_each(|line| context.show.step(line));
        return Ok(());
    };
    let whole = format!("Decrypted and whole: {bytes} bytes in {}\n", bento::line(&file.display().to_string()));
    let json = json!({
        "name": name, "file": file.display().to_string(), "bytes": bytes, "node": host, "broken": broken,
        "need": lost.k, "of": lost.of, "good": lost.good, "lost": lost.lost,
    });
    context.say(&format!("{whole}{text}"), &json)
}

/// The recipe of a file that this program keeps. Where its shards are made by a node alone, it is waited for.
pub(super) async fn whole(context: &Context, name: &str, kept: Kept) -> Result<Recipe, Failure> {
    if let Some(recipe) = kept.whole() {
        return Ok(recipe);
    }
    let mut open = Shelves::new()?.open(name)?;
    let on_its_way = |open: &Open| {
        let name = &open.name;
        Failure::input(format!("{} is still on its way to its shards", open.kept.file.name))
            .with_hint(format!("`bento shard put --resume {name}` goes on with it"))
    };
    let is_begun = open.kept.work.as_ref().is_some_and(|work| work.task == Task::Spread && work.output.is_some());
    if open.kept.is_underway() {
        if !is_begun {
            return Err(on_its_way(&open));
        }
        put::kept_to(context, &open)?;
        let (shard, chosen) = work::shard(context, &mut open, None, None).await?;
        if open.work()?.output.is_none() {
            return Err(on_its_way(&open));
        }
        let parts = put::parts(&mut open)?;
        match work::done(context, &mut open, &shard, chosen, parts, false).await? {
            Ended::Shards(shards) => put::settle(context, &mut open, *shards).await?,
            _ => return Err(on_its_way(&open)),
        }
    }
    open.kept.whole().ok_or_else(|| on_its_way(&open))
}
