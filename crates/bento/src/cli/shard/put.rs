//! `bento shard put`.
//!
//! Whether nodes take the file is asked before any of it is read; what comes from stdin is asked for when its size is known.
//! What is to be sent is kept before a node hears of it: its key, and the digest of the file. The same command goes on with it, and only with
//! the same file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
};

use bento::{Drip, FileKey, Intake, Mode, Parcel, SealedFile, Shard, Split, Upload};
use bento_proto::Span;
use serde_json::json;

use super::{
    Names, drip,
    kept::{Dripping, Kept, Open, Place, Planned, Shelves, Task, Work},
    nodes::{Chosen, File},
    spooled::{self, Padding},
    work::{self, Ended, give_up, shard},
};
use crate::cli::{
    args,
    context::Context,
    dropbox,
    failure::{EVIDENCE, Failure},
    fits,
    function::time,
};

/// How a file is split when nothing else is said. Nodes usually let a function have four others.
const SPLIT: Split = Split { need: 2, of: 4, mode: Mode::Rs };

/// The padding when nothing else is said: as results of the browser have it.
const PAD: u64 = 1_000_000;

/// How long shards are kept when nothing else is said: as long as nodes let functions live.
const KEEP: Span = Span::seconds(24 * 3600);

/// How often parts that were lost are sent again, to other nodes, before it is given up for now.
const ROUNDS_MAX: u32 = 5;

/// Longest name, in characters.
const NAME_CHARS_MAX: usize = 200;

pub(super) async fn run(context: &Context, args: args::ShardPut) -> Result<(), Failure> {
    let shelves = Shelves::new()?;
    if args.resume {
        let mut open = unfinished(&shelves, args.file.as_deref())?;
        kept_to(context, &open)?;
        if args.recipe.is_some() {
            open.kept.recipe = recipe(&args)?;
        }
        if let Some(Planned { each, .. }) = open.work()?.planned {
            let wanted = Wanted { split: open.kept.split, keep: open.kept.keep, padding: Padding::Portions(each), recipe: None };
            let chosen = chosen(context, &args, open.kept.file.size, &wanted).await.map_err(|failure| stays(failure, &open.name))?;
            places(&mut open, &chosen)?;
        }
        return finish(context, &args, open, None, None).await;
    }
    let given = args.file.clone().unwrap_or_default();
    let split = split(&args)?;
    let keep = args.keep.map_or(KEEP, |keep| Span::seconds(keep.as_secs().max(60)));
    let padding = match (args.over, args.pad) {
        (Some(_), _) => Padding::Portions(drip::each(args.each)?),
        (None, Some(0)) => return Err(Failure::input("a multiple of 0 bytes is no padding").with_hint("`--pad 1` leaves it out")),
        (None, pad) => Padding::Multiple(pad.unwrap_or(PAD)),
    };
    let wanted = Wanted { split, keep, padding, recipe: recipe(&args)? };
    if given == Path::new("-") {
        return stream(context, &args, &shelves, wanted).await;
    }
    let path = std::path::absolute(&given).map_err(|error| Failure::file("looking for", &given, &error))?;
    if let Some(open) = begun(context, &shelves, &args, &path, &wanted)? {
        // It is looked at whether it is as it was, also where nothing of it is to be sent any more.
        let parcel = spooled::again(context, &open).await?;
        return finish(context, &args, open, Some(parcel), None).await;
    }
    let own = || path.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = name(&args.name.clone().unwrap_or_else(own))?;
    let chosen = chosen(context, &args, fits::size(&given)?, &wanted).await?;
    let source = spooled::read(context, &given, padding).await?;
    let key = FileKey::mint()?;
    let (size, digest) = (source.size(), *source.digest());
    let sealed = FileKey::sealed_size(source.total()).ok_or_else(|| Failure::input("the file is too long to be encrypted"))?;
    let file = SealedFile::new(name, size, &digest, sealed, &key);
    let parcel = spooled::parcel(source, &file)?;
    let mut kept = Kept::new(file, split, keep);
    (kept.source, kept.conclaves) = (Some(path), context.requires_conclave());
    let mut open = shelves.add(kept)?;
    begin(&args, &mut open, &wanted)?;
    if let Err(failure) = places(&mut open, &chosen) {
        // No node has heard of it.
        open.remove()?;
        return Err(failure);
    }
    finish(context, &args, open, Some(parcel), Some(chosen)).await
}

