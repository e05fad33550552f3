//! `bento dropbox put`.
//!
//! What is to be sent is kept in `functions.json` before the node hears of it: its id, its key and the digest of the file. The same command
//! goes on with it, and only with the same file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bento::{Announcement, DropError, DropId, DropLink, Dropbox, FileKey, Parcel, Source, Standard, Tokens, Upload, age_seal, with_room};
use bento_proto::{Span, bundle::Bundle};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{failure, find};
use crate::cli::{
    args,
    browse::pick,
    context::Context,
    failure::Failure,
    function::{forget, free, is_unknown, time},
    place,
    show::Show,
    store::{Drop, Form, Record, Store},
};

/// The padding when nothing else is said: as results of the browser have it.
const PAD: u64 = 1_000_000;

/// How long a drop is kept when nothing else is said: as long as nodes let functions live.
const EXPIRES: Duration = Duration::from_secs(24 * 3600);

/// Longest name, in characters: what the function takes.
const NAME_CHARS_MAX: usize = 200;

/// A drop of ours, and the Dropbox that it is for.
struct Place {
    name: String,
    record: Record,
    drop: Drop,
    parcel: Parcel,
    /// Was it begun by an earlier run?
    again: bool,
}

pub(super) async fn run(context: &Context, args: args::DropboxPut) -> Result<(), Failure> {
    let store = context.store()?;
    let file = std::path::absolute(&args.file).map_err(|error| Failure::file("looking for", &args.file, &error))?;
    let name = name(&args, &file)?;
    let pad = match args.pad {
        Some(0) => return Err(Failure::input("a multiple of 0 bytes is no padding").with_hint("`--no-pad` leaves it out")),
        _ if args.plain || args.no_pad => None,
        given => Some(given.unwrap_or(PAD)),
    };
    if let Some(at) = &args.at {
        find(&store.read()?, at)?;
    }
    let source = read(&context.show, &args.file, pad).await?;

    let form = match (args.plain, args.to.as_slice()) {
        (true, _) => Form::Plain,
        (_, []) => Form::Sealed { key: String::new(), prefix: String::new() },
        (_, to) => Form::Age { to: to.iter().map(ToString::to_string).collect() },
    };
    let wanted = Drop {
        id: String::new(),
        name,
        file,
        size: source.size(),
        sha256: HEXLOWER.encode(source.digest()),
        pad,
        form,
        gets: args.gets,
        link: None,
    };
    let place = match begun(context, &store, &args, &wanted)? {
        Some((name, record, drop)) => {
            let parcel = parcel(context, source, &drop).await?;
            Place { name, record, drop, parcel, again: true }
        }
        None => fresh(context, &store, &args, wanted, source).await?,
    };
    send(context, &store, &args, place).await
}

/// The name for those who fetch it.
fn name(args: &args::DropboxPut, file: &Path) -> Result<String, Failure> {
    let own = || file.file_name().map(|name| name.to_string_lossy().into_owned()).unwrap_or_default();
    let name = bento::line(&args.name.clone().unwrap_or_else(own));
    match name.chars().count() {
        0 => Err(Failure::input("the file's name has no letter that can be shown").with_hint("give one: `--name report.pdf`")),
        count if count > NAME_CHARS_MAX => {
            Err(Failure::input(format!("a name has at most {NAME_CHARS_MAX} characters"))
                .with_hint("give a shorter one: `--name report.pdf`"))
        }
        _ => Ok(name),
    }
}

/// Reads the file once.
async fn read(show: &Arc<Show>, path: &Path, pad: Option<u64>) -> Result<Source, Failure> {
    let (show, own) = (Arc::clone(show), path.to_owned());
    let read = tokio::task::spawn_blocking(move || Source::open(&own, pad, |done, total| show.moved("read", done, total))).await;
    let read = read.map_err(|error| Failure::input(format!("reading {}: {error}", path.display())))?;
    read.map_err(|error| Failure::file("reading", path, &error))
}

