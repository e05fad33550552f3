//! Descriptors of onion services, fetched for a function and published for it.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError, Weak},
    time::Duration,
};

use tokio::{
    sync::{oneshot, watch},
    time::{Instant, timeout, timeout_at},
};

use bento_tor::{ControlError, Fingerprint, ServiceDescriptor};

use super::{
    Broker, bad_call, by_control,
    streams::onion,
    table::{Fetch, Post, Tries},
};
use crate::{
    link::{CallError, CallErrorKind},
    meter::Way,
};

/// Most directories that can be named.
pub(super) const HSDIRS_MAX: usize = 16;

/// Directories that Tor finds for a descriptor by itself, at most.
const HSDIRS_FOUND: usize = 8;

/// How long directories may take to answer.
const ANSWER_DEADLINE: Duration = Duration::from_secs(45);

/// After so long without a word, no further directory is asked, or none answers.
const QUIET: Duration = Duration::from_secs(3);

/// What became of a descriptor.
#[derive(Clone, Debug, Default, Eq, PartialEq)]
pub struct Published {
    /// The directories that have stored it.
    pub took: Vec<Fingerprint>,
    /// Those that did not, each with Tor's word for why.
    pub refused: Vec<(Fingerprint, String)>,
    /// Those that have not answered.
    pub silent: Vec<Fingerprint>,
}

/// Descriptors of one address are published one after the other: an answer of a directory does not say to which it belongs.
#[derive(Debug, Default)]
pub(super) struct Turns(Mutex<HashMap<String, Weak<tokio::sync::Mutex<()>>>>);

impl Turns {
    fn of(&self, address: &str) -> Arc<tokio::sync::Mutex<()>> {
        let mut turns = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        turns.retain(|_, turn| turn.strong_count() > 0);
        if let Some(turn) = turns.get(address).and_then(Weak::upgrade) {
            return turn;
        }
        let turn: Arc<tokio::sync::Mutex<()>> = Arc::default();
        turns.insert(address.to_owned(), Arc::downgrade(&turn));
        turn
    }
}

