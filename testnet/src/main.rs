//! The program `testnet`: brings the private network up until it is told to end.
#![forbid(unsafe_code)]

mod demo;
mod faults;

use std::io::Write;
use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant, SystemTime};

use clap::{Parser, Subcommand};
use serde_json::json;
use testnet::observer::{Observer, Seen};
use testnet::{Network, Trouble, default_directory, prepare};
use tokio::io::AsyncReadExt;
use tokio::signal::unix::{SignalKind, signal};

/// How often what was seen is written down.
const WRITTEN_DOWN: Duration = Duration::from_millis(200);

/// Run a private Tor network on loopback
#[derive(Debug, Parser)]
#[command(version, after_help = "Examples:\n  testnet prepare\n  testnet up --name site.example=127.61.0.1 --certificate site.example")]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

#[derive(Debug, Subcommand)]
enum Task {
    /// Bring the network up and keep it until SIGINT or SIGTERM
    Up {
        /// Where keys and state are kept [default: ~/.cache/bento/testnet]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// End as well when standard input closes
        #[arg(long)]
        until_stdin_closes: bool,
        /// Give a name its address, as the exits resolve it
        #[arg(long, value_name = "NAME=ADDRESS", value_parser = name)]
        name: Vec<(String, Ipv4Addr)>,
        /// Make a server certificate for names and addresses
        #[arg(long, value_name = "NAME,...")]
        certificate: Vec<String>,
    },
    /// Fetch a page over the network with two Bento nodes in it, showing each step
    Demo {
        /// Where keys and state of the network are kept [default: ~/.cache/bento/testnet]
        #[arg(long)]
        dir: Option<PathBuf>,
        /// Where the page goes
        #[arg(long, default_value = "bento-page.html")]
        output: PathBuf,
    },
    /// Watch a client's line until SIGINT or SIGTERM: be the proxy of its Tor (`HTTPSProxy`), and write down when how many bytes pass
    Observe {
        /// Where it is written: lines of seconds since 1970, `down` or `up`, and bytes
        #[arg(long)]
        output: PathBuf,
    },
    /// Kill parts of a node at random moments while it is used, and look that nothing is lost and nothing is left
    Faults {
        /// How many times
        #[arg(long, default_value_t = 200)]
        rounds: usize,
        /// Begin no further one after so many seconds
        #[arg(long)]
        seconds: Option<u64>,
        /// Repeat the choices of an earlier run [default: another one each time]
        #[arg(long)]
        seed: Option<u64>,
        /// Hit these alone
        #[arg(long, value_enum, value_delimiter = ',')]
        only: Vec<faults::Victim>,
        /// Without Tor: the node listens on loopback only
        #[arg(long)]
        without_tor: bool,
        /// Use a network that is up already: a file with lines for a further `tor`
        #[arg(long, requires = "socks", conflicts_with = "without_tor")]
        torrc: Option<PathBuf>,
        /// With `--torrc`: the SOCKS port of a client of that network
        #[arg(long, requires = "torrc")]
        socks: Option<SocketAddr>,
    },
    /// Make the keys of the network, so that the first start is faster
    Prepare {
        /// Where keys and state are kept [default: ~/.cache/bento/testnet]
        #[arg(long)]
        dir: Option<PathBuf>,
    },
}

fn name(text: &str) -> Result<(String, Ipv4Addr), String> {
    let (name, address) = text.split_once('=').ok_or("it is not of the form NAME=ADDRESS")?;
    let address = address.parse().map_err(|_| format!("{address} is not an IPv4 address"))?;
    Ok((name.to_owned(), address))
}

fn main() -> ExitCode {
    let runtime = match tokio::runtime::Runtime::new() {
        Ok(runtime) => runtime,
        Err(error) => {
            tell(&format!("Error: starting: {error}"));
            return ExitCode::FAILURE;
        }
    };
    let done = runtime.block_on(run(Arguments::parse().task));
    // A read of standard input may be under way, and would hold up an ordinary end of the runtime.
    runtime.shutdown_background();
    let Err(trouble) = done else { return ExitCode::SUCCESS };
    let mut text = format!("Error: {trouble}");
    let mut cause = std::error::Error::source(&trouble);
    while let Some(error) = cause {
        text += &format!(": {error}");
        cause = error.source();
    }
    tell(&format!("{text}\nHint: {}", trouble.hint()));
    ExitCode::FAILURE
}

async fn run(task: Task) -> Result<(), Trouble> {
    match task {
        Task::Up { dir, until_stdin_closes, name, certificate } => {
            up(dir.unwrap_or_else(default_directory), until_stdin_closes, name, certificate).await
        }
        Task::Demo { dir, output } => demo::demo(&dir.unwrap_or_else(default_directory), &output, told_to_end(false)?).await,
        Task::Observe { output } => observe(&output).await,
        Task::Faults { rounds, seconds, seed, only, without_tor, torrc, socks } => {
            let now = || SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default().as_micros() as u64;
            let wanted = faults::Wanted { rounds, seconds, seed: seed.unwrap_or_else(now), only };
            faults(wanted, without_tor, torrc.zip(socks)).await
        }
        Task::Prepare { dir } => prepare(&dir.unwrap_or_else(default_directory), tell).await,
    }
}

