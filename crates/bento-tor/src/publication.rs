//! An onion service that is kept published: watched, looked for as a client would, and published again when it is not there.
//!
//! That `ADD_ONION` was answered says only that Tor means to publish. Whether a directory has stored the descriptor is told by events, and whether
//! clients then get through is known to nobody who does not try: a descriptor may be stored and lead nowhere. So this does both. It publishes
//! again by ending the service and making it anew with the same key, which makes Tor choose new introduction points and upload at once.
//!
//! What was seen: a `tor` that starts soon after another with the same key may count the age of its descriptor from a later moment (it does so from the
//! consensus that it has), or by a clock that was set back. Its descriptor is then not newer than the other's, each directory refuses it, and Tor does
//! not try again for an hour or more; clients find the old one, which leads nowhere.
//!
//! It does nothing while Tor itself has no circuits: publishing would not help, and when the network is back Tor uploads by itself.

use std::convert::Infallible;
use std::fmt;
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until, timeout_at};

use crate::control::{ControlError, Controller, Descriptor, Events, OnionService, Step};
use crate::socks::{Isolation, Socks, SocksError};

/// How long it waits for what.
#[derive(Clone, Debug)]
pub struct Patience {
    /// Until a first directory has stored the descriptor: it needs introduction circuits and then circuits to the directories.
    pub upload: Duration,
    /// For one try to get through.
    pub reach: Duration,
    /// Between two tries.
    pub between: Duration,
    /// Tries until it counts as not reached.
    pub tries: u32,
    /// Between two looks at one that was reached.
    pub every: Duration,
    /// First and longest pause before it is published again.
    pub pause: (Duration, Duration),
    /// How often it is published again until the owner is told that it does not help.
    pub again: u32,
}

impl Default for Patience {
    fn default() -> Self {
        Self {
            upload: Duration::from_secs(60),
            reach: Duration::from_secs(25),
            between: Duration::from_secs(3),
            tries: 2,
            // Each look costs some circuits of the network.
            every: Duration::from_secs(30 * 60),
            // Directories refuse what is not newer by the clock than what they have, which a few seconds mend.
            pause: (Duration::from_secs(1), Duration::from_secs(5 * 60)),
            again: 6,
        }
    }
}

/// Why an onion service is published again.
#[derive(Debug)]
#[non_exhaustive]
pub enum Unreached {
    /// Directories were asked to store its descriptor, and each refused.
    Refused,
    /// No directory has stored it in time.
    NotUploaded,
    /// It was stored, and yet this Tor does not get through to it.
    NotReached(SocksError),
}

impl fmt::Display for Unreached {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Refused => f.write_str("the directories refused its descriptor"),
            Self::NotUploaded => f.write_str("no directory has stored its descriptor"),
            Self::NotReached(error) => write!(f, "it is not reached: {error}"),
        }
    }
}

/// What the owner hears.
#[derive(Debug)]
pub enum Told {
    /// It was reached through Tor.
    Reached,
    /// It is published again because of this, after such a pause.
    Again(Unreached, Duration),
}

/// Why it is not kept any more.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum PublicationError {
    /// Tor does not do as it is told, or has ended.
    #[error("keeping the onion service published")]
    Control(#[from] ControlError),
    /// Publishing again did not help.
    #[error("the onion service was published {times} times, and still {why}")]
    Unreached {
        /// How often in a row.
        times: u32,
        /// What was wrong the last time.
        why: Unreached,
    },
}

/// An onion service that was made, to be kept published.
#[derive(Debug)]
pub struct Publication {
    controller: Controller,
    service: OnionService,
    address: String,
    events: Events,
    patience: Patience,
}

impl Publication {
    /// Makes the onion service, and hears of its descriptors from then on.
    pub async fn new(controller: &Controller, service: OnionService, patience: Patience) -> Result<Self, ControlError> {
        // Before the service is there, so that nothing of it is missed.
        let events = controller.events(&[Descriptor::EVENT]).await?;
        let onion = controller.add_onion(&service).await?;
        let service = OnionService { key: onion.key, ..service };
        Ok(Self { controller: controller.clone(), service, address: onion.address, events, patience })
    }

    /// Its address, with `.onion` at its end.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Its key, as [`OnionService::key`] takes it.
    pub fn key(&self) -> Option<&str> {
        self.service.key.as_deref()
    }

    /// Keeps it published until Tor is gone or publishing does not help. `told` hears what happens.
    pub async fn keep(&mut self, socks: &Socks, mut told: impl FnMut(Told) + Send) -> PublicationError {
        let Err(error) = self.kept(socks, &mut told).await;
        error
    }

