//! `bento balance`.

mod show;
mod site;
mod up;

use bento::{Call, Part};
use bento_proto::Outcome;
use serde_json::Value;

use super::{
    args,
    context::Context,
    failure::{FUNCTION, Failure, NODE},
    function,
    store::Record,
};

/// The name in the manifest of what these commands are about.
const FUNCTION_NAME: &str = "load-balancer";

/// Longest answer of the function that is read at once.
const ANSWER_BYTES_MAX: u64 = 1 << 20;

/// How long the table is asked for in one request.
const WATCH_SECONDS: u64 = 3600;

pub(crate) async fn run(context: &Context, args: args::Balance) -> Result<(), Failure> {
    match args {
        args::Balance::Up(args) => up::run(context, *args).await,
        args::Balance::Status(args) => status(context, args).await,
        args::Balance::Down(args) => down(context, args).await,
    }
}

/// The load balancer of this name, or the only one.
fn find(context: &Context, name: Option<&str>) -> Result<(String, Record), Failure> {
    if let Some(name) = name {
        let record = context.store()?.find(name)?;
        return match record.function == FUNCTION_NAME {
            true => Ok((name.to_owned(), record)),
            false => Err(Failure::input(format!("{name} is no load balancer")).with_hint("`bento status` lists what is installed")),
        };
    }
    let mut all = context.store()?.read()?.into_iter().filter(|(_, record)| record.function == FUNCTION_NAME);
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::input("there is no load balancer").with_hint("`bento balance up --site DIR` makes one")),
        _ => Err(Failure::input("there are several load balancers").with_hint("name one: `bento status` lists them")),
    }
}

async fn status(context: &Context, args: args::BalanceStatus) -> Result<(), Failure> {
    let (name, record) = find(context, args.name.as_deref())?;
    match args.watch {
        true => watch(context, &name, &record).await,
        false => {
            let told = ask(context, &name, &record, Call::new("status")).await?;
            context.say(&show::table_of(&name, &told), &told)
        }
    }
}

/// Shows the table, again each second, until it is interrupted or runs no more.
async fn watch(context: &Context, name: &str, record: &Record) -> Result<(), Failure> {
    let (node, token) = (record.node()?, record.tokens()?.invocation);
    let client = context.client(&node).await?;
    let mut screen = show::Screen::new(context.options.json);
    loop {
        let mut call = Call::new("status");
        call.arguments.insert("seconds".into(), WATCH_SECONDS.into());
        let mut output = client.invoke(&node, &token, call).await.map_err(|error| Failure::about(error, name, None))?;
        let mut rest = Vec::new();
        loop {
            match output.next().await? {
                Part::Bytes(data) => rest.extend_from_slice(&data),
                Part::End(outcome) => {
                    ended(&outcome)?;
                    break;
                }
            }
            while let Some(end) = rest.iter().position(|byte| *byte == b'\n') {
                let line: Vec<u8> = rest.drain(..=end).collect();
                let told = read(name, &line)?;
                context.show.clear();
                screen.draw(name, &told)?;
                if told["running"] == false {
                    return Ok(());
                }
            }
            if rest.len() as u64 > ANSWER_BYTES_MAX {
                return Err(Failure::new(FUNCTION, format!("{name} tells too much")).with_hint("it may be another function of this name"));
            }
        }
    }
}

async fn down(context: &Context, args: args::BalanceDown) -> Result<(), Failure> {
    let (name, record) = find(context, args.name.as_deref())?;
    context.show.now("ending the replicas");
    let told = ask(context, &name, &record, Call::new("end")).await?;
    let left: Vec<&str> = told["left"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !left.is_empty() && !args.force {
        let text = format!("these replicas could not be ended: {}", bento::line(&left.join(", ")));
        return Err(Failure::new(NODE, text)
            .with_hint(format!("try again; `bento balance down {name} --force` leaves them to the end of their lifetime")));
    }
    function::shutdown(context, args::Shutdown { name, forget: false }).await
}

/// Invokes a method that answers with a line of JSON.
async fn ask(context: &Context, name: &str, record: &Record, call: Call) -> Result<Value, Failure> {
    let node = record.node()?;
    let client = context.client(&node).await?;
    let output = client.invoke(&node, &record.tokens()?.invocation, call).await.map_err(|error| Failure::about(error, name, None))?;
    let (bytes, outcome) = output.collect(ANSWER_BYTES_MAX).await?;
    ended(&outcome)?;
    read(name, &bytes)
}

fn ended(outcome: &Outcome) -> Result<(), Failure> {
    Failure::outcome(outcome).map_or(Ok(()), Err)
}

fn read(name: &str, line: &[u8]) -> Result<Value, Failure> {
    let wrong = || Failure::new(FUNCTION, format!("{name} answered with something that is no status"));
    serde_json::from_slice(line).ok().filter(Value::is_object).ok_or_else(wrong)
}
