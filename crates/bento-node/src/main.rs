//! The program `bentod`.
#![forbid(unsafe_code)]

use std::{
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    process::ExitCode,
};

use clap::{Parser, Subcommand};
use http_body_util::{BodyExt, Empty};
use hyper_util::rt::TokioIo;
use tokio::signal::unix::{SignalKind, signal};

use bento_node::{
    cgroup::Groups,
    check,
    config::{Config, ConfigError},
    daemon, image,
    node::NodeStatus,
    policy::{self, chain},
    program::{log, raise_descriptors},
};
use bento_proto::Policy;

/// Run small programs for strangers who come over Tor
#[derive(Parser)]
#[command(
    version,
    after_help = "Examples:\n  bentod check --config /etc/bento/bentod.toml\n  bentod check --explain functions/browser\n  bentod run --config /etc/bento/bentod.toml"
)]
struct Arguments {
    #[command(subcommand)]
    command: Command,
    /// The configuration file
    #[arg(long, global = true, default_value = "/etc/bento/bentod.toml", value_name = "FILE")]
    config: PathBuf,
}

#[derive(Subcommand)]
enum Command {
    /// Run the node until SIGTERM or SIGINT
    Run,
    /// Check configuration and policy, and say which walls this machine can put up
    Check {
        /// Compare the policy with a manifest instead: a manifest.toml, or a function's directory
        #[arg(long, value_name = "MANIFEST")]
        explain: Option<PathBuf>,
        /// Print the comparison as one JSON object
        #[arg(long, requires = "explain")]
        json: bool,
    },
    /// Show numbers of the running node
    Status,
    /// Erase all functions and what they store; the node must not be running
    Forget,
}

/// What happened, and what to try.
type Said = (String, &'static str);

#[tokio::main]
async fn main() -> ExitCode {
    let arguments = Arguments::parse();
    log("BENTOD_LOG");
    let done = match arguments.command {
        Command::Run => run(arguments.config).await,
        Command::Check { explain: Some(manifest), json } => explain(arguments.config, manifest, json).await,
        Command::Check { .. } => check(arguments.config).await,
        Command::Status => status(arguments.config).await,
        Command::Forget => forget(arguments.config).await,
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err((error, hint)) => {
            eprintln!("Error: {error}\nHint: {hint}");
            ExitCode::FAILURE
        }
    }
}

#[expect(clippy::print_stdout, reason = "what it prints is what it is for")]
async fn forget(path: PathBuf) -> Result<(), Said> {
    let config = Config::read(&path).map_err(|error| (chain(&error), HINT_FILES))?;
    let forgotten = daemon::forget(&config).await.map_err(|error| match error {
        daemon::RunError::Running(_) => (chain(&error), "stop it first: `systemctl stop bentod`"),
        error => (chain(&error), "look at the state directory"),
    })?;
    println!("erased {forgotten} functions and all that they stored");
    Ok(())
}

const HINT_FILES: &str = "packaging/bentod.toml and packaging/policy.toml describe every key";
const HINT_CHECK: &str = "`bentod check` says more";

async fn load(path: &Path) -> Result<(Config, Policy), Said> {
    let config = Config::read(path).map_err(|error| (chain(&error), HINT_FILES))?;
    match policy::load(&config).await {
        Ok(policy) => Ok((config, policy)),
        Err(error @ ConfigError::Relay { .. }) => {
            Err((chain(&error), "is the relay running, and may this user ask it? docs/operating.md says how"))
        }
        Err(error) => Err((chain(&error), HINT_FILES)),
    }
}

async fn run(path: PathBuf) -> Result<(), Said> {
    // First of all: without a handler, a signal during a long start would end the node at once.
    let handler = |kind| signal(kind).map_err(|error| (format!("listening for signals: {error}"), HINT_CHECK));
    let (mut terminate, mut interrupt) = (handler(SignalKind::terminate())?, handler(SignalKind::interrupt())?);
    // The policy is read again then.
    let hangup = handler(SignalKind::hangup())?;
    let (config, policy) = tokio::select! {
        loaded = load(&path) => loaded?,
        _ = terminate.recv() => return Ok(()),
        _ = interrupt.recv() => return Ok(()),
    };
    raise_descriptors();
    let stop = async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
    };
    daemon::run(path, config, policy, hangup, stop).await.map_err(|error| (chain(&error), HINT_CHECK))
}

#[expect(clippy::print_stdout, reason = "this is what the operator asked to see")]
async fn explain(path: PathBuf, manifest: PathBuf, json: bool) -> Result<(), Said> {
    let manifest = bento_node::explain::manifest(&manifest)
        .map_err(|error| (chain(&error), "give a manifest.toml, or the directory of a function"))?;
    let (_, policy) = load(&path).await?;
    let lines = bento_proto::explain(&policy, &manifest);
    let refusal = policy.admit(&manifest).err();
    match json {
        true => println!("{}", serde_json::json!({"function": manifest.name, "fits": refusal.is_none(), "lines": lines})),
        false => print!("{}", bento_proto::explain::text(&lines)),
    }
    match refusal {
        None => Ok(()),
        Some(refusal) => Err((format!("this node would refuse {}: {refusal}", manifest.name), "what would fit is said above")),
    }
}