    async fn kept(&mut self, socks: &Socks, told: &mut (impl FnMut(Told) + Send)) -> Result<Infallible, PublicationError> {
        let (mut times, mut pause, mut is_new) = (0, self.patience.pause.0, true);
        loop {
            let looked = match is_new {
                true => match self.stored().await? {
                    Ok(()) => self.reached(socks).await,
                    not_stored => not_stored,
                },
                false => self.reached(socks).await,
            };
            match looked {
                Ok(()) => {
                    told(Told::Reached);
                    (times, pause, is_new) = (0, self.patience.pause.0, false);
                    self.rest().await?;
                }
                // Not the service's fault, and nothing that publishing could mend. Looked at again after the same time as one that was reached
                // is too late: Tor comes back within seconds of the network.
                Err(_) if !self.has_circuits().await? => {
                    is_new = false;
                    sleep(self.patience.upload).await;
                }
                Err(why) if times == self.patience.again => return Err(PublicationError::Unreached { times, why }),
                Err(why) => {
                    times += 1;
                    told(Told::Again(why, pause));
                    sleep(pause).await;
                    pause = (pause * 2).min(self.patience.pause.1);
                    self.again().await?;
                    is_new = true;
                }
            }
        }
    }

    /// The next step of its descriptor on the way to a directory, until then; none if there is no more.
    async fn step(&mut self, end: Instant) -> Result<Option<Step>, ControlError> {
        loop {
            let event = match timeout_at(end, self.events.next()).await {
                Err(_) => return Ok(None),
                Ok(Err(ControlError::EventsLost(_))) => continue,
                Ok(event) => event?,
            };
            match Descriptor::parse(&event).filter(|descriptor| descriptor.address == self.address).map(|descriptor| descriptor.step) {
                None | Some(Step::Requested | Step::Received | Step::Other) => {}
                // What a client of this Tor did not find, this one's own looks included.
                Some(Step::Failed(reason)) if reason != Descriptor::REJECTED => {}
                Some(step) => return Ok(Some(step)),
            }
        }
    }

    /// Waits until a first directory has stored the descriptor.
    async fn stored(&mut self) -> Result<Result<(), Unreached>, ControlError> {
        let end = Instant::now() + self.patience.upload;
        let (mut asked, mut refused) = (0, 0);
        loop {
            match self.step(end).await? {
                Some(Step::Uploaded) => return Ok(Ok(())),
                Some(Step::Failed(_)) => refused += 1,
                Some(_) => asked += 1,
                None => return Ok(Err(Unreached::NotUploaded)),
            }
            // As long as one has not answered, it may store it.
            if refused > 0 && refused >= asked {
                return Ok(Err(Unreached::Refused));
            }
        }
    }

    /// Gets through to it as any client does: descriptor, introduction, rendezvous, stream.
    async fn reached(&self, socks: &Socks) -> Result<(), Unreached> {
        let mut number = 0;
        loop {
            number += 1;
            // Circuits that nothing else uses, of this try alone.
            let isolation = Isolation::new(&format!("{} {:?}", self.address, std::time::Instant::now()));
            match socks
                .connect(&self.address, self.service.ports.first().map_or(80, |(port, _)| *port), &isolation, self.patience.reach)
                .await
            {
                Err(error) if is_about_it(&error) => {
                    if number >= self.patience.tries {
                        return Err(Unreached::NotReached(error));
                    }
                }
                // Where there is no SOCKS port to try with, nothing speaks against it.
                _ => return Ok(()),
            }
            sleep(self.patience.between).await;
        }
    }

    /// Waits until it is to be looked at again: after a time, or when a directory has refused it.
    async fn rest(&mut self) -> Result<(), ControlError> {
        let begun = Instant::now();
        while let Some(step) = self.step(begun + self.patience.every).await? {
            if let Step::Failed(_) = step {
                // Not at once: others are refusing it at the same moment, or store it.
                sleep_until(begun + self.patience.upload).await;
                self.listen().await?;
                break;
            }
        }
        Ok(())
    }

    /// Does Tor have circuits at all?
    async fn has_circuits(&self) -> Result<bool, ControlError> {
        Ok(self.controller.get_info("status/circuit-established").await? == "1")
    }

    /// Forgets the events so far.
    async fn listen(&mut self) -> Result<(), ControlError> {
        self.events = self.controller.events(&[Descriptor::EVENT]).await?;
        Ok(())
    }

    async fn again(&mut self) -> Result<(), ControlError> {
        match self.controller.del_onion(&self.address).await {
            // It is not there: then there is nothing to end.
            Ok(()) | Err(ControlError::Refused { code: 552, .. }) => {}
            Err(error) => return Err(error),
        }
        self.listen().await?;
        self.controller.add_onion(&self.service).await.map(drop)
    }
}

/// Does it say that clients do not get through? Not if the way to this Tor's own port fails, or if whoever is behind the onion service refuses.
fn is_about_it(error: &SocksError) -> bool {
    use SocksError::{
        Deadline, General, HostUnreachable, IntroductionFailed, IntroductionTimedOut, OnionInvalid, OnionNotFound, RendezvousFailed,
        TimedOut,
    };
    matches!(
        error,
        OnionNotFound
            | OnionInvalid
            | IntroductionFailed
            | IntroductionTimedOut
            | RendezvousFailed
            | Deadline(_)
            | General
            | HostUnreachable
            | TimedOut
    )
}

#[cfg(test)]
mod tests;
