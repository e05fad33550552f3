//! The command line, which is the same whatever signs.

use std::{path::PathBuf, process::ExitCode};

use clap::{Args, Subcommand};
use tokio::signal::unix::{SignalKind, signal};

use crate::{Attested, Attester, run};
use bento_node::{
    policy::chain,
    program::{log, raise_descriptors},
};
use data_encoding::HEXLOWER;

/// What can be asked of it.
#[derive(Debug, Args)]
pub struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The configuration: as a node's bentod.toml, without a network
    #[arg(long, global = true, default_value = "/etc/bento/conclave.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Run until SIGTERM or SIGINT
    Run {
        /// The directory with the sockets of this and of the host, as in the host's bentod.toml
        #[arg(long, default_value = "/run/bento-conclave", value_name = "DIR")]
        directory: PathBuf,
        /// The host is another machine, which is reached over vsock; the directory is this program's alone
        #[arg(long)]
        vsock: bool,
    },
    /// Print what clients see of configuration and policy: SHA-256 in hexadecimal
    Configuration,
}

/// What happened, and what to try.
type Said = (String, &'static str);

/// Does what was asked. `attester` is made only where something is to be attested.
pub async fn program(arguments: Arguments, attester: impl FnOnce() -> Result<Attester, Said>) -> ExitCode {
    log("BENTO_CONCLAVE_LOG");
    match done(arguments, attester).await {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, hint)) => {
            eprintln!("Error: {error}\nHint: {hint}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it prints is what it is for")]
async fn done(arguments: Arguments, attester: impl FnOnce() -> Result<Attester, Said>) -> Result<(), Said> {
    const HINT: &str = "packaging/conclave/conclave.toml describes every key";
    let Arguments { command, config } = arguments;
    let attested = Attested::read(&config).map_err(|trouble| (chain(&trouble), HINT))?;
    let Command::Run { directory, vsock } = command else {
        println!("{}", HEXLOWER.encode(&attested.digest));
        return Ok(());
    };
    // Before a start that may take long: without a handler a signal would end it at once.
    let handler = |kind| signal(kind).map_err(|error| (format!("listening for signals: {error}"), HINT));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    raise_descriptors();
    let attester = attester()?;
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    run(attested, (directory, vsock), attester, stop)
        .await
        .map_err(|trouble| (chain(&trouble), "is the directory there, and may this user write to it?"))
}