/// Progress and errors go to standard error: standard output carries one line for programs.
fn tell(text: &str) {
    let _ = writeln!(std::io::stderr(), "{text}");
}

async fn faults(wanted: faults::Wanted, without_tor: bool, up: Option<(PathBuf, SocketAddr)>) -> Result<(), Trouble> {
    let told = told_to_end(false)?;
    let mut own = None;
    let killing = async {
        let network = match up {
            Some((torrc, socks)) => Some(faults::TorNetwork { torrc: faults::lines(&torrc)?, socks }),
            None if without_tor => None,
            None => {
                let network = own.insert(Network::up(&default_directory(), tell).await?);
                Some(faults::TorNetwork { torrc: network.torrc_lines(), socks: network.client_socks() })
            }
        };
        faults::faults(wanted, network, tell).await
    };
    // Dropped, it kills the node; and with it ends everything that the node has started.
    let found = tokio::select! {
        found = killing => found,
        () = told => Ok(vec!["interrupted".into()]),
    };
    if let Some(network) = own {
        network.down().await;
    }
    let found = found?;
    if found.is_empty() {
        let _ = writeln!(std::io::stdout(), "nothing was lost, and nothing was left");
        return Ok(());
    }
    Err(Trouble::Program { program: "the node".into(), how: "did not stand it".into(), wrote: found.join("\n") })
}

async fn up(
    directory: PathBuf,
    until_stdin_closes: bool,
    names: Vec<(String, Ipv4Addr)>,
    certificates: Vec<String>,
) -> Result<(), Trouble> {
    let told = told_to_end(until_stdin_closes)?;
    tokio::pin!(told);
    // Dropping a network that is only half up kills what runs of it.
    let network = tokio::select! {
        network = Network::up(&directory, tell) => network?,
        () = &mut told => return Ok(()),
    };
    for (name, address) in names {
        network.names().set(&name, &[address]);
    }
    let ca = network.ca()?;
    let mut servers = Vec::new();
    for list in certificates {
        let (addresses, names): (Vec<&str>, Vec<&str>) = list.split(',').partition(|word| word.parse::<IpAddr>().is_ok());
        let addresses: Vec<IpAddr> = addresses.iter().filter_map(|word| word.parse().ok()).collect();
        let server = ca.server(&names, &addresses)?;
        servers.push(json!({ "names": list, "certificate": server.certificate, "key": server.key }));
    }
    let ready = json!({
        "socks": network.client_socks().to_string(),
        "torrc": network.torrc_file()?,
        "ca": ca.file(),
        "dns": network.names().address().to_string(),
        "servers": servers,
        "relays": network.relays(),
    });
    // Whoever reads may have gone; then the signal or the closed input tells us.
    let _ = writeln!(std::io::stdout(), "{ready}");
    tell("the network is up");
    told.await;
    network.down().await;
    Ok(())
}

async fn observe(output: &Path) -> Result<(), Trouble> {
    let failed = |source| Trouble::System { doing: "watching".into(), source };
    let told = told_to_end(true)?;
    tokio::pin!(told);
    let (now, start) = (SystemTime::now(), Instant::now());
    let observer = Observer::start().await.map_err(failed)?;
    let mut file = std::fs::File::create(output).map_err(failed)?;
    let _ = writeln!(std::io::stdout(), "{}", observer.torrc_line());
    let mut is_over = false;
    while !is_over {
        is_over = tokio::select! {
            () = &mut told => true,
            () = tokio::time::sleep(WRITTEN_DOWN) => false,
        };
        let mut lines = String::new();
        for Seen { at, down, bytes } in observer.take() {
            let since = (now + at.duration_since(start)).duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
            lines.push_str(&format!("{:.6} {} {bytes}\n", since.as_secs_f64(), if down { "down" } else { "up" }));
        }
        file.write_all(lines.as_bytes()).map_err(failed)?;
    }
    Ok(())
}

/// Completes when this program is to end.
fn told_to_end(until_stdin_closes: bool) -> Result<impl Future<Output = ()>, Trouble> {
    let listen = |kind| signal(kind).map_err(|source| Trouble::System { doing: "listening to signals".into(), source });
    let (mut interrupt, mut terminate) = (listen(SignalKind::interrupt())?, listen(SignalKind::terminate())?);
    let closed = async move {
        if !until_stdin_closes {
            return std::future::pending().await;
        }
        let (mut stdin, mut bytes) = (tokio::io::stdin(), [0; 256]);
        while let Ok(1..) = stdin.read(&mut bytes).await {}
    };
    Ok(async move {
        tokio::select! {
            _ = interrupt.recv() => {}
            _ = terminate.recv() => {}
            () = closed => {}
        }
    })
}