/// Which nodes are to have a file of so many bytes, and how large one may be if none.
async fn chosen(context: &Context, args: &args::ShardPut, size: u64, wanted: &Wanted) -> Result<Chosen, Failure> {
    let file = File { size, padding: wanted.padding };
    work::chosen_for(context, file, wanted.split, wanted.keep, args.node.as_deref()).await
}

/// What was asked for.
struct Wanted {
    split: Split,
    keep: Span,
    padding: Padding,
    recipe: Option<PathBuf>,
}

fn split(args: &args::ShardPut) -> Result<Split, Failure> {
    let need = args.need.unwrap_or(SPLIT.need);
    let split = Split { need, of: args.of.unwrap_or(SPLIT.of.max(need)), mode: args.mode.unwrap_or_default() };
    split.check().map_err(|error| Failure::input(error.to_string()).with_hint("for example `--need 3 --of 5`"))
}

/// Where the recipe goes besides. Not to a place that is taken.
fn recipe(args: &args::ShardPut) -> Result<Option<PathBuf>, Failure> {
    let Some(path) = &args.recipe else { return Ok(None) };
    let path = std::path::absolute(path).map_err(|error| Failure::file("looking for", path, &error))?;
    if path.exists() && !args.resume {
        return Err(Failure::input(format!("{} is there already", path.display())).with_hint("give another path for the recipe"));
    }
    if !path.parent().is_some_and(Path::is_dir) {
        return Err(Failure::input(format!("there is no directory for {}", path.display())).with_hint("look at the path"));
    }
    Ok(Some(path))
}

fn name(given: &str) -> Result<String, Failure> {
    let name = bento::line(given);
    match name.chars().count() {
        0 => Err(Failure::input("the file's name has no letter that can be shown").with_hint("give one: `--name report.pdf`")),
        count if count > NAME_CHARS_MAX => {
            Err(Failure::input(format!("a name has at most {NAME_CHARS_MAX} characters"))
                .with_hint("give a shorter one: `--name report.pdf`"))
        }
        _ => Ok(name),
    }
}

/// The put of this file that an earlier run did not bring to its end.
fn begun(context: &Context, shelves: &Shelves, args: &args::ShardPut, path: &Path, wanted: &Wanted) -> Result<Option<Open>, Failure> {
    for name in shelves.names()? {
        let Some(kept) = shelves.read(&name)? else { continue };
        let dripping = kept.work.as_ref().and_then(|work| work.dripping.as_ref());
        let is_planned = kept.work.as_ref().is_some_and(|work| work.planned.is_some());
        let is_alike = match (dripping, args.over) {
            (Some(dripping), Some(over)) => dripping.drip.span.duration() == over && Some(dripping.drip.each) == drip::each(args.each).ok(),
            (one, other) => one.is_none() && other.is_none(),
        };
        let is_same = kept.conclaves == context.requires_conclave()
            && kept.source.as_deref() == Some(path)
            && (kept.split, kept.keep) == (wanted.split, wanted.keep);
        if !kept.is_underway() || is_planned || !is_same || !is_alike || args.name.as_ref().is_some_and(|name| *name != kept.file.name) {
            continue;
        }
        let mut open = shelves.open(&name)?;
        if wanted.recipe.is_some() {
            open.kept.recipe.clone_from(&wanted.recipe);
        }
        return Ok(Some(open));
    }
    Ok(None)
}

/// What was begun for conclaves goes on in them alone, and what was not is not said to be in any.
pub(super) fn kept_to(context: &Context, open: &Open) -> Result<(), Failure> {
    if open.kept.conclaves {
        context.keep_to_conclaves();
    } else if context.requires_conclave() {
        return Err(Failure::new(EVIDENCE, format!("{} was begun without conclaves, and one is required", open.kept.file.name))
            .with_hint("put the file again with `--require-conclave`, or leave it out"));
    }
    Ok(())
}

