//! `bento dropbox get`.

use std::{
    fs::File,
    io::Read as _,
    path::{Path, PathBuf},
};

use bento::{AgeIdentity, Download, DropLink, Locked, Opening, Origin, Piece};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{failure, find, named};
use crate::cli::{
    args,
    context::Context,
    failure::{Failure, NODE},
    invoke::check_stdout,
    sink::Sink,
};

/// Longest file of identities that is read.
const IDENTITIES_BYTES_MAX: u64 = 64 * 1024;

pub(super) async fn run(context: &Context, args: args::DropboxGet) -> Result<(), Failure> {
    let identities = args.identity.as_deref().map(identities).transpose()?.unwrap_or_default();
    let Asked { origin, opening, what, sha256 } = asked(context, &args.from).await?;
    if matches!(opening.locked, Locked::Age) && identities.is_empty() {
        return Err(Failure::input("the drop is encrypted to a recipient").with_hint("give the file with your identity: `--identity FILE`"));
    }
    let path = args.output.clone().unwrap_or_else(|| PathBuf::from(opening.file_name()));
    check_stdout(context, Some(&path))?;
    let mut sink = Sink::open(Some(&path), args.force).await?;
    let mut download = Download::new(origin, &opening, identities).map_err(|error| failure(error, &what))?;
    let (mut bytes, mut broken, mut digest) = (0, 0, Sha256::new());
    loop {
        match download.next().await.map_err(|error| failure(error, &what))? {
            Piece::Bytes(plain) => {
                bytes += plain.len() as u64;
                digest.update(&plain);
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
    let came = HEXLOWER.encode(&digest.finalize());
    if let Some(sent) = sha256.as_ref().filter(|sent| **sent != came) {
        let text = format!("what came is not what was sent: its SHA-256 is {came}, and that of what was sent is {sent}");
        return Err(Failure::new(NODE, text).with_hint("send the file again, to another node"));
    }
    let Some(file) = sink.finish().await? else { return Ok(()) };
    let is_plain = matches!(opening.locked, Locked::No);
    // What is not encrypted its node could have changed.
    let is_checked = !is_plain || sha256.is_some();
    let name = bento::line(&file.display().to_string());
    let text = match (is_plain, is_checked) {
        (false, _) => format!("Decrypted and whole: {bytes} bytes in {name}\n"),
        (true, true) => format!("Whole: {bytes} bytes in {name}\n"),
        (true, false) => format!("As the node sent it, which could have changed it: {bytes} bytes in {name}\n"),
    };
    let json = json!({
        "file": file.display().to_string(), "bytes": bytes, "received": download.received(), "broken": broken, "checked": is_checked,
    });
    context.say(&text, &json)
}

/// A drop that is fetched.
struct Asked {
    origin: Origin,
    opening: Opening,
    /// What to call where it comes from.
    what: String,
    /// The SHA-256 of the file, where this program sent it.
    sha256: Option<String>,
}

async fn asked(context: &Context, from: &str) -> Result<Asked, Failure> {
    if from.contains("://") {
        let link: DropLink = from.parse().map_err(|error: bento::LinkError| {
            Failure::input(error.to_string()).with_hint("copy the link again, to its end, and put it between single quotes")
        })?;
        let link = if context.options.require_conclave { DropLink { node: link.node.in_conclave(), ..link } } else { link };
        let opening = link.opening.clone();
        let origin = Origin::Link(context.client(&link.node).await?, link);
        return Ok(Asked { origin, opening, what: "the drop".into(), sha256: None });
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
    let (opening, sha256) = (drop.opening()?, Some(drop.sha256.clone()));
    Ok(Asked { origin, opening, what: name, sha256 })
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
