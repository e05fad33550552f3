//! `bento dropbox put`.
//!
//! Whether a node takes the file is asked before any of it is read.
//!
//! What is to be sent is kept in `functions.json` before the node hears of it: its id, its key and the digest of the file. The same command
//! goes on with it, and only with the same file.

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use bento::{
    Announcement, DropError, DropId, DropLink, Dropbox, FileKey, NodeAddress, Parcel, Source, Standard, Tokens, Upload, age_seal,
    age_size_max, with_room,
};
use bento_proto::{Span, bundle::Bundle};
use data_encoding::HEXLOWER;
use serde_json::json;
use sha2::{Digest as _, Sha256};

use super::{failure, find};
use crate::cli::{
    args, ask,
    browse::{Nobody, search},
    context::Context,
    failure::{Failure, REFUSED},
    fits,
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

/// Where a file is to go, which was asked before it is read.
enum Found {
    /// To a Dropbox of its own on this node, by name and address.
    Node(String, NodeAddress),
    /// To this one that is installed.
    Installed(String),
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
    let size = fits::size(&args.file)?;
    let form = match (args.plain, args.to.as_slice()) {
        (true, _) => Form::Plain,
        (_, []) => Form::Sealed { key: String::new(), prefix: String::new() },
        (_, to) => Form::Age { to: to.iter().map(ToString::to_string).collect() },
    };
    let mut wanted = Drop { id: String::new(), name, file, size, sha256: String::new(), pad, form, gets: args.gets, link: None };
    let open = cut_off(context, &store, &args, &wanted)?;
    let found = match open.iter().any(|(_, _, drop)| drop.size == size) {
        // Its node has taken it.
        true => None,
        false => Some(found(context, &store, &args, size).await?),
    };
    let source = read(&context.show, &args.file, pad).await?;
    (wanted.size, wanted.sha256) = (source.size(), HEXLOWER.encode(source.digest()));
    let place = match begun(context, open, &wanted)? {
        Some((name, record, drop)) => {
            let parcel = parcel(context, source, &drop).await?;
            Place { name, record, drop, parcel, again: true }
        }
        None => {
            let found = match found {
                Some(found) => found,
                None => self::found(context, &store, &args, wanted.size).await?,
            };
            fresh(context, &store, &args, wanted, source, found).await?
        }
    };
    send(context, &store, &args, place).await
}

/// Where a file of so many bytes is to go; or in what no node takes it, and how large a file may be.
async fn found(context: &Context, store: &Store, args: &args::DropboxPut, size: u64) -> Result<Found, Failure> {
    let too_long = || Failure::input("the file is too long to be sent");
    let sent = sent(args, size).ok_or_else(too_long)?;
    if let Some(at) = &args.at {
        let record = find(&store.read()?, at)?.clone();
        room_in(context, at, &record, sent).await?;
        return Ok(Found::Installed(at.clone()));
    }
    let nodes = match &args.node {
        Some(node) => vec![context.node(node)?],
        None => context.nodes()?.filled()?,
    };
    let count = nodes.len();
    match search(context, nodes, &bundle(args, sent)?).await {
        Ok((name, node)) => Ok(Found::Node(name, node)),
        Err(Nobody { mut silent, refusing }) if args.node.is_some() && refusing.is_empty() && !silent.is_empty() => Err(silent.remove(0).1),
        Err(nobody) if nobody.refusing.is_empty() => Err(nobody.silence()),
        Err(nobody) => Err(too_large(args, size, count, &nobody)?),
    }
}

/// How many bytes leave of a file of so many, at most.
fn sent(args: &args::DropboxPut, size: u64) -> Option<u64> {
    let whole = if args.plain || args.no_pad { size } else { Source::padded_size(size, args.pad.unwrap_or(PAD))? };
    match (args.plain, args.to.len()) {
        (true, _) => Some(whole),
        (_, 0) => FileKey::sealed_size(whole),
        (_, recipients) => Some(age_size_max(whole, recipients)),
    }
}

/// None of these nodes takes the file: why the one that takes most does not, and what it would take.
fn too_large(args: &args::DropboxPut, size: u64, count: usize, nobody: &Nobody) -> Result<Failure, Failure> {
    let largest = |gets: Option<u64>| {
        let of = |told| {
            fits::largest(size, |size| {
                let bundle = sent(args, size).and_then(|sent| room(args, gets, sent).ok());
                bundle.is_some_and(|bundle| fits::short(told, &bundle).is_none())
            })
        };
        nobody.refusing.iter().map(|(name, told)| (of(told), name, told)).max_by_key(|(largest, ..)| *largest)
    };
    let sent = sent(args, size).unwrap_or(u64::MAX);
    let bundle = bundle(args, sent)?;
    let Some((most, name, told)) = largest(args.gets) else { return Ok(Failure::new(REFUSED, "no node takes the file")) };
    let why = fits::short(told, &bundle).unwrap_or_default();
    let file = bento::line(&args.file.display().to_string());
    let of = nobody.of_the_list();
    let who = if count == 1 { format!("{name} does not take {file}") } else { format!("no node {of} takes {file}; {name}") };
    let text = format!("{who}: {why}{}", ask::unheard(nobody.silent.len()));
    let hint = match most {
        Some(most) => {
            let once = largest(Some(1)).and_then(|(once, ..)| once).filter(|once| args.gets != Some(1) && *once > most + most / 10);
            let once = once.map(|once| format!(", and with `--gets 1` of {}", fits::megabytes(once))).unwrap_or_default();
            let more = if args.node.is_some() { "another node may take more" } else { "for more add others with `bento nodes add`" };
            format!("{name} takes files of up to {}{once}; {more}", fits::megabytes(most))
        }
        None => {
            "ask for less: `--expires`, `--gets`; or add nodes with `bento nodes add`; `bento policy NODE` shows what one allows".into()
        }
    };
    Ok(Failure::new(REFUSED, text).with_hint(hint))
}

/// Does an installed Dropbox have room for so many bytes more? What else is on its way there only it knows.
async fn room_in(context: &Context, at: &str, record: &Record, sent: u64) -> Result<(), Failure> {
    let (node, tokens) = (record.node()?, record.tokens()?);
    let asked = context.client(&node).await?.status(&node, &tokens.invocation).await;
    let status = asked.map_err(|error| gone(error, at))?;
    let granted = &status.granted;
    for (what, granted, used) in [("storage", granted.storage, status.storage_used), ("traffic", granted.traffic, status.traffic_used)] {
        let left = granted.as_bytes().saturating_sub(used.as_bytes());
        if sent > left {
            let (needed, left, short) = (fits::megabytes(sent), fits::megabytes(left), fits::megabytes(sent - left));
            let text = format!("{at} has {left} of its {what} left, and the file takes {needed}: {short} too little");
            let hint = "leave `--at` out for a Dropbox of its own";
            let hint = if what == "storage" { format!("remove drops with `bento dropbox rm`, or {hint}") } else { hint.to_owned() };
            return Err(Failure::new(REFUSED, text).with_hint(hint));
        }
    }
    Ok(())
}

/// What was asked of an installed Dropbox failed.
fn gone(error: bento::ClientError, name: &str) -> Failure {
    let is_gone = is_unknown(&error);
    let mut failure = Failure::about(error, name, None);
    if is_gone {
        failure.hint = Some(format!("it has ended; `bento shutdown {name}` forgets it, and the same command then begins anew"));
    }
    failure
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

/// Uploads like this one, whatever was in the file, that an earlier run of this command did not bring to their end.
fn cut_off(context: &Context, store: &Store, args: &args::DropboxPut, wanted: &Drop) -> Result<Vec<(String, Record, Drop)>, Failure> {
    let node = args.node.as_deref().map(|node| context.node(node)).transpose()?;
    let functions = store.read()?;
    let open = functions
        .iter()
        .flat_map(|(name, record)| record.drops.iter().filter(|drop| drop.link.is_none()).map(move |drop| (name, record, drop)));
    let mut found = Vec::new();
    for (name, record, drop) in open {
        let is_here = match (&args.at, &node) {
            (Some(at), _) => at == name,
            (None, Some((_, node))) => record.for_drop && record.node()? == *node,
            (None, None) => record.for_drop,
        };
        if is_here && drop.file == wanted.file && is_alike(drop, wanted) {
            found.push((name.clone(), record.clone(), drop.clone()));
        }
    }
    Ok(found)
}

/// The one of them that is of this file as it is now.
fn begun(context: &Context, open: Vec<(String, Record, Drop)>, wanted: &Drop) -> Result<Option<(String, Record, Drop)>, Failure> {
    for (name, record, drop) in open {
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
        return Ok(Some((name, record, drop)));
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
async fn fresh(
    context: &Context,
    store: &Store,
    args: &args::DropboxPut,
    wanted: Drop,
    source: Source,
    found: Found,
) -> Result<Place, Failure> {
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
    let placed = placed(context, store, args, &drop, (parcel.size(), found));
    if placed.is_err() {
        discard(&drop);
    }
    let (name, record) = placed?;
    Ok(Place { name, record, drop, parcel, again: false })
}

/// Keeps the drop in the record of its Dropbox; installs one if none was named.
fn placed(
    context: &Context,
    store: &Store,
    args: &args::DropboxPut,
    drop: &Drop,
    (size, found): (u64, Found),
) -> Result<(String, Record), Failure> {
    let (node_name, node) = match found {
        Found::Node(name, node) => (name, node),
        Found::Installed(at) => {
            let record = store.update(|functions| {
                find(functions, &at)?;
                let record = functions.get_mut(&at).ok_or_else(|| Failure::input(format!("{at} is gone")))?;
                record.drops.push(drop.clone());
                Ok(record.clone())
            })?;
            return Ok((at, record));
        }
    };
    let bundle = bundle(args, size)?;
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
    room(args, args.gets, size)
}

/// The same for one that is fetched so often.
fn room(args: &args::DropboxPut, gets: Option<u64>, size: u64) -> Result<Bundle, Failure> {
    let bundle = Standard::Dropbox.bundle().and_then(|bundle| {
        let room = Dropbox::room_for(size, gets, args.expires.unwrap_or(EXPIRES));
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
        return asked.map(|status| status.remaining).map_err(|error| (gone(error, name), true));
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
