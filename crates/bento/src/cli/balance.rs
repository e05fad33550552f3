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
    let functions = context.store()?.read()?;
    let is_standby = |name: &str| functions.keys().any(|other| standby_of(other) == *name);
    let mut all = functions.clone().into_iter().filter(|(name, record)| record.function == FUNCTION_NAME && !is_standby(name));
    match (all.next(), all.next()) {
        (Some(one), None) => Ok(one),
        (None, _) => Err(Failure::input("there is no load balancer").with_hint("`bento balance up --site DIR` makes one")),
        _ => Err(Failure::input("there are several load balancers").with_hint("name one: `bento status` lists them")),
    }
}

/// What the standby of a load balancer is called.
fn standby_of(name: &str) -> String {
    format!("{name}-standby")
}

/// The standby of a load balancer, if it has one.
fn standby(context: &Context, name: &str) -> Result<Option<(String, Record)>, Failure> {
    let name = standby_of(name);
    Ok(context.store()?.read()?.remove(&name).map(|record| (name, record)))
}

async fn status(context: &Context, args: args::BalanceStatus) -> Result<(), Failure> {
    let (name, record) = find(context, args.name.as_deref())?;
    let (name, record, told) = leading(context, name, record).await?;
    match args.watch {
        true => watch(context, &name, &record).await,
        false => context.say(&show::table_of(&name, &told), &told),
    }
}

/// Of a load balancer and its standby the one that publishes, and what it tells.
async fn leading(context: &Context, name: String, record: Record) -> Result<(String, Record, Value), Failure> {
    let told = ask(context, &name, &record, Call::new("status")).await;
    let leads = told.as_ref().is_ok_and(|told| told["leads"] == true);
    let other = if leads { None } else { standby(context, &name)? };
    if let Some((other, standby)) = other {
        let called = ask(context, &other, &standby, Call::new("status")).await;
        // Where neither publishes, the first says why.
        if let Some(told) = called.ok().filter(|called| called["leads"] == true || told.is_err()) {
            return Ok((other, standby, told));
        }
    }
    told.map(|told| (name, record, told))
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
    let standby = standby(context, &name)?;
    context.show.now("ending the replicas");
    let told = match &standby {
        None => match end(context, &name, &record, true).await {
            Err(failure) if args.force && failure.status == NODE => Value::Null,
            told => told?,
        },
        // The standby stops first, so that it does not take over; where one of both is not reached, the other ends the replicas.
        Some((other, standby)) => match end(context, other, standby, false).await {
            Ok(_) => match end(context, &name, &record, true).await {
                Ok(told) => told,
                Err(failure) => {
                    context.show.step(&format!("{name} is not reached: {}", failure.text));
                    end(context, other, standby, true).await?
                }
            },
            Err(failure) => {
                context.show.step(&format!("{other} is not reached: {}", failure.text));
                end(context, &name, &record, true).await?
            }
        },
    };
    let left: Vec<&str> = told["left"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    if !left.is_empty() && !args.force {
        let text = format!("these replicas could not be ended: {}", bento::line(&left.join(", ")));
        return Err(Failure::new(NODE, text)
            .with_hint(format!("try again; `bento balance down {name} --force` leaves them to the end of their lifetime")));
    }
    if let Some((other, _)) = standby {
        shutdown(context, other, args.force).await?;
    }
    shutdown(context, name, args.force).await
}

/// Ends the function itself; with `force` one that is not reached is left to the end of its lifetime.
async fn shutdown(context: &Context, name: String, force: bool) -> Result<(), Failure> {
    match function::shutdown(context, args::Shutdown { name: name.clone(), forget: false }).await {
        Err(failure) if force && failure.status == NODE => function::shutdown(context, args::Shutdown { name, forget: true }).await,
        done => done,
    }
}

/// Stops a load balancer for good, and has it end the replicas or not.
async fn end(context: &Context, name: &str, record: &Record, replicas: bool) -> Result<Value, Failure> {
    let mut call = Call::new("end");
    call.arguments.insert("replicas".into(), replicas.into());
    ask(context, name, record, call).await
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
