//! `bento dropbox get`.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use bento::{AgeIdentity, Download, DropLink, Locked, Opening, Origin, Piece};
use serde_json::json;

use super::{failure, find, named};
use crate::cli::{args, context::Context, failure::Failure, invoke::check_stdout, sink::Sink};

/// Longest file of identities that is read.
const IDENTITIES_BYTES_MAX: u64 = 64 * 1024;

pub(super) async fn run(context: &Context, args: args::DropboxGet) -> Result<(), Failure> {
    let identities = args.identity.as_deref().map(identities).transpose()?.unwrap_or_default();
    let (origin, opening, what) = origin(context, &args.from).await?;
    if matches!(opening.locked, Locked::Age) && identities.is_empty() {
        return Err(Failure::input("the drop is encrypted to a recipient").with_hint("give the file with your identity: `--identity FILE`"));
    }
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(opening.file_name()));
    check_stdout(context, Some(&path))?;
    let mut sink = Sink::open(Some(&path), args.force).await?;
    let mut download = Download::new(origin, &opening, identities).map_err(|error| failure(error, &what))?;
    let (mut bytes, mut broken) = (0, 0);
    loop {
        match download.next().await.map_err(|error| failure(error, &what))? {
            Piece::Bytes(plain) => {
                bytes += plain.len() as u64;
                if sink.is_terminal() {
                    context.show.clear();
                } else if let Some(total) = download.total() {
                    context.show.moved("received", download.received(), total);
                }
                sink.write(&plain).await?;
            }
            Piece::Broke(at, error) => {
                broken += 1;
                context.show.step(&format!("the stream broke: {error}"));
                context.show.step(&format!("going on from {at} of {} bytes", download.total().unwrap_or_default()));
            }
            Piece::End => break,
        }
    }
    let Some(file) = sink.finish().await? else { return Ok(()) };
    let checked = if matches!(opening.locked, Locked::No) { "Whole" } else { "Decrypted and whole" };
    let text = format!("{checked}: {bytes} bytes in {}\n", bento::line(&file.display().to_string()));
    let json = json!({"file": file.display().to_string(), "bytes": bytes, "received": download.received(), "broken": broken});
    context.say(&text, &json)
}

/// Where it comes from, how it opens, and what to call that.
async fn origin(context: &Context, from: &str) -> Result<(Origin, Opening, String), Failure> {
    if from.contains("://") {
        let link: DropLink = from.parse().map_err(|error: bento::LinkError| {
            Failure::input(error.to_string()).with_hint("copy the link again, to its end, and put it between single quotes")
        })?;
        let link = if context.options.require_conclave { DropLink { node: link.node.in_conclave(), ..link } } else { link };
        let opening = link.opening.clone();
        return Ok((Origin::Link(context.client(&link.node).await?, link), opening, "the drop".into()));
    }
    let Some((name, id)) = from.split_once('/') else {
        return Err(Failure::input("this is neither a link nor NAME/DROP").with_hint("`bento dropbox list` shows your drops"));
    };
    let functions = context.store()?.read()?;
    let record = find(&functions, name)?;
    let name = name.to_owned();
    let Some((_, drop)) = named(record.drops.iter().map(|drop| (&name, drop)), id)? else {
        return Err(Failure::input(format!("{name} has no drop of yours that begins with `{}`", bento::line(id)))
            .with_hint("another's drop is fetched by its link; `bento dropbox list` shows yours"));
    };
    let origin = Origin::Dropbox(record.dropbox(context).await?, drop.id()?);
    Ok((origin, drop.opening()?, name))
}

fn identities(path: &Path) -> Result<Vec<AgeIdentity>, Failure> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(IDENTITIES_BYTES_MAX).read_to_string(&mut text));
    read.map_err(|error| Failure::file("reading", path, &error))?;
    AgeIdentity::all(&text).map_err(|_| {
        Failure::input(format!("{} holds no age identity", path.display()))
            .with_hint("a file as `age-keygen` writes it, with `AGE-SECRET-KEY-1…`")
    })
}
