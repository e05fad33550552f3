//! The program: reads the command line, does one command, says how it ended.
//!
//! It writes no log. Results go to stdout, what happens meanwhile and errors to stderr. Tokens are shown only when that is asked for.

mod args;
mod ask;
mod balance;
mod browse;
mod conclave;
mod context;
mod cover;
mod detached;
mod dropbox;
mod errand;
mod failure;
mod fits;
mod function;
mod invoke;
mod nodes;
mod place;
mod policy;
mod shard;
mod show;
mod sink;
mod store;
mod table;
mod tor;

use std::{io::Write as _, process::ExitCode};

use clap::{CommandFactory as _, Parser as _, error::ErrorKind};
use tokio::{
    runtime::Builder,
    signal::unix::{SignalKind, signal},
};

use args::{Args, Command};
use context::Context;
use failure::Failure;

pub(crate) fn main() -> ExitCode {
    let args = match Args::try_parse() {
        Ok(args) => args,
        Err(error) => return not_parsed(&error),
    };
    let runtime = match Builder::new_multi_thread().worker_threads(2).enable_all().build() {
        Ok(runtime) => runtime,
        Err(error) => return end(Err(Failure::input(format!("starting: {error}")))),
    };
    let result = runtime.block_on(async {
        let context = Context::new(args.options);
        let result = tokio::select! {
            biased;
            result = run(&context, args.command) => result,
            status = interrupted(&context) => Err(Failure::silent(status)),
        };
        context.close().await;
        result
    });
    // A read of the terminal cannot be cancelled, and waiting for it would wait for the person.
    runtime.shutdown_background();
    end(result)
}

async fn run(context: &Context, command: Command) -> Result<(), Failure> {
    match command {
        Command::Nodes(args) => nodes::run(context, args).await,
        Command::Verify(args) => conclave::verify(context, args).await,
        Command::Policy(args) => policy::run(context, args).await,
        Command::Install(args) => function::install(context, args).await,
        Command::Invoke(args) => invoke::invoke(context, args).await,
        Command::Output(args) => detached::fetch(context, args).await,
        Command::Renew(args) => detached::renew(context, args).await,
        Command::Run(args) => invoke::run(context, args).await,
        Command::Status(args) => function::status(context, args).await,
        Command::Shutdown(args) => function::shutdown(context, args).await,
        Command::Browse(args) => browse::run(context, args).await,
        Command::Collect(args) => errand::collect(context, args).await,
        Command::Cover(args) => cover::run(context, args).await,
        Command::Dropbox(args) => dropbox::run(context, args).await,
        Command::Shard(args) => shard::run(context, args).await,
        Command::Balance(args) => balance::run(context, args).await,
    }
}

/// Completes with the exit status that goes with the signal: 128 and its number, as shells have it. Where a command has something to say first,
/// the first signal makes it say that, and the second ends it.
async fn interrupted(context: &Context) -> u8 {
    let (Ok(mut interrupt), Ok(mut terminate)) = (signal(SignalKind::interrupt()), signal(SignalKind::terminate())) else {
        return std::future::pending().await;
    };
    loop {
        let status = tokio::select! {
            _ = interrupt.recv() => 130,
            _ = terminate.recv() => 143,
        };
        match context.leave() {
            Some(text) => context.show.say(&text),
            None => return status,
        }
    }
}

fn end(result: Result<(), Failure>) -> ExitCode {
    match result {
        Ok(()) => ExitCode::SUCCESS,
        Err(failure) => {
            // When stderr is gone there is nobody left to tell.
            let _ = write!(std::io::stderr().lock(), "{failure}");
            ExitCode::from(failure.status)
        }
    }
}

/// Help and version as clap writes them; its errors in the form of all others.
fn not_parsed(error: &clap::Error) -> ExitCode {
    if matches!(error.kind(), ErrorKind::DisplayHelp | ErrorKind::DisplayVersion) {
        let _ = error.print();
        return ExitCode::SUCCESS;
    }
    if error.kind() == ErrorKind::DisplayHelpOnMissingArgumentOrSubcommand {
        let _ = error.print();
        return ExitCode::from(failure::BAD_INPUT);
    }
    let text = error.to_string();
    let first = text.split("\n\n").next().unwrap_or_default().trim_start_matches("error: ");
    let words: Vec<&str> = first.split_whitespace().collect();
    let tip = text.lines().find_map(|line| line.trim().strip_prefix("tip: "));
    let usage = text.lines().find_map(|line| line.trim().strip_prefix("Usage: "));
    let hint = tip.map(str::to_owned).or(usage.map(|usage| format!("the command is `{usage}`; `--help` says more")));
    // The first word that is a command. It may be the value of an option before it, and the hint is then a little off.
    let command = std::env::args().skip(1).find(|word| Args::command().find_subcommand(word).is_some());
    let help = || match command {
        Some(command) => format!("`bento {command} --help` has examples"),
        None => "`bento --help` lists the commands".to_owned(),
    };
    let failure = Failure::input(bento::line(&words.join(" ")));
    end(Err(failure.with_hint(bento::line(&hint.unwrap_or_else(help)))))
}
