//! `bento browse --offline` and `bento collect`.

use std::{
    path::Path,
    time::{SystemTime, UNIX_EPOCH},
};

use bento::{AgeIdentity, Browse, Collected, Errand, ErrandError, NodeAddress, Place, Sizes, Tokens};
use bento_proto::{Span, bundle::Bundle};
use serde_json::json;

use super::{
    args,
    browse::{deliver, free, host, pick},
    context::Context,
    failure::{FUNCTION, Failure, NODE},
    function::time,
    invoke::check_stdout,
    sink::Sink,
    store::ErrandRecord,
    table::table,
};

/// How long a page is kept if nothing else is said.
const KEEP: Span = Span::seconds(12 * 3600);

/// Sends for a page. All that is needed to collect it is kept before any node hears of it.
pub(crate) async fn send(context: &Context, browse: Browse, bundle: Bundle, args: &args::Browse) -> Result<(), Failure> {
    let keep = args.keep.map_or(KEEP, |keep| Span::seconds(keep.as_secs().max(60)));
    let bundle = Errand::browser(bundle, keep)?;
    let (browser_name, browser) = match &args.node {
        Some(node) => context.node(node)?,
        None => pick(context, &bundle, None).await?,
    };
    let (dropbox_name, dropbox) = match &args.dropbox {
        Some(node) => context.node(node)?,
        None => pick(context, &Errand::dropbox(keep)?, Some(&browser)).await?,
    };
    if dropbox == browser {
        return Err(Failure::input("one node would see both who asks and what is fetched").with_hint("give two different nodes"));
    }
    let client = context.client(&browser).await?;
    let errand = Errand::new(browse, browser, dropbox, keep)?;
    let store = context.store()?;
    let record = record(&errand, args)?;
    let name = store.update_errands(|errands| {
        let host = host(&errand.browse.url);
        let mut names = std::iter::once(host.clone()).chain((2..).map(|number| format!("{host}-{number}")));
        let name = names.find(|name| !errands.contains_key(name)).unwrap_or_default();
        errands.insert(name.clone(), record);
        Ok(name)
    })?;
    context.show.step(&format!("{browser_name} is asked to fetch it and to leave it at {dropbox_name}"));
    if let Err(error) = errand.send(&client, &bundle).await {
        let undecided = error.is_undecided();
        let mut failure = Failure::about(error, &bundle.manifest.name, None);
        if undecided {
            failure.hint = Some(format!("it may have begun: `bento collect {name}` knows"));
        } else {
            errand.end(&client).await;
            forget(context, &name)?;
        }
        return Err(failure);
    }
    let text =
        format!("{browser_name} fetches it and leaves it at {dropbox_name}, for {}; `bento collect {name}` brings it.\n", time(keep));
    let json = json!({"name": name, "node": errand.browser.node.to_string(), "dropbox": errand.dropbox.node.to_string(), "keep": keep});
    context.say(&text, &json)
}

