//! The program `bento-conclave`: for hardware. Where there is none it does not start.
#![forbid(unsafe_code)]

use std::process::ExitCode;

use bento_attest::source;
use bento_conclave::{Arguments, Attester, Stapled, program};
use clap::Parser;

/// Run a node's functions inside attested hardware
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  bento-conclave run --config /etc/bento/conclave.toml\n  bento-conclave configuration --config conclave.toml"
)]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
}

#[tokio::main]
async fn main() -> ExitCode {
    let attester = || {
        let hint = "it runs in a confidential virtual machine (TDX, SEV-SNP), and nowhere else";
        let source = source::detect().map_err(|error| (format!("there is no hardware that attests: {error}"), hint))?;
        Ok(Attester::new(source, Stapled::ByHost))
    };
    program(Program::parse().arguments, attester).await
}
