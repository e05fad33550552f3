//! The network as the node's Tor knows it, and circuits whose relays the node chooses.

use std::{collections::HashMap, sync::Arc};

use serde_json::{Value, json};

use bento_tor::{CircuitStatus, Consensus, Fingerprint, Relay};

pub use super::choose::Wish;
use super::{Broker, Running, bad_call, by_control, choose::choose, circuits::PATH_MAX};
use crate::link::{CallError, CallErrorKind};

/// Most flags and exclusions of a wish.
const FLAGS_MAX: usize = 8;
const EXCLUDE_MAX: usize = 64;

impl Broker {
    /// The network.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn network(&self) -> Result<Arc<Consensus>, CallError> {
        let running = self.tor.running()?;
        // Asked for once, whoever wants it; and again when there is another.
        let mut known = self.tor.network.lock().await;
        let age = running.controller.consensus_age().await.map_err(|error| by_control(&error))?;
        if let Some((of, network)) = known.as_ref().filter(|(of, _)| *of == age) {
            let _ = of;
            return Ok(Arc::clone(network));
        }
        let network = Arc::new(running.controller.consensus().await.map_err(|error| by_control(&error))?);
        *known = Some((age, Arc::clone(&network)));
        Ok(network)
    }

    /// Relays for a circuit, the first of them a guard of the node's own.
    ///
    /// # Errors
    /// When no relays fit.
    pub async fn choose(&self, wish: &Wish) -> Result<Vec<Fingerprint>, CallError> {
        check(wish)?;
        let running = self.tor.running()?;
        let network = self.network().await?;
        let guards = guards(&running).await?;
        let mut no_random = false;
        let chosen = choose(&network, &guards, wish, |below| {
            random(below).unwrap_or_else(|()| {
                no_random = true;
                0
            })
        });
        if no_random {
            return Err(CallError::new(CallErrorKind::Failed, "the node has no random numbers"));
        }
        chosen.ok_or_else(|| CallError::new(CallErrorKind::Missing, "the network has no relays that fit"))
    }
}

/// The guards that this Tor uses, those first that most of its circuits begin with.
async fn guards(running: &Running) -> Result<Vec<Fingerprint>, CallError> {
    let mut guards = running.controller.guards().await.map_err(|error| by_control(&error))?;
    let circuits = running.controller.circuits().await.map_err(|error| by_control(&error))?;
    let mut uses: HashMap<Fingerprint, usize> = HashMap::new();
    // Functions' own begin wherever they say.
    for circuit in circuits.iter().filter(|circuit| circuit.status == CircuitStatus::Built && circuit.purpose != "CONTROLLER") {
        if let Some(first) = circuit.path.first() {
            *uses.entry(first.fingerprint).or_default() += 1;
        }
    }
    guards.sort_by_key(|guard| std::cmp::Reverse(uses.get(guard).copied().unwrap_or(0)));
    Ok(guards)
}

fn check(wish: &Wish) -> Result<(), CallError> {
    if !(2..=PATH_MAX).contains(&wish.length) {
        return Err(bad_call(format!("the node chooses circuits of 2 to {PATH_MAX} relays")));
    }
    let is_country = |country: &String| country.len() == 2 && country.bytes().all(|byte| byte.is_ascii_lowercase());
    if !wish.country.as_ref().is_none_or(is_country) || wish.exit_port == Some(0) {
        return Err(bad_call("a country is two small letters, a port a number from 1 to 65535"));
    }
    if wish.flags.len() > FLAGS_MAX || wish.exclude.len() > EXCLUDE_MAX {
        return Err(bad_call(format!("at most {FLAGS_MAX} flags can be asked for, and {EXCLUDE_MAX} relays excluded")));
    }
    Ok(())
}

/// A number below this one, none of them likelier than the others by more than one in 2^32.
fn random(below: u64) -> Result<u64, ()> {
    let mut bytes = [0; 16];
    getrandom::fill(&mut bytes).map_err(drop)?;
    let wide = u128::from_be_bytes(bytes);
    Ok(u64::try_from(wide % u128::from(below.max(1))).unwrap_or(0))
}

/// A relay as functions are told of it.
pub(super) fn relay(relay: &Relay) -> Value {
    json!({
        "fingerprint": relay.fingerprint.to_string(),
        "nickname": relay.nickname,
        "address": relay.address.to_string(),
        "or_port": relay.or_port,
        "flags": relay.flags,
        "bandwidth": relay.bandwidth,
        "country": relay.country,
        "exit": relay.exit,
        "ed25519": relay.ed25519,
    })
}

/// What the consensus says besides.
pub(super) fn consensus(consensus: &Consensus) -> Value {
    json!({
        "valid_after": consensus.valid_after,
        "fresh_until": consensus.fresh_until,
        "valid_until": consensus.valid_until,
        "shared_random_previous": consensus.shared_random_previous,
        "shared_random_current": consensus.shared_random_current,
        "params": consensus.params,
    })
}
