//! `bento invoke --detach`, `bento output` and `bento renew`.

use std::time::Duration;

use bento::{ClientError, Fetched, OutputId, Part};
use serde_json::json;

use super::{
    args,
    context::Context,
    failure::{Failure, NODE},
    function::time,
    invoke::{call, check_stdout, finish},
    sink::Sink,
    store::Record,
};

/// How long a node is asked to wait for the end in one request.
const WAIT: Duration = Duration::from_secs(60);

/// Tries to fetch an output without a byte more.
const TRIES_MAX: u32 = 5;

/// Pause before an output is asked for again.
const AGAIN: Duration = Duration::from_secs(2);

/// Begins an invocation that goes on by itself. Its name is kept before the node hears of it.
pub(crate) async fn begin(context: &Context, args: args::Invoke, record: &Record) -> Result<(), Failure> {
    let store = context.store()?;
    let id = OutputId::mint()?;
    let mut call = call(&args.call, record.lifetime, record.traffic).await?;
    let node = record.node()?;
    // A plain node could say whatever it likes.
    call.seen = (node.is_conclave() && record.changes > 0).then_some(record.changes);
    let client = context.client(&node).await?;
    let name = args.name;
    store.update(|functions| {
        if let Some(record) = functions.get_mut(&name) {
            record.outputs.push(id.to_string());
        }
        Ok(())
    })?;
    if let Err(error) = client.detach(&node, &record.tokens()?.invocation, id, call).await {
        if error.is_undecided() {
            return Err(Failure::from(error).with_hint(format!("it may have begun: `bento output {name}` knows")));
        }
        forget(context, &name, id)?;
        return Err(Failure::about(error, &name, None));
    }
    context.say(
        &format!("{name} goes on by itself; `bento output {name} {id}` fetches what it writes.\n"),
        &json!({"name": name, "output": id.to_string()}),
    )
}

fn forget(context: &Context, name: &str, id: OutputId) -> Result<(), Failure> {
    context.store()?.update(|functions| {
        if let Some(record) = functions.get_mut(name) {
            record.outputs.retain(|kept| *kept != id.to_string());
        }
        Ok(())
    })
}

/// Fetches an output, from where a broken stream left it.
pub(crate) async fn fetch(context: &Context, args: args::Fetch) -> Result<(), Failure> {
    let record = context.store()?.find(&args.name)?;
    let name = &args.name;
    let id = match args.id.as_ref().or(record.outputs.last()) {
        Some(text) => text.parse::<OutputId>()?,
        None => {
            return Err(Failure::input(format!("{name} has no output to fetch"))
                .with_hint(format!("`bento invoke {name} METHOD --detach` begins an invocation that has one")));
        }
    };
    check_stdout(context, args.output.as_deref())?;
    let (node, token) = (record.node()?, record.tokens()?.invocation);
    let mut sink = Sink::open(args.output.as_deref(), args.force).await?;
    let client = context.client(&node).await?;
    let wait = if args.no_wait { Duration::ZERO } else { WAIT };
    let (mut received, mut tries) = (0, 0);
    let outcome = loop {
        let asked = client.output(&node, &token, id, received, wait).await;
        let (size, mut output) = match asked {
            Ok(Fetched::Running(bytes)) if args.no_wait => {
                let hint = format!("`bento output {name} {id}` waits for it");
                return Err(Failure::new(NODE, format!("it has not ended, and has written {bytes} bytes so far")).with_hint(hint));
            }
            Ok(Fetched::Running(bytes)) => {
                context.show.now(&format!("waiting for its end, {bytes} bytes so far"));
                tries = 0;
                continue;
            }
            Ok(Fetched::Ended { from, size, output }) if from == received => (size, output),
            Ok(Fetched::Ended { .. }) => return Err(ClientError::Violation("it sends another part than was asked for".into()).into()),
            Err(error) if is_passing(&error) && tries < TRIES_MAX => {
                again(context, &mut tries).await;
                continue;
            }
            Err(error) => return Err(Failure::about(error, name, None)),
        };
        let ended = loop {
            match output.next().await {
                Ok(Part::Bytes(bytes)) => {
                    received += bytes.len() as u64;
                    tries = 0;
                    if sink.is_terminal() {
                        context.show.clear();
                    } else {
                        context.show.received(received, Some(size));
                    }
                    sink.write(&bytes).await?;
                }
                Ok(Part::End(outcome)) => break Ok(outcome),
                Err(error) => break Err(error),
            }
        };
        match ended {
            Ok(outcome) => break outcome,
            Err(error) if is_passing(&error) && tries < TRIES_MAX => again(context, &mut tries).await,
            Err(error) => return Err(error.into()),
        }
    };
    // What came of one that failed is seen on stdout, and is no file that somebody may take for an output.
    let is_held_back = received > 0 && matches!(sink, Sink::File { .. });
    let finished = finish(context, sink, received, outcome).await;
    let finished = match finished {
        Err(failure) if failure.status == super::failure::FUNCTION && is_held_back => {
            let wrote = format!("`bento output {name} {id}` shows the {received} bytes that it wrote before, and leaves none at the node");
            let hint = failure.hint.iter().chain([&wrote]).map(String::as_str).collect::<Vec<_>>().join("; ");
            return Err(failure.with_hint(hint));
        }
        finished => finished,
    };
    // It is here now, or will never be.
    if !args.keep && (finished.is_ok() || finished.as_ref().is_err_and(|failure| failure.status == super::failure::FUNCTION)) {
        // When this fails it stays at the node until the function ends.
        let _ = client.forget_output(&node, &token, id).await;
        forget(context, name, id)?;
    }
    finished
}

/// May it go on where it broke off?
fn is_passing(error: &ClientError) -> bool {
    !matches!(error, ClientError::Refused(_) | ClientError::Violation(_) | ClientError::Request(_))
}

async fn again(context: &Context, tries: &mut u32) {
    *tries += 1;
    context.show.now("the stream broke; going on from there");
    tokio::time::sleep(AGAIN).await;
}

/// Makes a function's lifetime begin anew.
pub(crate) async fn renew(context: &Context, args: args::Renew) -> Result<(), Failure> {
    let record = context.store()?.find(&args.name)?;
    let node = record.node()?;
    let renewed = context.client(&node).await?.renew(&node, &record.tokens()?.shutdown).await;
    let remaining = renewed.map_err(|error| Failure::about(error, &args.name, None))?;
    context.say(&format!("{} now ends in {}.\n", args.name, time(remaining)), &json!({"name": args.name, "remaining": remaining}))
}