impl Broker {
    /// Fetches the descriptor of an onion service: from one of these directories, or of those that Tor finds. Gives the directory that had it.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn descriptor(&self, address: &str, hsdirs: &[Fingerprint]) -> Result<(Fingerprint, String), CallError> {
        let address = checked(address, hsdirs)?;
        let running = self.tor.running()?;
        self.count_try().await?;
        let (tries, mut told) = watch::channel(Tries::default());
        let (found, mut content) = oneshot::channel();
        let number = {
            let mut table = self.tor.table();
            let number = table.number();
            table.fetch(&address, Fetch { number, hsdirs: hsdirs.to_vec(), tries, found: Some(found) });
            number
        };
        let _forget = Forget(self, |broker| broker.tor.table().fetch_no_more(number));
        running.controller.hs_fetch(&address, hsdirs).await.map_err(|error| no_hsdir(&error))?;
        let end = Instant::now() + ANSWER_DEADLINE;
        let (hsdir, text) = loop {
            let all_asked = {
                let tries = told.borrow_and_update();
                tries.asked <= tries.failed && (tries.failed > 0 || !tries.reason.is_empty())
            };
            // Tor asks the next directory as soon as one had none.
            let wait = if all_asked { end.min(Instant::now() + QUIET) } else { end };
            tokio::select! {
                found = &mut content => break found.map_err(|_| by_control(&ControlError::Closed))?,
                changed = timeout_at(wait, told.changed()) => match changed {
                    Ok(Ok(())) => {}
                    Ok(Err(_)) => return Err(by_control(&ControlError::Closed)),
                    Err(_) if all_asked => return Err(none(&told.borrow().reason)),
                    Err(_) => return Err(CallError::new(CallErrorKind::Timeout, "no directory has answered")),
                },
            }
        };
        let used_up = |_| CallError::new(CallErrorKind::Refused, "traffic is used up");
        self.meter.pass(Way::Received, text.len()).await.map_err(used_up)?;
        Ok((hsdir, text))
    }

    /// Publishes a descriptor of an onion service at these directories, or at those that Tor finds.
    ///
    /// # Errors
    /// In the words of the function API.
    pub async fn publish(&self, address: &str, text: &str, hsdirs: &[Fingerprint]) -> Result<Published, CallError> {
        let address = checked(address, hsdirs)?;
        let descriptor = ServiceDescriptor::parse(text).map_err(|error| by_control(&error))?;
        let running = self.tor.running()?;
        let turn = self.tor.posting.of(&address);
        let turn = timeout(ANSWER_DEADLINE, turn.lock_owned()).await;
        let _turn =
            turn.map_err(|_| CallError::new(CallErrorKind::Busy, "descriptors of this onion service are being published already"))?;
        self.count(text.len() * if hsdirs.is_empty() { HSDIRS_FOUND } else { hsdirs.len() }).await?;
        let (said, mut told) = watch::channel(Vec::new());
        let number = {
            let mut table = self.tor.table();
            let number = table.number();
            table.post(&address, Post { number, hsdirs: hsdirs.to_vec(), said });
            number
        };
        let _forget = Forget(self, |broker| broker.tor.table().post_no_more(number));
        running.controller.hs_post(&address, &descriptor, hsdirs).await.map_err(|error| no_hsdir(&error))?;
        let end = Instant::now() + ANSWER_DEADLINE;
        loop {
            let count = told.borrow_and_update().len();
            if !hsdirs.is_empty() && count >= hsdirs.len() {
                break;
            }
            // Where Tor finds them it does not say how many there are.
            let wait = if hsdirs.is_empty() && count > 0 { end.min(Instant::now() + QUIET) } else { end };
            match timeout_at(wait, told.changed()).await {
                Ok(Ok(())) => {}
                Ok(Err(_)) => return Err(by_control(&ControlError::Closed)),
                Err(_) => break,
            }
        }
        let said = told.borrow().clone();
        let silent = hsdirs.iter().filter(|hsdir| said.iter().all(|(known, _)| known != *hsdir)).copied().collect();
        let mut published = Published { silent, ..Published::default() };
        for (hsdir, refused) in said {
            match refused {
                None => published.took.push(hsdir),
                Some(reason) => published.refused.push((hsdir, reason)),
            }
        }
        Ok(published)
    }
}

/// Forgets what was asked for when nobody waits for it any more.
struct Forget<'a, F: Fn(&Broker)>(&'a Broker, F);

impl<F: Fn(&Broker)> Drop for Forget<'_, F> {
    fn drop(&mut self) {
        (self.1)(self.0);
    }
}

fn checked(address: &str, hsdirs: &[Fingerprint]) -> Result<String, CallError> {
    if hsdirs.len() > HSDIRS_MAX {
        return Err(bad_call(format!("at most {HSDIRS_MAX} directories can be named")));
    }
    let mut once: Vec<&Fingerprint> = hsdirs.iter().collect();
    once.sort_unstable();
    once.dedup();
    if once.len() != hsdirs.len() {
        return Err(bad_call("a directory is named once"));
    }
    onion(address)?.ok_or_else(|| bad_call("an onion service's address ends in `.onion`"))
}

fn none(reason: &str) -> CallError {
    match reason {
        "QUERY_RATE_LIMITED" => {
            CallError::new(CallErrorKind::Busy, "the node's Tor has asked for it too often; name directories, or wait (QUERY_RATE_LIMITED)")
        }
        "BAD_DESC" => CallError::new(CallErrorKind::Damaged, "what the directory has is no descriptor of this onion service (BAD_DESC)"),
        reason => CallError::new(CallErrorKind::Missing, format!("no directory has a descriptor of this onion service ({reason})")),
    }
}

fn no_hsdir(error: &ControlError) -> CallError {
    match error {
        ControlError::Refused { code: 552, .. } => {
            CallError::new(CallErrorKind::Missing, "the network has no relay of one of these fingerprints")
        }
        ControlError::Refused { code: 554, .. } => bad_call("this is no descriptor of this onion service"),
        error => by_control(error),
    }
}
