//! What the programs around this library have in common.

use std::io::IsTerminal;

use tracing_subscriber::{
    Layer,
    filter::{FilterExt, filter_fn},
    layer::SubscriberExt,
    util::SubscriberInitExt,
};

/// Logs to stderr, at the level that this variable of the environment says.
pub fn log(variable: &str) {
    let log = tracing_subscriber::EnvFilter::try_from_env(variable).unwrap_or_else(|_| "info".into());
    // Libraries log what they work on, a resolver the names that functions ask for: whatever level is chosen, only our own words are logged.
    let ours = filter_fn(|metadata| metadata.target().starts_with("bento"));
    let out = tracing_subscriber::fmt::layer().with_writer(std::io::stderr).with_ansi(std::io::stderr().is_terminal()).with_target(false);
    tracing_subscriber::registry().with(out.with_filter(log.and(ours))).init();
}

/// Raises the soft limit of descriptors to the hard one: a session, a stream and a jail take some each, and the usual 1,024 are soon gone.
pub fn raise_descriptors() {
    use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};
    let limit = getrlimit(Resource::Nofile);
    if setrlimit(Resource::Nofile, Rlimit { current: limit.maximum, maximum: limit.maximum }).is_err() {
        tracing::warn!("the limit of open descriptors could not be raised");
    }
}
