//! `bento install`, `bento status` and `bento shutdown`.

use bento::{ClientError, NodeAddress, Tokens};
use bento_proto::{Problem, Refusal, Span, bundle::Bundle, node::FunctionStatus};
use data_encoding::HEXLOWER;
use serde_json::{Value, json};
use sha2::{Digest as _, Sha256};
use tokio::task::JoinSet;

use super::{
    args,
    context::{Context, function},
    failure::{Failure, NODE},
    nodes::is_name,
    store::{Functions, Record, Store},
    table::table,
};

/// Installs a function. Its tokens are kept before the node hears of it.
pub(crate) async fn install(context: &Context, args: args::Install) -> Result<(), Failure> {
    let bundle = function(&args.directory)?;
    let (node_name, node) = context.node(&args.node)?;
    let store = context.store()?;
    let (name, tokens) = keep(&store, &node, &bundle, args.name.as_deref())?;
    // Whatever goes wrong before anything is sent leaves no record behind.
    let client = match context.client(&node).await {
        Ok(client) => client,
        Err(failure) => {
            forget(&store, &name, &tokens)?;
            return Err(failure);
        }
    };
    let status = match client.install(&node, &bundle, &tokens).await {
        Ok(status) => status,
        Err(error) if error.is_undecided() => {
            let again = format!("`bento install {} {} --name {name}` asks again with the same tokens", args.node, args.directory.display());
            return Err(Failure::from(error).with_hint(format!("it may be installed: {again}, `bento shutdown {name}` ends it")));
        }
        Err(error) => {
            forget(&store, &name, &tokens)?;
            return Err(Failure::about(error, &bundle.manifest.name, Some(&args.directory)));
        }
    };
    store.update(|functions| {
        if let Some(record) = functions.get_mut(&name) {
            record.pending = false;
        }
        Ok(())
    })?;

    let methods = bundle.manifest.methods.join(", ");
    let ends = time(status.remaining);
    let mut text = format!("Installed {} on {node_name} as {name}: it has {methods}, and ends in {ends}.\n", bundle.manifest.name);
    let mut json = json!({"name": name, "node": node.to_string(), "function": status});
    if args.show_tokens {
        let (invocation, shutdown) = (tokens.invocation.reveal(), tokens.shutdown.reveal());
        text.push_str(&format!("{invocation}\n{shutdown}\n"));
        json["invocation_token"] = invocation.into();
        json["shutdown_token"] = shutdown.into();
    }
    context.say(&text, &json)
}

/// Finds a name for the function and keeps its tokens under it. An install that was cut off goes on under its own name and tokens.
fn keep(store: &Store, node: &NodeAddress, bundle: &Bundle, wanted: Option<&str>) -> Result<(String, Tokens), Failure> {
    let archive = bundle.pack().map_err(|error| Failure::input(format!("the function cannot be sent: {error}")))?;
    let digest = HEXLOWER.encode(&Sha256::digest(&archive));
    let tokens = Tokens::mint()?;
    if let Some(name) = wanted.filter(|name| !is_name(name)) {
        return Err(Failure::input(format!(
            "`{}` is no name for a function: 1 to 40 lower-case letters, digits and hyphens",
            bento::line(name)
        ))
        .with_hint("for example `--name greeter`"));
    }
    store.update(|functions| {
        let name = match wanted {
            Some(name) => name.to_owned(),
            None => free(functions, &bundle.manifest.name),
        };
        if let Some(record) = functions.get(&name) {
            if record.pending && record.bundle == digest && record.node()? == *node {
                return Ok((name, record.tokens()?));
            }
            return Err(Failure::input(format!("a function is installed under the name `{name}` already"))
                .with_hint(format!("`bento shutdown {name}`, or choose another name")));
        }
        functions.insert(name.clone(), Record::new(node, &tokens, bundle, digest));
        Ok((name, tokens))
    })
}

/// The name, or it with the first number that is free.
pub(crate) fn free(functions: &Functions, name: &str) -> String {
    let numbered = (2..).map(|number| format!("{name}-{number}"));
    std::iter::once(name.to_owned()).chain(numbered).find(|name| !functions.contains_key(name)).unwrap_or_default()
}

pub(crate) fn forget(store: &Store, name: &str, tokens: &Tokens) -> Result<(), Failure> {
    store.update(|functions| {
        // Another program may have taken the name meanwhile.
        if functions.get(name).is_some_and(|record| record.tokens().is_ok_and(|own| own == *tokens)) {
            functions.remove(name);
        }
        Ok(())
    })
}

/// Shows one function or all.
pub(crate) async fn status(context: &Context, args: args::Status) -> Result<(), Failure> {
    let store = context.store()?;
    match args.name {
        Some(name) => one(context, &name, &store.find(&name)?).await,
        None => all(context, store.read()?).await,
    }
}

/// Remembers how often what it keeps was changed, and notices where that goes back.
pub(crate) fn see(context: &Context, name: &str, record: &Record, status: &FunctionStatus) -> Result<(), Failure> {
    let Some(changes) = status.changes else { return Ok(()) };
    if changes < record.changes {
        let refusal = Refusal::RolledBack { seen: record.changes, has: changes };
        return Err(Failure::about(ClientError::Refused(Box::new(Problem::from(&refusal))), name, None));
    }
    if changes == record.changes {
        return Ok(());
    }
    context.store()?.update(|functions| {
        // Another program may have seen more meanwhile, or have another function of this name.
        if let Some(kept) = functions.get_mut(name).filter(|kept| kept.is_same(record)) {
            kept.changes = kept.changes.max(changes);
        }
        Ok(())
    })
}

