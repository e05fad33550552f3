//! `bento invoke` and `bento run`.

use std::path::Path;
use std::time::Duration;

use bento::{Call, Input, Output, Part};
use bento_proto::{Outcome, Size, Span};
use serde_json::{Map, Value, json};

use super::{
    args,
    context::{Context, function},
    failure::Failure,
    sink::Sink,
};

/// Time beyond a function's lifetime: for the way to the node and back.
const WAY: Duration = Duration::from_secs(120);

/// Bytes beyond a function's traffic: what a node may have in its hands when it counts.
const SLACK: u64 = 1 << 20;

/// Invokes an installed function.
pub(crate) async fn invoke(context: &Context, args: args::Invoke) -> Result<(), Failure> {
    let record = context.store()?.find(&args.name)?;
    check_method(&args.call.method, &args.name, &record.methods)?;
    if args.detach {
        return super::detached::begin(context, args, &record).await;
    }
    check_stdout(context, args.call.output.as_deref())?;
    let mut call = call(&args.call, record.lifetime, record.traffic).await?;
    let sink = Sink::open(args.call.output.as_deref(), args.call.force).await?;
    let node = record.node()?;
    // A plain node could say whatever it likes.
    call.seen = (node.is_conclave() && record.changes > 0).then_some(record.changes);
    let client = context.client(&node).await?;
    let about = |error| Failure::about(error, &args.name, None);
    let output = client.invoke(&node, &record.tokens()?.invocation, call).await.map_err(about)?;
    let delivered = deliver(context, output, sink).await;
    // What it changed is what the next invocation must find. How this one ended comes first, also where the function is no more.
    if node.is_conclave()
        && let Ok(status) = client.status(&node, &record.tokens()?.invocation).await
    {
        let seen = super::function::see(context, &args.name, &record, &status);
        return delivered.and(seen);
    }
    delivered
}

/// Installs, invokes and ends a function.
pub(crate) async fn run(context: &Context, args: args::Run) -> Result<(), Failure> {
    let bundle = function(&args.directory)?;
    let manifest = &bundle.manifest;
    check_method(&args.call.method, &manifest.name, &manifest.methods)?;
    check_stdout(context, args.call.output.as_deref())?;
    let call = call(&args.call, manifest.needs.lifetime, manifest.needs.traffic).await?;
    let (_, node) = context.node(&args.node)?;
    let sink = Sink::open(args.call.output.as_deref(), args.call.force).await?;
    let client = context.client(&node).await?;
    let about = |error| Failure::about(error, &manifest.name, Some(&args.directory));
    let output = client.run(&node, &bundle, call).await.map_err(about)?;
    deliver(context, output, sink).await
}

/// With `--json` stdout is taken.
pub(crate) fn check_stdout(context: &Context, output: Option<&Path>) -> Result<(), Failure> {
    if context.options.json && output.is_none_or(|path| path == Path::new("-")) {
        return Err(Failure::input("with `--json` stdout is for the JSON object").with_hint("give a file for the output: `--output FILE`"));
    }
    Ok(())
}

fn check_method(method: &str, name: &str, methods: &[String]) -> Result<(), Failure> {
    if methods.iter().any(|one| one == method) {
        return Ok(());
    }
    Err(Failure::input(format!("{name} has no method `{}`", bento::line(method))).with_hint(format!("it has {}", methods.join(", "))))
}

pub(crate) async fn call(args: &args::Call, lifetime: Span, traffic: Size) -> Result<Call, Failure> {
    let mut call = Call::new(&args.method);
    call.arguments = arguments(args.arguments.as_deref(), &args.pairs)?;
    call.input = match args.input.as_deref() {
        None => Input::Empty,
        Some(path) if path == Path::new("-") => Input::stream(tokio::io::stdin()),
        Some(path) => {
            let opened = tokio::fs::File::open(path).await;
            Input::stream(opened.map_err(|error| Failure::file("opening", path, &error))?)
        }
    };
    call.within = Some(lifetime.duration().saturating_add(WAY));
    call.output_max = Some(traffic.as_bytes().saturating_add(SLACK));
    Ok(call)
}

/// The arguments: one JSON object, and `KEY=VALUE` pairs beside it.
fn arguments(object: Option<&str>, pairs: &[String]) -> Result<Map<String, Value>, Failure> {
    let mut all = match object.map(serde_json::from_str) {
        None => Map::new(),
        Some(Ok(Value::Object(map))) => map,
        Some(Ok(_)) => {
            return Err(Failure::input("the arguments are JSON but no object").with_hint("for example `--arguments '{\"name\": \"Ada\"}'`"));
        }
        Some(Err(error)) => {
            return Err(
                Failure::input(format!("the arguments are no JSON: {error}")).with_hint("for example `--arguments '{\"name\": \"Ada\"}'`")
            );
        }
    };
    for pair in pairs {
        let Some((key, value)) = pair.split_once('=').filter(|(key, _)| !key.is_empty()) else {
            return Err(Failure::input(format!("`{}` is not KEY=VALUE", bento::line(pair))).with_hint("for example `name=Ada`"));
        };
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::String(value.to_owned()));
        if all.insert(key.to_owned(), value).is_some() {
            return Err(Failure::input(format!("the argument `{}` is given twice", bento::line(key))).with_hint("give it once"));
        }
    }
    Ok(all)
}

/// Takes the output to its place and tells how the invocation ended.
async fn deliver(context: &Context, mut output: Output, mut sink: Sink) -> Result<(), Failure> {
    let total = output.length();
    let outcome = loop {
        match output.next().await? {
            Part::Bytes(bytes) => {
                if sink.is_terminal() {
                    // The output itself shows how far it is, and a bar would be in its way.
                    context.show.clear();
                } else {
                    context.show.received(output.received(), total);
                }
                sink.write(&bytes).await?;
            }
            Part::End(outcome) => break outcome,
        }
    };
    finish(context, sink, output.received(), outcome).await
}

/// Says how an invocation ended whose output is in its place.
pub(crate) async fn finish(context: &Context, sink: Sink, received: u64, outcome: Outcome) -> Result<(), Failure> {
    let file = match outcome {
        Outcome::Returned => sink.finish().await?,
        // What a function wrote before it failed is no output that somebody may take for one.
        _ => None,
    };
    if context.options.json {
        let mut json = json!(outcome);
        json["bytes"] = received.into();
        json["file"] = file.map(|path| path.display().to_string()).into();
        context.say("", &json)?;
    }
    Failure::outcome(&outcome).map_or(Ok(()), Err)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_value_is_json_if_it_can_be_and_else_text() {
        let pairs = ["a=1", "b=x y", "c=[1,2]", "d=\"1\"", "e=", "f=a=b", "g=true"].map(str::to_owned);
        let all = arguments(Some("{\"z\": null}"), &pairs).unwrap();
        assert_eq!(Value::Object(all), json!({"a": 1, "b": "x y", "c": [1, 2], "d": "1", "e": "", "f": "a=b", "g": true, "z": null}));
        for (object, pair) in [(Some("{"), "a=1"), (Some("[1]"), "a=1"), (None, "a"), (None, "=1"), (Some("{\"a\":1}"), "a=1")] {
            assert_eq!(arguments(object, &[pair.to_owned()]).unwrap_err().status, 2, "{object:?} {pair}");
        }
    }
}