/// The upload of this file that an earlier run of this command did not bring to its end.
fn begun(context: &Context, store: &Store, args: &args::DropboxPut, wanted: &Drop) -> Result<Option<(String, Record, Drop)>, Failure> {
    let node = args.node.as_deref().map(|node| context.node(node)).transpose()?;
    let functions = store.read()?;
    let open = functions
        .iter()
        .flat_map(|(name, record)| record.drops.iter().filter(|drop| drop.link.is_none()).map(move |drop| (name, record, drop)));
    for (name, record, drop) in open {
        let is_here = match (&args.at, &node) {
            (Some(at), _) => at == name,
            (None, Some((_, node))) => record.for_drop && record.node()? == *node,
            (None, None) => record.for_drop,
        };
        if !is_here || drop.file != wanted.file || !is_alike(drop, wanted) {
            continue;
        }
        if (drop.size, &drop.sha256) != (wanted.size, &wanted.sha256) {
            // Never under the same key. What is there of the other one stays until its sender erases it, or it expires.
            context.show.step(&format!(
                "the file has changed since its upload was cut off; it is sent anew, and `bento dropbox rm {}` erases the other",
                &drop.id[..drop.id.len().min(12)]
            ));
            continue;
        }
        if matches!(drop.form, Form::Age { .. }) && !spool(&drop.id)?.exists() {
            continue;
        }
        return Ok(Some((name.clone(), record.clone(), drop.clone())));
    }
    Ok(None)
}

/// Was the same asked for?
fn is_alike(drop: &Drop, wanted: &Drop) -> bool {
    let form = match (&drop.form, &wanted.form) {
        (Form::Sealed { .. }, Form::Sealed { .. }) => true,
        (one, other) => one == other,
    };
    form && (&drop.name, drop.pad, drop.gets) == (&wanted.name, wanted.pad, wanted.gets)
}

/// What is sent of the file. What is encrypted to recipients cannot be made twice, and lies in a file of its own until all of it is there.
async fn parcel(context: &Context, source: Source, drop: &Drop) -> Result<Parcel, Failure> {
    match (&drop.form, drop.key()?) {
        (Form::Age { .. }, _) => Ok(Parcel::plain(read(&context.show, &spool(&drop.id)?, None).await?)),
        (_, Some(key)) => Parcel::sealed(source, key).ok_or_else(|| Failure::input("the file is too long to be encrypted")),
        _ => Ok(Parcel::plain(source)),
    }
}

pub(super) fn spool(id: &str) -> Result<PathBuf, Failure> {
    Ok(place::data()?.join("drops").join(format!("{id}.age")))
}

/// A new drop, in the Dropbox that was named or in one of its own.
async fn fresh(context: &Context, store: &Store, args: &args::DropboxPut, wanted: Drop, source: Source) -> Result<Place, Failure> {
    let mut drop = Drop { id: DropId::mint()?.to_string(), ..wanted };
    let source = match &mut drop.form {
        Form::Plain => source,
        Form::Sealed { key, prefix } => {
            let made = FileKey::mint()?;
            (*key, *prefix) = (HEXLOWER.encode(made.key()), HEXLOWER.encode(&made.prefix()));
            source
        }
        Form::Age { .. } => encrypted(context, args, source, &spool(&drop.id)?).await?,
    };
    let parcel = parcel(context, source, &drop).await?;
    let placed = placed(context, store, args, &drop, parcel.size()).await;
    if placed.is_err() {
        discard(&drop);
    }
    let (name, record) = placed?;
    Ok(Place { name, record, drop, parcel, again: false })
}

/// Keeps the drop in the record of its Dropbox; installs one if none was named.
async fn placed(context: &Context, store: &Store, args: &args::DropboxPut, drop: &Drop, size: u64) -> Result<(String, Record), Failure> {
    if let Some(at) = &args.at {
        let record = store.update(|functions| {
            find(functions, at)?;
            let record = functions.get_mut(at).ok_or_else(|| Failure::input(format!("{at} is gone")))?;
            record.drops.push(drop.clone());
            Ok(record.clone())
        })?;
        return Ok((at.clone(), record));
    }
    let bundle = bundle(args, size)?;
    let (node_name, node) = match &args.node {
        Some(node) => context.node(node)?,
        None => pick(context, &bundle, None).await?,
    };
    let tokens = Tokens::mint()?;
    let mut record = Record::new(&node, &tokens, &bundle, digest(&bundle)?);
    (record.for_drop, record.drops) = (true, vec![drop.clone()]);
    let name = store.update(|functions| {
        let name = free(functions, &bundle.manifest.name);
        functions.insert(name.clone(), record.clone());
        Ok(name)
    })?;
    context.show.now(&format!("installing {name} on {node_name}"));
    Ok((name, record))
}

