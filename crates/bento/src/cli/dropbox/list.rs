//! `bento dropbox list` and `bento dropbox rm`.

use std::time::{SystemTime, UNIX_EPOCH};

use bento::{ClientError, DropError, DropId, Told};
use bento_proto::Span;
use serde_json::{Value, json};

use super::{failure, find, named};
use crate::cli::{
    args,
    context::Context,
    failure::Failure,
    function::{forget, is_unknown, time},
    store::Record,
    table::table,
};

/// Lists what the Dropboxes have.
pub(super) async fn list(context: &Context, args: args::DropboxList) -> Result<(), Failure> {
    let functions = context.store()?.read()?;
    let one = args.name.as_deref().map(|name| find(&functions, name).map(|record| (name.to_owned(), record))).transpose()?;
    let is_one = one.is_some();
    let all = || functions.iter().filter(|(_, record)| record.is_dropbox()).map(|(name, record)| (name.clone(), record)).collect();
    let boxes: Vec<(String, &Record)> = one.map_or_else(all, |one| vec![one]);

    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let (mut rows, mut json) = (Vec::new(), Vec::<Value>::new());
    for (name, record) in boxes {
        context.show.now(&format!("asking {name}"));
        let told = match record.dropbox(context).await?.list().await {
            Ok(told) => told,
            Err(error) => {
                let failure = failure(error, &name);
                if is_one {
                    return Err(failure);
                }
                rows.push(vec![name.clone(), failure.text.clone()]);
                json.push(json!({"dropbox": name, "reason": failure.text}));
                continue;
            }
        };
        for one in told {
            let own = record.drops.iter().find(|drop| drop.id == one.drop);
            let shown = own.map(|drop| drop.name.clone()).or(one.name.clone());
            let left = one.gets.map(|gets| gets.saturating_sub(one.taken));
            rows.push(vec![
                format!("{name}/{}", &one.drop[..one.drop.len().min(12)]),
                shown.clone().unwrap_or_else(|| "(unnamed)".into()),
                size(&one),
                format!("expires in {}", time(Span::seconds(one.expires.saturating_sub(now)))),
                left.map_or_else(
                    || "any number of gets left".into(),
                    |left| format!("{left} get{} left", if left == 1 { "" } else { "s" }),
                ),
            ]);
            json.push(json!({
                "dropbox": name, "drop": one.drop, "name": shown, "bytes": own.map(|drop| drop.size), "sealed": one.size, "there": one.offset,
                "whole": one.sha256.is_some(), "expires": one.expires, "gets": one.gets, "taken": one.taken,
            }));
        }
    }
    if rows.is_empty() {
        rows.push(vec!["There are no drops; `bento dropbox put FILE` makes one.".into()]);
    }
    context.say(&table(&rows), &json!({ "drops": json }))
}

fn size(told: &Told) -> String {
    match &told.sha256 {
        Some(_) => format!("{} bytes", told.size),
        None => format!("{} of {} bytes so far", told.offset, told.size),
    }
}

/// Erases a drop.
pub(super) async fn remove(context: &Context, args: args::DropboxRm) -> Result<(), Failure> {
    let store = context.store()?;
    let functions = store.read()?;
    let (name, id) = match args.drop.split_once('/') {
        Some((name, id)) => {
            let record = find(&functions, name)?;
            let name = name.to_owned();
            match named(record.drops.iter().map(|drop| (&name, drop)), id)? {
                Some((_, drop)) => (name.clone(), drop.id.clone()),
                None => (name, id.parse::<DropId>()?.to_string()),
            }
        }
        None => {
            let all = functions.iter().flat_map(|(name, record)| record.drops.iter().map(move |drop| (name, drop)));
            let (name, drop) = named(all, &args.drop)?.ok_or_else(|| {
                Failure::input(format!("no drop of yours begins with `{}`", bento::line(&args.drop)))
                    .with_hint("`bento dropbox list` shows the ids; NAME/DROP names one that this program did not send")
            })?;
            (name.clone(), drop.id.clone())
        }
    };
    let record = find(&functions, &name)?;
    let dropbox = record.dropbox(context).await?;
    let is_gone = |error: &DropError| matches!(error, DropError::Client(error) if is_unknown(error));
    let existed = match dropbox.delete(id.parse()?).await {
        Ok(existed) => existed,
        // With its function everything of it has ended.
        Err(error) if is_gone(&error) => false,
        Err(error) => return Err(failure(error, &name)),
    };
    let is_last = store.update(|functions| {
        let Some(record) = functions.get_mut(&name) else { return Ok(false) };
        record.drops.retain(|drop| drop.id != id);
        Ok(record.for_drop && record.drops.is_empty())
    })?;
    if let Ok(path) = super::put::spool(&id) {
        let _ = std::fs::remove_file(path);
    }
    let mut ended = false;
    if is_last {
        // Others may have its token, and drops in it.
        let is_empty = match dropbox.list().await {
            Ok(told) => told.is_empty(),
            Err(error) if is_gone(&error) => true,
            Err(error) => return Err(failure(error, &name)),
        };
        if is_empty {
            match dropbox.client.shutdown(&dropbox.node, &record.tokens()?.shutdown).await {
                Err(error) if !is_unknown(&error) => return Err(left(error, &name)),
                _ => forget(&store, &name, &record.tokens()?)?,
            }
            ended = true;
        }
    }
    let mut text =
        if existed { format!("Erased {} in {name}.\n", &id[..12]) } else { format!("{} was not in {name} any more.\n", &id[..12]) };
    if ended {
        text.push_str(&format!("Ended {name}, which was there for it alone.\n"));
    }
    context.say(&text, &json!({"dropbox": name, "drop": id, "existed": existed, "ended": ended}))
}

/// The drop is erased, and its function was not ended.
fn left(error: ClientError, name: &str) -> Failure {
    Failure::about(error, name, None).with_hint(format!("the drop is erased; `bento shutdown {name}` ends {name}"))
}
