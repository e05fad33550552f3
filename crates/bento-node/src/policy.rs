//! The policy file: read at start, and again whenever the operator asks for it with SIGHUP.
//!
//! What it says counts for new installs. A function that is there keeps what it was granted until its end.

use std::{path::Path, time::Duration};

use bento_proto::{
    Egress, ExitPolicy, Policy, PolicyFile,
    relay::{self, RelayError},
};
use bento_tor::{Auth, ControlAddr, ControlError, Controller};
use tokio::time::{Instant, sleep};
use tracing::{error, info, warn};

use crate::{
    config::{Config, ConfigError, control_address, read},
    node::Node,
};

/// How long a relay that has just started is asked again until it knows its own policy.
const RELAY_PATIENCE: Duration = Duration::from_secs(20);

/// Tor's code for what it cannot say yet (control-spec, "Replies").
const NOT_YET: u16 = 551;

/// Why the rules of a relay cannot be had.
#[derive(Debug, thiserror::Error)]
pub enum RelayTrouble {
    /// Its control port does not answer, or says no.
    #[error("{0}; {hint}", hint = .0.hint())]
    Control(#[source] ControlError),
    /// Its exit policy cannot be taken over.
    #[error("its exit policy cannot be taken over: {0}")]
    Rules(#[from] RelayError),
    /// Its rules and the file make no policy.
    #[error("{0}")]
    Policy(#[from] bento_proto::policy::PolicyError),
}

/// Reads the policy file, and asks the relay for its rules where the file wants them.
///
/// # Errors
/// When the file is wrong, offers what this node does not have, or the relay does not tell.
pub async fn load(config: &Config) -> Result<Policy, ConfigError> {
    let file = file(config)?;
    let lacking = match file {
        PolicyFile::Whole(policy) => return Ok(policy),
        PolicyFile::Relay(lacking) => lacking,
    };
    let Some(control) = &config.relay.control else {
        return Err(wrong(config, "connect = \"relay\" asks the relay beside this node, and bentod.toml has no `control` under [relay]"));
    };
    let address = control_address(control).ok_or_else(|| wrong(config, "bentod.toml has a `control` under [relay] that is no address"))?;
    let told = async { Ok(lacking.with(ask(&address, RELAY_PATIENCE).await?)?) };
    told.await.map_err(|source: RelayTrouble| ConfigError::Relay { place: control.clone(), source })
}

/// Reads the policy file alone, and compares it with what this node has.
///
/// # Errors
/// When it is wrong, or offers what this node does not have.
pub fn file(config: &Config) -> Result<PolicyFile, ConfigError> {
    let file = PolicyFile::parse(&read(&config.policy)?).map_err(|error| wrong(config, &error.to_string()))?;
    let offers = &file.without_relay().offers;
    if let Some(image) = offers.image.iter().find(|image| !config.images.contains_key(*image)) {
        let known: Vec<&str> = config.images.keys().map(String::as_str).collect();
        return Err(wrong(config, &format!("it offers the image `{image}`, and bentod.toml has only: {}", known.join(", "))));
    }
    if config.tor.off && offers.egress.contains(&Egress::Tor) {
        return Err(wrong(config, "it offers egress through Tor, and bentod.toml has `off = true` under [tor]"));
    }
    Ok(file)
}

fn wrong(config: &Config, text: &str) -> ConfigError {
    ConfigError::Text { path: config.policy.clone(), text: text.to_owned() }
}

/// Asks a relay for its own exit policy. Nothing but a question is ever sent to it.
async fn ask(control: &ControlAddr, patience: Duration) -> Result<ExitPolicy, RelayTrouble> {
    let end = Instant::now() + patience;
    let controller = Controller::connect(control, &Auth::Automatic).await.map_err(RelayTrouble::Control)?;
    loop {
        match controller.exit_policy().await {
            Ok(rules) => return Ok(relay::parse(&rules.join("\n"))?),
            Err(ControlError::Refused { code: NOT_YET, .. }) if Instant::now() < end => sleep(Duration::from_millis(500)).await,
            Err(error) => return Err(RelayTrouble::Control(error)),
        }
    }
}

/// Reads the policy again for a running node. If that fails, the earlier one stays.
pub async fn reload(path: &Path, node: &Node) {
    match read_again(path, node.config()).await {
        Ok((policy, restart)) => {
            if !restart.is_empty() {
                warn!(
                    changed = restart.join(", "),
                    "bentod.toml has changed in what counts from the next start only; the policy is read all the same"
                );
            }
            let meant = node.apply(policy);
            if meant.changed.is_empty() {
                info!("the policy was read again and is as it was");
            } else {
                info!(
                    changed = meant.changed.join(", "),
                    functions = meant.functions,
                    not_admitted_now = meant.not_admitted,
                    "the new policy counts for new installs; functions that are here keep what they were granted until their end"
                );
            }
        }
        // In one line, though it shows a line of the file in several.
        Err(error) => error!("the policy stays as it was: {}", chain(&error).split_whitespace().collect::<Vec<_>>().join(" ")),
    }
}

/// The policy as it is now, and the keys of `bentod.toml` that need a restart. Where the policy is and which relay it asks are the policy's own.
async fn read_again(path: &Path, running: &Config) -> Result<(Policy, Vec<&'static str>), ConfigError> {
    let read = Config::read(path)?;
    let restart = running.restart_needed(&read);
    let mixed = Config { policy: read.policy, relay: read.relay, ..running.clone() };
    Ok((load(&mixed).await?, restart))
}

/// An error with all its causes, as one text.
pub fn chain(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut next = error.source();
    while let Some(cause) = next {
        // Some say their cause themselves.
        let said = cause.to_string();
        if !text.contains(&said) {
            text.push_str(": ");
            text.push_str(&said);
        }
        next = cause.source();
    }
    text
}