/// The Dropbox that came with this program, with room for one drop.
fn bundle(args: &args::DropboxPut, size: u64) -> Result<Bundle, Failure> {
    let bundle = Standard::Dropbox.bundle().and_then(|bundle| {
        let room = Dropbox::room_for(size, args.gets, args.expires.unwrap_or(EXPIRES));
        with_room(bundle, room)
    });
    bundle.map_err(|error| Failure::input(format!("the Dropbox that came with this program: {error}")))
}

fn digest(bundle: &Bundle) -> Result<String, Failure> {
    let archive = bundle.pack().map_err(|error| Failure::input(format!("the Dropbox cannot be sent: {error}")))?;
    Ok(HEXLOWER.encode(&Sha256::digest(&archive)))
}

/// Writes the file, encrypted to recipients, into this program's own directory.
async fn encrypted(context: &Context, args: &args::DropboxPut, source: Source, path: &Path) -> Result<Source, Failure> {
    let (to, show, path) = (args.to.clone(), Arc::clone(&context.show), path.to_owned());
    let directory = path.parent().unwrap_or(Path::new(".")).to_owned();
    place::make_private(&directory)?;
    let written = tokio::task::spawn_blocking(move || {
        let file = tempfile::Builder::new().prefix(".bento-").tempfile_in(&directory)?;
        age_seal(&source, &to, std::io::BufWriter::new(file.as_file()), |done, total| show.moved("encrypted", done, total))?;
        file.as_file().sync_all()?;
        file.persist(&path).map_err(|error| error.error)?;
        Ok(source)
    });
    let written = written.await.map_err(|error| Failure::input(format!("encrypting {}: {error}", args.file.display())))?;
    written.map_err(|error: std::io::Error| Failure::file("encrypting", &args.file, &error))
}

/// The encrypted copy is of no more use.
fn discard(drop: &Drop) {
    if let (Form::Age { .. }, Ok(path)) = (&drop.form, spool(&drop.id)) {
        let _ = std::fs::remove_file(path);
    }
}

/// Forgets a drop that never got to a node.
fn forget_drop(store: &Store, name: &str, id: &str) -> Result<(), Failure> {
    store.update(|functions| {
        if let Some(record) = functions.get_mut(name) {
            record.drops.retain(|drop| drop.id != id);
        }
        Ok(())
    })
}