/// What is to be gone on with: by its name or file, or the latest.
fn unfinished(shelves: &Shelves, given: Option<&Path>) -> Result<Open, Failure> {
    let mut found = Vec::new();
    for name in shelves.names()? {
        let Some(kept) = shelves.read(&name)? else { continue };
        let is_meant = given.is_none_or(|given| {
            Path::new(&name) == given || std::path::absolute(given).is_ok_and(|path| kept.source.as_deref() == Some(path.as_path()))
        });
        if is_meant && matches!(&kept.work, Some(work) if work.task == Task::Spread) {
            found.push((shelves.changed(&name), name));
        }
    }
    found.sort();
    match found.pop() {
        Some((_, name)) => shelves.open(&name),
        None => Err(Failure::input("nothing of this name is on its way").with_hint("`bento shard list` shows what is")),
    }
}

/// Seals what comes from stdin, and sends that.
async fn stream(context: &Context, args: &args::ShardPut, shelves: &Shelves, wanted: Wanted) -> Result<(), Failure> {
    let name = name(args.name.as_deref().unwrap_or("stdin"))?;
    let key = FileKey::mint()?;
    // Kept before anything of it is written, so that `bento shard rm` finds what a kill leaves.
    let coming = SealedFile::new(name.clone(), 0, &[0; 32], 0, &key);
    let mut kept = Kept::new(coming, wanted.split, wanted.keep);
    kept.conclaves = context.requires_conclave();
    let mut open = shelves.add(kept)?;
    let came = match spooled::spooled(context, &open.spool(), &key, wanted.padding).await {
        Ok(came) => came,
        Err(failure) => {
            open.remove()?;
            return Err(failure);
        }
    };
    open.kept.file = SealedFile::new(name, came.size, &came.digest, came.sealed, &key);
    begin(args, &mut open, &wanted)?;
    // It may not come again, so from here on it stays, whoever refuses it.
    let chosen = chosen(context, args, came.size, &wanted).await.map_err(|failure| stays(failure, &open.name))?;
    places(&mut open, &chosen).map_err(|failure| stays(failure, &open.name))?;
    finish(context, args, open, None, Some(chosen)).await
}

/// The failure with how what came from stdin is gone on with.
fn stays(mut failure: Failure, name: &str) -> Failure {
    let hint = failure.hint.take().map(|hint| format!("{hint}; ")).unwrap_or_default();
    failure
        .with_hint(format!("{hint}what came is kept: `bento shard put --resume {name}` goes on with it, `bento shard rm {name}` erases it"))
}

/// Keeps what is to be done.
fn begin(args: &args::ShardPut, open: &mut Open, wanted: &Wanted) -> Result<(), Failure> {
    open.kept.recipe.clone_from(&wanted.recipe);
    let mut work = Work::new(Task::Spread)?;
    if let (Some(over), Padding::Portions(each)) = (args.over, wanted.padding) {
        work.planned = Some(Planned { each, over: Span::millis(u64::try_from(over.as_millis()).unwrap_or(u64::MAX)) });
    }
    open.kept.work = Some(work);
    open.save()
}

/// Where the file leaves to, if that is to be in portions.
fn places(open: &mut Open, chosen: &Chosen) -> Result<(), Failure> {
    let Some(Planned { each, over }) = open.work()?.planned else { return Ok(()) };
    let plain = FileKey::plain_size(open.kept.file.sealed).ok_or_else(|| Failure::input("the file is kept with a wrong size"))?;
    let nodes: Vec<_> = chosen.to.nodes.iter().map(|node| node.address.clone()).take(open.kept.split.of as usize).collect();
    let dripping = drip::dripping(plain, each, over, &nodes)?;
    let work = open.work()?;
    (work.planned, work.dripping) = (None, Some(dripping));
    open.save()
}

/// Sends what is missing, has it spread, and says so. What no node has heard of when it fails is forgotten, but for what came from stdin. Nodes
/// were chosen for what was not begun before.
async fn finish(
    context: &Context,
    args: &args::ShardPut,
    mut open: Open,
    parcel: Option<Parcel>,
    chosen: Option<Chosen>,
) -> Result<(), Failure> {
    let again = chosen.is_none();
    // What leaves over hours is made into shards by a node that is chosen then.
    let chosen = chosen.filter(|_| args.over.is_none());
    let finished = spread(context, args, &mut open, parcel, chosen, again).await;
    if finished.is_err() && !again {
        let is_nothing = |work: &Work| work.shard.is_none() && work.dripping.as_ref().is_none_or(|dripping| dripping.uploads == 0);
        if open.kept.work.as_ref().is_some_and(is_nothing) {
            if open.kept.source.is_none() {
                return finished.map_err(|failure| stays(failure, &open.name));
            }
            open.remove()?;
        }
    }
    finished
}

