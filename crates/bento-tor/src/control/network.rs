//! What a controller asks of Tor besides its configuration: circuits, streams, onion services, descriptors, the network.

use sha2::{Digest, Sha256};

use super::consensus::Consensus;
use super::descriptor::ServiceDescriptor;
use super::ids::{CircuitId, Fingerprint, Hop};
use super::microdescriptor::Microdescriptors;
use super::wire::Reply;
use super::{CircuitEvent, ControlError, Controller, Onion, OnionService, Order, word};

/// Addresses whose countries are asked for at once.
const ADDRESSES_MAX: usize = 200;

impl Controller {
    /// Makes an onion service that lives as long as this connection (or longer with the flag `Detach`).
    pub async fn add_onion(&self, service: &OnionService) -> Result<Onion, ControlError> {
        self.add_onion_then(service, |_| Vec::new()).await
    }

    /// The same, heard by `then` within the connection's task, before any later event and also if nobody waits here any more.
    pub async fn add_onion_then(
        &self,
        service: &OnionService,
        then: impl FnOnce(&Onion) -> Vec<Order> + Send + 'static,
    ) -> Result<Onion, ControlError> {
        let key = service.key.clone();
        let made = move |reply: &Reply| Onion::parse(reply, key.clone());
        let heard = made.clone();
        let text = service.command()? + "\r\n";
        let reply = self.send_then(text, move |reply| {
            reply.as_ref().ok().and_then(|reply| heard(reply).ok()).map_or_else(Vec::new, |onion| then(&onion))
        });
        made(&reply.await?)
    }

    /// Ends an onion service, given by its address with or without `.onion`.
    pub async fn del_onion(&self, address: &str) -> Result<(), ControlError> {
        let id = address.strip_suffix(".onion").unwrap_or(address);
        word(id)?;
        self.command(&format!("DEL_ONION {id}")).await.map(drop)
    }

    /// Begins a circuit through these relays that Tor uses for nothing by itself (purpose `controller`), or makes one longer. It is there when an event
    /// says so.
    ///
    /// `then` hears it within the connection's task, before any later event and also if nobody waits here any more.
    pub async fn extend_circuit(
        &self,
        circuit: Option<&CircuitId>,
        relays: &[Fingerprint],
        then: impl FnOnce(&CircuitId) -> Vec<Order> + Send + 'static,
    ) -> Result<CircuitId, ControlError> {
        if relays.is_empty() {
            return Err(ControlError::Argument("a circuit needs at least one relay"));
        }
        let relays: Vec<String> = relays.iter().map(|relay| format!("${relay}")).collect();
        let relays = relays.join(",");
        let text = match circuit {
            Some(circuit) => format!("EXTENDCIRCUIT {circuit} {relays}\r\n"),
            None => format!("EXTENDCIRCUIT 0 {relays} purpose=controller\r\n"),
        };
        let reply = self.send_then(text, |reply| reply.as_ref().ok().and_then(extended).map_or_else(Vec::new, |circuit| then(&circuit)));
        extended(&reply.await?).ok_or(ControlError::Protocol("EXTENDCIRCUIT answered without a circuit"))
    }

    /// The circuits that there are.
    pub async fn circuits(&self) -> Result<Vec<CircuitEvent>, ControlError> {
        Ok(CircuitEvent::list(&self.get_info("circuit-status").await?))
    }

    /// The relays that Tor may use as first ones, the ones in use before the others.
    pub async fn guards(&self) -> Result<Vec<Fingerprint>, ControlError> {
        Ok(guards(&self.get_info("entry-guards").await?))
    }

    /// Makes Tor leave the streams of its clients alone until somebody attaches each of them ([`Order::attach`]), or no longer. `then` hears that it is
    /// so within the connection's task: of each stream that an event tells of, it is known whether it waits.
    pub async fn leave_streams_unattached(
        &self,
        leave: bool,
        then: impl FnOnce() -> Vec<Order> + Send + 'static,
    ) -> Result<(), ControlError> {
        let text = format!("SETCONF __LeaveStreamsUnattached={}\r\n", u8::from(leave));
        self.send_then(text, move |reply| if reply.is_ok() { then() } else { Vec::new() }).await.map(drop)
    }

    /// Has the descriptor of an onion service fetched: from these directories, or from those that Tor finds, one after the other. What comes is
    /// told by events.
    pub async fn hs_fetch(&self, address: &str, hsdirs: &[Fingerprint]) -> Result<(), ControlError> {
        let id = address.strip_suffix(".onion").unwrap_or(address);
        word(id)?;
        let servers: String = hsdirs.iter().map(|hsdir| format!(" SERVER={hsdir}")).collect();
        self.command(&format!("HSFETCH {id}{servers}")).await.map(drop)
    }