/// Installs the Dropbox if that is not done, sends the drop and makes its link.
async fn send(context: &Context, store: &Store, args: &args::DropboxPut, place: Place) -> Result<(), Failure> {
    let Place { name, mut record, mut drop, parcel, again } = place;
    let id = drop.id()?;
    let remaining = match alive(context, store, args, &name, &record, parcel.size()).await {
        Ok(remaining) => remaining,
        Err((failure, is_nothing)) => {
            if is_nothing && !again {
                discard(&drop);
                match args.at {
                    Some(_) => forget_drop(store, &name, &drop.id)?,
                    None => forget(store, &name, &record.tokens()?)?,
                }
            }
            return Err(failure);
        }
    };
    record.pending = false;
    let dropbox = record.dropbox(context).await?;

    let wanted = args.expires.unwrap_or(EXPIRES);
    let expires = if args.at.is_none() { wanted.min(remaining.duration()) } else { wanted };
    let browsers = matches!(drop.form, Form::Plain).then(|| drop.name.clone());
    let announcement = Announcement { id, size: parcel.size(), expires, gets: drop.gets, name: browsers };
    let (show, size) = (Arc::clone(&context.show), parcel.size());
    let told = move |upload: Upload<'_>| match upload {
        Upload::From(0) => show.now("sending"),
        Upload::From(there) => show.step(&format!("going on from {there} of {size} bytes")),
        Upload::Sent(bytes) => show.moved("sent", bytes, size),
        Upload::Broke(error) => show.step(&format!("the stream broke: {error}")),
        Upload::Checking => show.now("all of it is there; the node checks it"),
    };
    let uploaded = match dropbox.upload(&announcement, &parcel, told).await {
        Ok(uploaded) => uploaded,
        Err(error) => {
            // Nothing of it is there, and nothing will be.
            if !again && matches!(error, DropError::Refused(_)) {
                discard(&drop);
                match args.at {
                    Some(_) => forget_drop(store, &name, &drop.id)?,
                    // Its record stays when it cannot be ended, for `bento shutdown`.
                    None if dropbox.client.shutdown(&dropbox.node, &record.tokens()?.shutdown).await.is_ok() => {
                        forget(store, &name, &record.tokens()?)?;
                    }
                    None => {}
                }
            }
            return Err(failure(error, &name));
        }
    };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = uploaded.expires.saturating_sub(now).max(1);
    let is_page = matches!(drop.form, Form::Sealed { .. });
    let path = dropbox.link(id, left, is_page).await.map_err(|error| failure(error, &name))?;
    drop.link = Some(path.clone());
    store.update(|functions| {
        let own = functions.get_mut(&name).and_then(|record| record.drops.iter_mut().find(|own| own.id == drop.id));
        if let Some(own) = own {
            *own = drop.clone();
        }
        Ok(())
    })?;
    discard(&drop);

    let link = DropLink { node: dropbox.node.clone(), path, opening: drop.opening()? };
    // What the function's own end leaves of it.
    let kept = Span::seconds(left.min(remaining.as_seconds_up()));
    let gets =
        drop.gets.map_or_else(|| "any number of times".to_owned(), |gets| if gets == 1 { "once".into() } else { format!("{gets} times") });
    let mut text = format!(
        "{} is in {name} as {}: {} bytes, {size} as they are kept, for {}; it can be fetched {gets}.\n",
        drop.name,
        &drop.id[..12],
        drop.size,
        time(kept)
    );
    if kept.as_seconds_up() < left && args.at.is_some() {
        text.push_str(&format!("{name} ends before the drop expires; `bento renew {name}` makes it last.\n"));
    }
    text.push_str(&format!("{}\n", link.reveal()));
    let json = json!({
        "drop": drop.id, "name": drop.name, "dropbox": name, "node": dropbox.node.to_string(), "link": link.reveal(), "bytes": drop.size,
        "sealed": size, "expires": uploaded.expires, "kept": kept, "gets": drop.gets, "broken": uploaded.broken, "resumed": again,
    });
    context.say(&text, &json)
}

/// Makes sure that the Dropbox is there, and says how long it will be. With a failure: is it certain that nothing was installed or sent?
async fn alive(
    context: &Context,
    store: &Store,
    args: &args::DropboxPut,
    name: &str,
    record: &Record,
    size: u64,
) -> Result<Span, (Failure, bool)> {
    let sure = |failure| (failure, true);
    let (node, tokens) = (record.node().map_err(sure)?, record.tokens().map_err(sure)?);
    let client = context.client(&node).await.map_err(sure)?;
    if !record.pending {
        let asked = client.status(&node, &tokens.invocation).await;
        return asked.map(|status| status.remaining).map_err(|error| {
            let is_gone = is_unknown(&error);
            let mut failure = Failure::about(error, name, None);
            if is_gone {
                failure.hint = Some(format!("it has ended; `bento shutdown {name}` forgets it, and the same command then begins anew"));
            }
            (failure, true)
        });
    }
    let bundle = bundle(args, size).map_err(sure)?;
    if digest(&bundle).map_err(sure)? != record.bundle {
        let failure = Failure::input(format!("{name} may be installed with other needs than are asked for now"));
        return Err((failure.with_hint(format!("`bento shutdown {name}` ends it, and the same command then begins anew")), false));
    }
    let status = match client.install(&node, &bundle, &tokens).await {
        Ok(status) => status,
        Err(error) if error.is_undecided() => {
            let failure = Failure::from(error).with_hint(format!("the same command goes on; `bento shutdown {name}` ends {name}"));
            return Err((failure, false));
        }
        Err(error) => {
            let mut failure = Failure::about(error, &bundle.manifest.name, None);
            if let Some(hint) = &mut failure.hint {
                *hint = hint.replace(
                    "`bento nodes --fit DIR` lists the nodes that can take it",
                    "ask for less: `--expires`, `--gets`; or try another node",
                );
            }
            return Err((failure, true));
        }
    };
    let settled = store.update(|functions| {
        if let Some(record) = functions.get_mut(name) {
            record.pending = false;
        }
        Ok(())
    });
    settled.map_err(|failure| (failure, false))?;
    context.show.step(&format!("installed {name}"));
    Ok(status.remaining)
}