#[expect(clippy::print_stdout, reason = "this is what the operator asked to see")]
async fn check(path: PathBuf) -> Result<(), Said> {
    let (config, policy) = load(&path).await?;
    println!("configuration  {}", path.display());
    println!("policy         {}", config.policy.display());
    for line in policy.to_toml().lines() {
        println!("               {line}");
    }
    let scratch = scratch().map_err(|error| (format!("making a directory in {}: {error}", std::env::temp_dir().display()), HINT_FILES))?;
    let images = image::prepare(&config.images, &scratch).await;
    let _ = std::fs::remove_dir_all(&scratch);
    for (name, image) in images.map_err(|error| (chain(&error), HINT_FILES))? {
        println!(
            "image          {name}: {} with {}",
            image.python.display(),
            if image.packages.is_empty() { "the standard library".into() } else { image.packages.join(", ") }
        );
    }
    match (&config.tor.control, config.tor.off) {
        (_, true) => println!("tor            off"),
        (Some(control), _) => println!("tor            the running one at {control}"),
        (None, _) => match config.tor.program.clone().or_else(bento_tor::find_tor) {
            Some(program) => println!("tor            {}", program.display()),
            None => return Err((daemon::RunError::NoTor.to_string(), "install tor, then check again")),
        },
    }
    let jail = check::jail_program(&config);
    let walls = check::walls(&jail)
        .await
        .map_err(|error| (format!("asking {} for its walls: {error}", jail.display()), "bento-jail belongs beside bentod"))?;
    for wall in &walls {
        println!("wall           {} {}: {}", if wall.holds { "stands" } else { "FAILS " }, wall.wall, wall.detail);
    }
    if walls.is_empty() || walls.iter().any(|wall| !wall.holds) {
        return Err((
            "not every wall stands, so no function would be started here".into(),
            "the lines marked FAILS say why; docs/operating.md says what a kernel needs",
        ));
    }
    println!(
        "bounds         {}; CPU time by RLIMIT_CPU, descriptors by RLIMIT_NOFILE, scratch by tmpfs, traffic and rate by the node",
        Groups::would_hold()
    );
    Ok(())
}

/// A new directory that is this user's alone: in one that another user made, files would be written wherever that user's links lead.
fn scratch() -> std::io::Result<PathBuf> {
    let mut random = [0; 8];
    getrandom::fill(&mut random).map_err(std::io::Error::other)?;
    let path = std::env::temp_dir().join(format!("bentod-check-{:016x}", u64::from_ne_bytes(random)));
    std::fs::DirBuilder::new().mode(0o700).create(&path)?;
    Ok(path)
}

#[expect(clippy::print_stdout, reason = "this is what the operator asked to see")]
async fn status(path: PathBuf) -> Result<(), Said> {
    let config = Config::read(&path).map_err(|error| (chain(&error), HINT_FILES))?;
    let socket = config.state.join("operator.sock");
    let asking = async {
        let stream = tokio::net::UnixStream::connect(&socket).await?;
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(stream)).await.map_err(std::io::Error::other)?;
        tokio::spawn(connection);
        let request =
            hyper::Request::get("/status").header("host", "operator").body(Empty::<bytes::Bytes>::new()).map_err(std::io::Error::other)?;
        let answer = sender.send_request(request).await.map_err(std::io::Error::other)?;
        let body = answer.into_body().collect().await.map_err(std::io::Error::other)?.to_bytes();
        serde_json::from_slice::<NodeStatus>(&body).map_err(std::io::Error::other)
    };
    let asked = tokio::time::timeout(std::time::Duration::from_secs(10), asking).await;
    let status = asked.unwrap_or_else(|_| Err(std::io::ErrorKind::TimedOut.into())).map_err(|error| {
        (format!("asking the node at {}: {error}", socket.display()), "is it running, and are you the user that it runs as?")
    })?;
    println!("version      {}", status.version);
    println!("address      {}", status.onion.as_deref().unwrap_or("not published at the moment"));
    if status.published_again > 0 {
        println!("             published again {} times, since nobody reached it; the log says when and why", status.published_again);
    }
    println!("up           {}", status.up);
    println!("functions    {} of at most {}, {} awake", status.functions, status.functions_max, status.awake);
    if status.seem_over > 0 {
        println!("             and {} that seem to be past their end; they wait, since the clock may be wrong", status.seem_over);
    }
    println!("installs     {} of at most {} in 24 hours", status.functions_today, status.functions_per_day);
    println!("jails ready  {}", status.ready);
    println!("sessions     {}", status.sessions);
    if let Some(conclave) = &status.conclave {
        let kind = conclave.kind.as_deref().unwrap_or("it does not answer");
        println!("conclave     {kind}; {} sessions, {} streams", conclave.sessions, conclave.streams);
        println!("             {} to it and {} from it since the start", conclave.received, conclave.sent);
        println!("             {} of at most {} in 24 hours, at {} at most", conclave.today, conclave.traffic, conclave.rate);
        if conclave.collateral_missing {
            println!("             the collateral is not there: `bento-collateral` fetches it");
        }
        if let Some(age) = conclave.collateral_age {
            println!("             the collateral was written {} d ago; clients take it for 7", age.as_seconds_up() / 86_400);
        }
        if conclave.waiting > 0 {
            println!("             {} of these wait: the rate is used up at this moment", conclave.waiting);
        }
        if conclave.ended > 0 {
            println!("             {} streams were ended or refused, since the traffic of 24 hours was used up", conclave.ended);
        }
    }
    println!("connections  {}", status.connections);
    Ok(())
}