    /// Has a descriptor of an onion service brought to these directories, or to those that Tor finds. What they say is told by events.
    pub async fn hs_post(&self, address: &str, descriptor: &ServiceDescriptor, hsdirs: &[Fingerprint]) -> Result<(), ControlError> {
        let id = address.strip_suffix(".onion").unwrap_or(address);
        word(id)?;
        let servers: String = hsdirs.iter().map(|hsdir| format!("SERVER={hsdir} ")).collect();
        self.command_with_data(&format!("+HSPOST {servers}HSADDRESS={id}"), &descriptor.to_string()).await.map(drop)
    }

    /// Until when the consensus is fresh, as Tor writes it: another text, another consensus.
    pub async fn consensus_age(&self) -> Result<String, ControlError> {
        self.get_info("consensus/valid-after").await
    }

    /// The network as Tor knows it: the consensus, with what microdescriptors and Tor's table of countries say of its relays.
    ///
    /// On the public network these are some megabytes, so it is not for every request.
    pub async fn consensus(&self) -> Result<Consensus, ControlError> {
        let text = self.get_info("dir/status-vote/current/consensus-microdesc").await?;
        let mut consensus = Consensus::parse(&text).ok_or(ControlError::Protocol("the consensus cannot be read"))?;
        drop(text);
        // Without some of them the relays are known less well, and no worse.
        let text = self.get_info("md/all").await?;
        let microdescriptors = Microdescriptors::parse(&text, |bytes| Sha256::digest(bytes).into());
        for relay in &mut consensus.relays {
            microdescriptors.tell(relay);
        }
        self.countries(&mut consensus).await?;
        Ok(consensus)
    }

    async fn countries(&self, consensus: &mut Consensus) -> Result<(), ControlError> {
        let available = self.get_info("ip-to-country/ipv4-available").await;
        if !matches!(available.as_deref(), Ok("1")) {
            return Ok(());
        }
        for relays in consensus.relays.chunks_mut(ADDRESSES_MAX) {
            let keys: Vec<String> = relays.iter().map(|relay| format!("ip-to-country/{}", relay.address)).collect();
            let reply = self.command(&format!("GETINFO {}", keys.join(" "))).await?;
            for (relay, key) in relays.iter_mut().zip(&keys) {
                relay.country = reply.after(&format!("{key}=")).and_then(country);
            }
        }
        Ok(())
    }
}

/// ```text
/// 250 EXTENDED 10
/// ```
fn extended(reply: &Reply) -> Option<CircuitId> {
    reply.after("EXTENDED ").and_then(CircuitId::parse)
}

/// ```text
/// 250+entry-guards=
/// $A8BCA5A700B51B09AFD9916E292568EACF5D652B~authority2 up
/// $39924945CB8DC0D82E78A78F97800A456ED72070~middle2 never-connected
/// $400A3BCE735B143124132D01FDC37897EF8045E8~exit1 unusable 2026-11-28 00:59:15
/// .
/// 250 OK
/// ```
fn guards(text: &str) -> Vec<Fingerprint> {
    let line = |line: &str| {
        let (hop, status) = line.split_once(' ')?;
        let rank = ["up", "never-connected"].iter().position(|known| *known == status)?;
        Some((rank, Hop::parse(hop)?.fingerprint))
    };
    let mut guards: Vec<_> = text.lines().filter_map(line).collect();
    guards.sort_by_key(|(rank, _)| *rank);
    guards.into_iter().map(|(_, guard)| guard).collect()
}

/// ```text
/// 250-ip-to-country/192.0.2.1=de
/// 250-ip-to-country/127.11.0.1=??
/// ```
fn country(text: &str) -> Option<String> {
    (text.len() == 2 && text.bytes().all(|byte| byte.is_ascii_alphabetic())).then(|| text.to_ascii_lowercase())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn guards_in_use_come_first_and_unusable_ones_not_at_all() {
        let guard = |digit: &str| digit.repeat(40);
        let text = format!(
            "${}~a never-connected\n${}~b up\n${}~c unusable 2026-11-28 00:59:15\nnonsense\n${}~d up\n",
            guard("1"),
            guard("2"),
            guard("3"),
            guard("4")
        );
        let found: Vec<String> = guards(&text).iter().map(ToString::to_string).collect();
        assert_eq!(found, [guard("2"), guard("4"), guard("1")]);
    }

    #[test]
    fn countries_are_two_letters_or_none() {
        assert_eq!((country("DE"), country("??"), country("deu"), country("d ")), (Some("de".into()), None, None, None));
    }
}