async fn spread(
    context: &Context,
    args: &args::ShardPut,
    open: &mut Open,
    parcel: Option<Parcel>,
    mut chosen: Option<Chosen>,
    again: bool,
) -> Result<(), Failure> {
    open.save()?;
    if let Some(dripping) = &open.work()?.dripping.clone() {
        let (name, left) = (&open.name, dripping.drip.portions.len() - dripping.drip.done());
        if again {
            context.show.step(&format!("going on with {left} uploads of {}", dripping.drip.portions.len()));
        } else {
            let before = drip::before(&open.kept.file.name, dripping, open.kept.keep)?;
            context.tell(&format!("{before}What is cut off goes on with `bento shard put --resume {name}`.\n"))?;
        }
    }
    // Read again only where it is needed: it may not be there any more when a node has all of it.
    let mut parcel = parcel;
    let mut rounds = 0;
    loop {
        let is_left = open.work()?.dripping.as_ref().is_some_and(|dripping| dripping.drip.done() < dripping.drip.portions.len());
        if is_left {
            drip::run(context, open, &ready(context, open, &mut parcel).await?).await?;
        }
        let (shard, chosen) = shard(context, open, args.node.as_deref(), chosen.take()).await?;
        let parts = parts(open)?;
        if parts.is_none() && !open.work()?.staged {
            upload(context, open, &shard, &ready(context, open, &mut parcel).await?).await?;
        }
        match work::done(context, open, &shard, chosen, parts, args.offline).await? {
            Ended::Shards(shards) => {
                let dripping = open.work()?.dripping.clone();
                settle(context, open, *shards).await?;
                return told(context, open, again, dripping.as_ref());
            }
            Ended::Left => return left(context, open),
            Ended::Missing(parts) => {
                rounds += 1;
                missing(context, open, &parts, rounds)?;
            }
        }
    }
}

/// Where the parts are that were left elsewhere.
pub(super) fn parts(open: &mut Open) -> Result<Option<(Drip, Vec<Intake>)>, Failure> {
    let Some(dripping) = &open.work()?.dripping else { return Ok(None) };
    let places = dripping.places.iter().map(Place::intake).collect::<Result<_, _>>()?;
    Ok(Some((dripping.drip.clone(), places)))
}

/// What is sent.
async fn ready(context: &Context, open: &Open, parcel: &mut Option<Parcel>) -> Result<Parcel, Failure> {
    let ready = match parcel.take() {
        Some(parcel) => parcel,
        None => spooled::again(context, open).await?,
    };
    *parcel = Some(ready.clone());
    Ok(ready)
}

/// Parts that are not where they were left are to be sent again, to other places.
fn missing(context: &Context, open: &mut Open, parts: &[usize], rounds: u32) -> Result<(), Failure> {
    let name = open.name.clone();
    let Some(dripping) = open.work()?.dripping.as_mut().filter(|_| rounds <= ROUNDS_MAX) else {
        return Err(Failure::new(crate::cli::failure::NODE, "parts of the file are lost again and again")
            .with_hint(format!("`bento shard put --resume {name}` goes on; `bento shard rm {name}` gives it up")));
    };
    let bad: Vec<usize> = parts.iter().filter_map(|index| dripping.drip.portions.get(*index)).map(|portion| portion.place).collect();
    let (mut random, count) = (super::Chance::new()?, dripping.places.len());
    dripping.drip.lost(parts, super::now_ms(), &mut || random.next());
    dripping.drip.leave_out(&bad, count);
    context.show.step(&format!("{} uploads are not where they were left; they leave again, to other nodes", parts.len()));
    open.save()
}

async fn upload(context: &Context, open: &mut Open, shard: &Shard, parcel: &Parcel) -> Result<(), Failure> {
    let (show, size) = (Arc::clone(&context.show), parcel.size());
    let told = move |upload: Upload<'_>| match upload {
        Upload::From(0) => show.now("sending"),
        Upload::From(there) => show.step(&format!("going on from {there} of {size} bytes")),
        Upload::Sent(bytes) => show.moved("sent", bytes, size),
        Upload::Broke(error) => show.step(&format!("the stream broke: {error}")),
        Upload::Checking => show.now("all of it is there; the node checks it"),
    };
    let announcement = bento::Announcement { id: open.work()?.id()?, size, expires: open.kept.keep.duration(), gets: None, name: None };
    let name = open.name.clone();
    shard.stage().upload(&announcement, parcel, told).await.map_err(|error| match error {
        bento::DropError::Refused(bento::DropRefusal::Full(why)) => {
            Failure::new(crate::cli::failure::REFUSED, format!("the node has no room for the file: {why}"))
                .with_hint(format!("`bento shard put --resume {name} --node NODE` takes another one"))
        }
        error => dropbox::failure(error, "shard"),
    })?;
    open.work()?.staged = true;
    open.save()
}

