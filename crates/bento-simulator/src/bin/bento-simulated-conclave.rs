//! The program `bento-simulated-conclave`: a conclave that is none, for tests and for trying out. It protects from nobody and is in no release.
#![forbid(unsafe_code)]

use std::{
    fs,
    path::{Path, PathBuf},
    process::ExitCode,
    time::{SystemTime, UNIX_EPOCH},
};

use bento_attest::{Format, evidence::sha256};
use bento_conclave::{Arguments, Attester, Stapled, program};
use bento_simulator::{Pretence, Simulator};
use clap::Parser;

/// Pretend to run a node's functions inside attested hardware: protects from nobody
#[derive(Parser)]
#[command(version, after_help = "Example:\n  bento-simulated-conclave run --config conclave.toml --directory run --give hand-over")]
struct Program {
    #[command(flatten)]
    arguments: Arguments,
    /// Where its root and list of measurements are put, for `bento --simulator-protects-nobody`
    #[arg(long, global = true, value_name = "DIR")]
    give: Option<PathBuf>,
    /// Pretend to be in debug mode
    #[arg(long, global = true)]
    debug_mode: bool,
    /// Pretend that Intel says this of the machine
    #[arg(long, global = true, value_name = "STATE", value_parser = ["UpToDate", "SWHardeningNeeded", "OutOfDate", "Revoked"], default_value = "UpToDate")]
    state: String,
    /// Pretend that the collateral is so many days old
    #[arg(long, global = true, value_name = "DAYS", default_value_t = 0)]
    collateral_days: u64,
    /// Pretend that this file was measured [default: this program]
    #[arg(long, global = true, value_name = "FILE")]
    measured: Option<PathBuf>,
}

#[tokio::main]
async fn main() -> ExitCode {
    let Program { arguments, give, debug_mode, state, collateral_days, measured } = Program::parse();
    let attester = || {
        let simulator = simulator(debug_mode, &state, collateral_days, measured.as_deref()).map_err(|text| (text, "look at the files"))?;
        if let Some(directory) = &give {
            hand_over(&simulator, directory)
                .map_err(|error| (format!("writing to {}: {error}", directory.display()), "look at the directory"))?;
        }
        eprintln!("Warning: this is a simulator. It protects from nobody.");
        let collateral = Box::new(simulator.collateral());
        Ok(Attester::new(Box::new(simulator), Stapled::Here(collateral)))
    };
    program(arguments, attester).await
}

fn simulator(debug: bool, state: &str, days: u64, measured: Option<&Path>) -> Result<Simulator, String> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let path = measured.unwrap_or(Path::new("/proc/self/exe"));
    let code = fs::read(path).map_err(|error| format!("reading {}: {error}", path.display()))?;
    let state = ["UpToDate", "SWHardeningNeeded", "OutOfDate", "Revoked"].into_iter().find(|known| *known == state).unwrap_or("Revoked");
    let issued = now.saturating_sub(days * 86_400);
    let pretence = Pretence { code: sha256(&code), debug, state, ..Pretence::good(issued) };
    Simulator::new(Format::Tdx, pretence).map_err(|trouble| trouble.to_string())
}

/// The root last: who waits for it finds all.
fn hand_over(simulator: &Simulator, directory: &Path) -> std::io::Result<()> {
    fs::create_dir_all(directory)?;
    fs::write(directory.join("measurements"), simulator.measurements())?;
    fs::write(directory.join("root.new"), simulator.root())?;
    fs::rename(directory.join("root.new"), directory.join("root.der"))
}