/// Collects a page, lists what is awaited, or gives it up.
pub(crate) async fn collect(context: &Context, args: args::Collect) -> Result<(), Failure> {
    let errands = context.store()?.errands()?;
    if args.list {
        return list(context, &errands);
    }
    let chosen = match &args.name {
        Some(name) => errands.get_key_value(name),
        None => errands.iter().max_by_key(|(_, record)| record.sent),
    };
    let Some((name, record)) = chosen else {
        let hint = "`bento collect --list` shows what is awaited; `bento browse URL --offline` sends for a page";
        return Err(Failure::input("no page of this name is awaited").with_hint(hint));
    };
    let errand = errand(record)?;
    let client = context.client(&errand.dropbox.node).await?;
    if args.forget {
        errand.end(&client).await;
        forget(context, name)?;
        return context.say(&format!("Gave up {name}.\n"), &json!({"name": name}));
    }
    check_stdout(context, Some(args.output.as_deref().unwrap_or(Path::new("page"))))?;
    let path = args.output.clone().map_or_else(|| free(&host(&record.url)), Ok)?;
    let sink = Sink::open(Some(&path), args.force).await?;
    let collected = errand.collect(&client, |bytes, total| context.show.received(bytes, Some(total))).await;
    let page = match collected {
        Ok(Collected::Page(page)) => page,
        Ok(Collected::Underway) => {
            return Err(Failure::new(NODE, "it is still on its way").with_hint(format!("try again in a minute: `bento collect {name}`")));
        }
        Err(ErrandError::Drop(error)) => return Err(super::dropbox::failure(error, name)),
        Err(ErrandError::Failed(error)) => {
            // It will never come.
            errand.end(&client).await;
            forget(context, name)?;
            return Err(Failure::from(error).with_hint("send for it again, through other nodes"));
        }
        Err(error @ ErrandError::Forgotten(_)) => {
            let hint = format!("send for it again; `bento collect {name} --forget` gives this one up");
            return Err(Failure::new(FUNCTION, error.to_string()).with_hint(hint));
        }
        Err(error) => return Err(Failure::new(NODE, error.to_string())),
    };
    let given = args.output.is_some();
    // Who fetched it, as this person calls that node.
    let fetcher = &errand.browser.node;
    let known = context.nodes()?.read()?.into_iter().find(|(_, address)| address == fetcher);
    let fetched_by = known.map_or_else(|| fetcher.to_string(), |(name, _)| name);
    let delivered = deliver(context, &errand.browse, &page, &fetched_by, Some(fetcher), (sink, None), given).await;
    if delivered.is_ok() || delivered.as_ref().is_err_and(|failure| failure.status == FUNCTION) {
        errand.end(&client).await;
        forget(context, name)?;
    }
    delivered
}

fn list(context: &Context, errands: &super::store::Errands) -> Result<(), Failure> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let left = |record: &ErrandRecord| Span::seconds((record.sent + record.keep.duration().as_secs()).saturating_sub(now));
    let mut rows: Vec<Vec<String>> =
        errands.iter().map(|(name, record)| vec![name.clone(), record.url.clone(), format!("kept for {}", time(left(record)))]).collect();
    if rows.is_empty() {
        rows.push(vec!["No page is awaited; `bento browse URL --offline` sends for one.".into()]);
    }
    let json: Vec<_> = errands.iter().map(|(name, record)| json!({"name": name, "url": record.url, "left": left(record)})).collect();
    context.say(&table(&rows), &json!({ "errands": json }))
}

fn forget(context: &Context, name: &str) -> Result<(), Failure> {
    context.store()?.update_errands(|errands| {
        errands.remove(name);
        Ok(())
    })
}

fn record(errand: &Errand, args: &args::Browse) -> Result<ErrandRecord, Failure> {
    let place = |place: &Place| [place.node.to_string(), place.tokens.invocation.reveal(), place.tokens.shutdown.reveal()];
    Ok(ErrandRecord {
        url: errand.browse.url.clone(),
        bucket: args.bucket,
        sizes: args.sizes.clone(),
        browser: place(&errand.browser),
        dropbox: place(&errand.dropbox),
        drop: errand.drop.to_string(),
        output: errand.output.to_string(),
        identity: errand.identity.reveal().to_string(),
        keep: errand.keep,
        sent: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
    })
}

fn errand(record: &ErrandRecord) -> Result<Errand, Failure> {
    let wrong = |what: &str| Failure::input(format!("functions.json has a wrong {what} of a page that is awaited"));
    let place = |[node, invocation, shutdown]: &[String; 3]| {
        let tokens =
            Tokens { invocation: invocation.parse().map_err(|_| wrong("token"))?, shutdown: shutdown.parse().map_err(|_| wrong("token"))? };
        Ok::<_, Failure>(Place { node: node.parse::<NodeAddress>().map_err(|_| wrong("address"))?, tokens })
    };
    let sizes = match record.bucket {
        Some(bucket) => Sizes::bucket(bucket),
        None if record.sizes.is_empty() => Ok(Sizes::default()),
        None => Sizes::one_of(record.sizes.clone()),
    };
    Ok(Errand {
        browse: Browse { sizes: sizes.map_err(|_| wrong("size"))?, ..Browse::new(&record.url) },
        browser: place(&record.browser)?,
        dropbox: place(&record.dropbox)?,
        drop: record.drop.parse()?,
        identity: AgeIdentity::all(&record.identity).ok().and_then(|all| all.into_iter().next()).ok_or_else(|| wrong("key"))?,
        output: record.output.parse()?,
        keep: record.keep,
    })
}