/// The shards are there: keeps them, and ends what made them.
pub(super) async fn settle(context: &Context, open: &mut Open, shards: bento::Shards) -> Result<(), Failure> {
    let since = since(&open.kept);
    (open.kept.shards, open.kept.since) = (Some(shards), since);
    open.save()?;
    open.give()?;
    if let Some(place) = open.work()?.shard.clone() {
        context.show.now("the shards are there; ending what made them");
        give_up(context, &place).await;
    }
    open.kept.work = None;
    open.save()?;
    let _ = std::fs::remove_file(open.spool());
    Ok(())
}

/// Since when the oldest of the shards may be there, so that no more is promised than the first of them to end has. They are made after Shard
/// was installed, however late they are picked up; and a repair leaves those that were good as old as they were.
fn since(kept: &Kept) -> Option<u64> {
    match &kept.work {
        Some(Work { task: Task::Spread, shard: Some(place), .. }) if place.renewed > 0 => Some(place.renewed / 1000),
        _ => kept.since,
    }
}

fn left(context: &Context, open: &Open) -> Result<(), Failure> {
    let (name, file) = (&open.name, &open.kept.file);
    let text = format!(
        "{} is at a node, which makes the shards alone; `bento shard get {name}` fetches it, `bento shard put --resume {name}` waits.\n",
        file.name
    );
    context.say(&text, &json!({"name": name, "bytes": file.size, "sealed": file.sealed, "underway": true}))
}

fn told(context: &Context, open: &Open, again: bool, dripping: Option<&Dripping>) -> Result<(), Failure> {
    let (Some(shards), file) = (&open.kept.shards, &open.kept.file) else { return Ok(()) };
    let split = shards.split();
    let names = Names::new(context)?;
    let nodes: Vec<String> = shards.shards.iter().filter_map(|shelf| Some(names.of(&shelf.node().ok()?.to_string()))).collect();
    let name = &open.name;
    let mut text = format!(
        "{} is in {} shards, of which any {} bring it back, for {}: at {}.\n",
        file.name,
        split.of,
        split.need,
        time(open.kept.left().unwrap_or(open.kept.keep)),
        nodes.join(", ")
    );
    if let Some(dripping) = dripping {
        text.push_str(&drip::after(dripping));
    }
    text.push_str(&format!("`bento shard get {name}` fetches it; `bento shard renew {name}` makes it last.\n"));
    if let Some(path) = &open.kept.recipe {
        text.push_str(&format!("The recipe is in {}: whoever has it can read the file.\n", path.display()));
    }
    let json = json!({
        "name": name, "bytes": file.size, "sealed": file.sealed, "need": split.need, "of": split.of, "mode": split.mode, "nodes": nodes,
        "keep": open.kept.keep, "recipe": open.kept.recipe.as_ref().map(|path| path.display().to_string()), "resumed": again,
        "seen": dripping.map(drip::seen),
    });
    context.say(&text, &json)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_more_is_promised_than_the_oldest_shard_has() {
        let file = SealedFile::new("a".into(), 5, &[0; 32], 100, &FileKey::mint().unwrap());
        let mut kept = Kept::new(file, SPLIT, KEEP);
        let mut shard = Place::new(&"127.0.0.1:8030".parse().unwrap(), 4).unwrap();
        shard.renewed = 7_900;
        let mut work = Work::new(Task::Spread).unwrap();
        work.shard = Some(shard);
        kept.work = Some(work.clone());
        assert_eq!(since(&kept), Some(7));
        // A repair makes some of them anew, later.
        work.task = Task::Repair { more: 1, thorough: false };
        (kept.work, kept.since) = (Some(work), Some(5));
        assert_eq!(since(&kept), Some(5));
        kept.since = None;
        assert_eq!(since(&kept), None);
    }
}