async fn one(context: &Context, name: &str, record: &Record) -> Result<(), Failure> {
    let node = record.node()?;
    let asked = context.client(&node).await?.status(&node, &record.tokens()?.invocation).await;
    let status = asked.map_err(|error| Failure::about(error, name, None))?;
    // A plain node could say whatever it likes.
    if node.is_conclave() {
        see(context, name, record, &status)?;
    }
    let granted = &status.granted;
    let mut rows = vec![
        vec!["function".to_owned(), status.name.clone()],
        vec!["node".to_owned(), node.to_string()],
        vec!["methods".to_owned(), status.methods.join(", ")],
        vec!["state".to_owned(), state(&status)],
        vec!["ends in".to_owned(), time(status.remaining)],
        vec!["cpu".to_owned(), format!("{} of {}", status.cpu_used, granted.cpu)],
        vec!["traffic".to_owned(), format!("{} of {}", status.traffic_used, granted.traffic)],
        vec!["storage".to_owned(), format!("{} of {}", status.storage_used, granted.storage)],
    ];
    rows.extend(status.log.iter().enumerate().map(|(index, line)| {
        let label = if index == 0 { "log" } else { "" };
        vec![label.to_owned(), line.clone()]
    }));
    let json = json!({"name": name, "node": node.to_string(), "function": status});
    context.say(&table(&rows), &json)
}

async fn all(context: &Context, functions: Functions) -> Result<(), Failure> {
    let mut questions = JoinSet::new();
    for (index, (name, record)) in functions.iter().enumerate() {
        let (node, tokens) = (record.node()?, record.tokens()?);
        let client = context.quiet_client(&node).await;
        let name = name.clone();
        questions.spawn(async move {
            let asked = match client {
                Ok(client) => client.status(&node, &tokens.invocation).await.map_err(|error| (is_unknown(&error), Failure::from(error))),
                Err(failure) => Err((false, failure)),
            };
            (index, name, node, asked)
        });
    }
    context.show.now(&format!("asking for {} functions", functions.len()));
    let mut answers: Vec<_> = questions.join_all().await;
    answers.sort_by_key(|(index, ..)| *index);

    let mut rows = Vec::new();
    let mut json: Vec<Value> = Vec::new();
    for (_, name, node, asked) in answers {
        let (cells, told) = match asked {
            Ok(status) => {
                let cells = [state(&status), format!("ends in {}", time(status.remaining))];
                (cells, json!({"state": if status.awake { "awake" } else { "asleep" }, "function": status}))
            }
            Err((true, _)) => (["ended".to_owned(), String::new()], json!({"state": "ended"})),
            Err((false, failure)) => (["no answer".to_owned(), failure.text.clone()], json!({"state": null, "reason": failure.text})),
        };
        let [state, more] = cells;
        rows.push(vec![name.clone(), node.to_string(), state, more]);
        let mut told = told;
        (told["name"], told["node"]) = (name.into(), node.to_string().into());
        json.push(told);
    }
    if rows.is_empty() {
        rows.push(vec!["No function is installed; `bento install NODE DIR` installs one.".into()]);
    }
    context.say(&table(&rows), &json!({ "functions": json }))
}

/// Ends a function and forgets its tokens.
pub(crate) async fn shutdown(context: &Context, args: args::Shutdown) -> Result<(), Failure> {
    let store = context.store()?;
    let record = store.find(&args.name)?;
    let tokens = record.tokens()?;
    let name = &args.name;
    let mut done = "Forgot";
    if !args.forget {
        let node = record.node()?;
        let client = context.client(&node).await?;
        match client.shutdown(&node, &tokens.shutdown).await {
            Ok(()) => done = "Ended",
            // It is what was wanted.
            Err(error) if is_unknown(&error) => done = "Already ended:",
            Err(error) => {
                let mut failure = Failure::about(error, name, None);
                if failure.status == NODE {
                    failure.hint = Some(format!("try again; `bento shutdown {name} --forget` leaves it to the end of its lifetime"));
                }
                return Err(failure);
            }
        }
    }
    forget(&store, name, &tokens)?;
    context.say(&format!("{done} {name}.\n"), &json!({"name": name, "ended": done != "Forgot"}))
}

pub(crate) fn is_unknown(error: &ClientError) -> bool {
    matches!(error, ClientError::Refused(problem) if problem.code() == "unknown-token")
}

fn state(status: &FunctionStatus) -> String {
    match (status.awake, status.invocations) {
        (false, _) => "asleep".into(),
        (true, 0) => "awake".into(),
        (true, 1) => "awake, 1 invocation".into(),
        (true, more) => format!("awake, {more} invocations"),
    }
}

/// A span as a person wants it: not to the millisecond.
pub(crate) fn time(span: Span) -> String {
    match span.as_seconds_up() {
        seconds @ 0..120 => format!("{seconds} s"),
        seconds @ 120..7200 => format!("{} min", seconds.div_ceil(60)),
        seconds => format!("{} h", seconds.div_ceil(3600)),
    }
}
