//! What one function was promised: the only key to a container.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    exit_policy::ExitPolicy,
    manifest::{Egress, Manifest, Needs},
    policy::{Offers, Policy},
    refusal::Refusal,
    syscalls,
    unit::{Rate, Share, Size, Span},
};

/// One key of a manifest beside the same key of a policy.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
pub struct Line {
    /// The key, as both files have it.
    pub key: &'static str,
    /// What the function needs.
    pub needs: String,
    /// What the node offers.
    pub offers: String,
    /// Is the one within the other?
    pub fits: bool,
}

/// What an admitted function may have. Made by [`Policy::admit`](crate::Policy::admit) and by nothing else, so that no function runs
/// that was not admitted. It can be neither copied nor read from a file.
#[derive(Debug, Eq, PartialEq)]
pub struct Grant {
    // What the manifest asks for is what it gets.
    needs: Needs,
    egress: Option<Egress>,
    node_connect: ExitPolicy,
}

/// A grant's amounts, as a node tells them to its client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// Address space.
    pub memory: Size,
    /// File system in memory.
    pub scratch: Size,
    /// What it may keep in the node's store.
    #[serde(default)]
    pub storage: Size,
    /// CPU time in all.
    pub cpu: Span,
    /// Part of one processor core.
    pub share: Share,
    /// Bytes of all streams.
    pub traffic: Size,
    /// Bytes of all streams in a second.
    pub rate: Rate,
    /// From install to the end.
    pub lifetime: Span,
    /// Where connections leave, if it makes any.
    pub egress: Option<Egress>,
}

impl Grant {
    pub(crate) fn new(manifest: &Manifest, egress: Option<Egress>, node_connect: ExitPolicy) -> Self {
        Self { needs: manifest.needs.clone(), egress, node_connect }
    }

    /// Which set of packages.
    pub fn image(&self) -> &str {
        &self.needs.image
    }

    /// Address space of its process.
    pub fn memory(&self) -> Size {
        self.needs.memory
    }

    /// Its file system in memory.
    pub fn scratch(&self) -> Size {
        self.needs.scratch
    }

    /// What it may keep in its node's store.
    pub fn storage(&self) -> Size {
        self.needs.storage
    }

    /// CPU time over its whole life.
    pub fn cpu(&self) -> Span {
        self.needs.cpu
    }

    /// Part of one processor core, averaged over a short time.
    pub fn share(&self) -> Share {
        self.needs.share
    }

    /// Bytes of all its streams, both ways, over its whole life.
    pub fn traffic(&self) -> Size {
        self.needs.traffic
    }

    /// Bytes of all its streams together, both ways, averaged over a second.
    pub fn rate(&self) -> Rate {
        self.needs.rate
    }

    /// From install to the end.
    pub fn lifetime(&self) -> Span {
        self.needs.lifetime
    }

    /// Is its process kept, and started with the node?
    pub fn keep_awake(&self) -> bool {
        self.needs.keep_awake
    }

    /// Threads at the same time.
    pub fn processes(&self) -> u32 {
        self.needs.processes
    }

    /// Open descriptors at the same time.
    pub fn descriptors(&self) -> u32 {
        self.needs.descriptors
    }

    /// Invocations at the same time.
    pub fn invocations(&self) -> u32 {
        self.needs.invocations
    }

    /// Functions that it may have on other nodes at the same time.
    pub fn installs(&self) -> u32 {
        self.needs.installs
    }

    /// Circuits of its own that it may have open at the same time.
    pub fn circuits(&self) -> u32 {
        self.needs.circuits
    }

    /// Onion services of its own that it may have at the same time.
    pub fn onion_services(&self) -> u32 {
        self.needs.onion_services
    }

    /// The system calls that are open to it, as far as this machine has them; sorted.
    pub fn syscalls(&self) -> Vec<&'static str> {
        syscalls::on_this_machine(self.needs.syscalls.names())
    }

    /// Where its connections leave: `tor` or `direct`, or nothing when the node offers neither.
    pub fn egress(&self) -> Option<Egress> {
        self.egress
    }

    /// May it make this call?
    ///
    /// # Errors
    /// When no pattern of its manifest names the call.
    pub fn permits_call(&self, call: &str) -> Result<(), Refusal> {
        if self.needs.calls.iter().any(|pattern| pattern.matches(call)) { Ok(()) } else { Err(Refusal::Call(call.to_owned())) }
    }

    /// May it connect to this port of anything? Asked before a name is resolved.
    ///
    /// # Errors
    /// When no rule accepts the port.
    pub fn permits_port(&self, port: u16) -> Result<(), Refusal> {
        if self.needs.connect.may_accept_port(port) && self.node_connect.may_accept_port(port) {
            Ok(())
        } else {
            Err(Refusal::Destination { port })
        }
    }

    /// May it connect there? Both its own manifest and the node's policy must accept it.
    ///
    /// # Errors
    /// When one of them does not.
    pub fn permits_destination(&self, address: IpAddr, port: u16) -> Result<(), Refusal> {
        if self.needs.connect.accepts(address, port) && self.node_connect.accepts(address, port) {
            Ok(())
        } else {
            Err(Refusal::Destination { port })
        }
    }

    /// May it connect to onion services at this port?
    ///
    /// # Errors
    /// When manifest or policy does not accept the port of everywhere.
    pub fn permits_onion(&self, port: u16) -> Result<(), Refusal> {
        if self.needs.connect.accepts_onion(port) && self.node_connect.accepts_onion(port) {
            Ok(())
        } else {
            Err(Refusal::Destination { port })
        }
    }

    /// May a function with this grant install one with that manifest elsewhere? It passes on only rights that it has itself: each amount,
    /// call, destination and system call. The image is not compared: packages are the other node's affair.
    ///
    /// # Errors
    /// The first line that asks for more than was granted.
    pub fn covers(&self, manifest: &Manifest) -> Result<(), Refusal> {
        let Needs { memory, scratch, storage, cpu, share, traffic, rate, lifetime, keep_awake, .. } = self.needs;
        let Needs { processes, descriptors, invocations, installs, circuits, onion_services, .. } = self.needs;
        let offers = Offers {
            image: vec![manifest.needs.image.clone()],
            memory,
            scratch,
            storage,
            cpu,
            share,
            traffic,
            rate,
            lifetime,
            keep_awake,
            processes,
            descriptors,
            invocations,
            installs,
            circuits,
            onion_services,
            calls: self.needs.calls.clone(),
            egress: self.egress.into_iter().collect(),
            connect: self.needs.connect.clone(),
            syscalls: self.needs.syscalls.clone(),
            // No manifest asks for what is left.
            ..Offers::default()
        };
        let lines = Policy { offers }.compare(manifest).into_iter().map(|line| {
            // Who asked for one of the two ways may not get the other by asking elsewhere for whichever there is.
            let any = line.key == "egress" && manifest.needs.egress == Egress::Any && !manifest.needs.connect.rules().is_empty();
            Line { fits: line.fits && (!any || self.needs.egress == Egress::Any), ..line }
        });
        lines.into_iter().find(|line| !line.fits).map_or(Ok(()), |line| Err(Refusal::NotGranted(line)))
    }

    /// Its amounts, to be told.
    pub fn granted(&self) -> Granted {
        Granted {
            memory: self.needs.memory,
            scratch: self.needs.scratch,
            storage: self.needs.storage,
            cpu: self.needs.cpu,
            share: self.needs.share,
            traffic: self.needs.traffic,
            rate: self.needs.rate,
            lifetime: self.needs.lifetime,
            egress: self.egress,
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::{
        call::CALLS,
        explain::tests::{any_manifest, manifest, policy},
    };

    fn grant(offers: &str, needs: &str) -> Grant {
        policy(offers).admit(&manifest(needs)).unwrap()
    }

    #[test]
    fn a_function_passes_on_what_it_has_and_is_told_the_line_where_it_has_less() {
        let has = "memory = '100 MiB'\nstorage = '1 MiB'\ninstalls = 2\ncircuits = 3\ncalls = ['net.connect', 'store.*']\nconnect = ['accept *:443']\nsyscalls = \
                   ['default', '-unlink']";
        let parent = grant("egress = ['tor', 'direct']", has);
        // What is left out of a manifest is asked for as well, so it begins with what the parent gave up.
        let least = "syscalls = ['default', '-unlink']\n";
        for (needs, key) in [
            ("memory = '100 MiB'", None),
            ("memory = '101 MiB'", Some("memory")),
            ("scratch = '9 MiB'", Some("scratch")),
            ("storage = '1 MiB'", None),
            ("storage = '2 MiB'", Some("storage")),
            ("cpu = '11 s'", Some("cpu")),
            ("share = '101 %'", Some("share")),
            ("traffic = '17 MiB'", Some("traffic")),
            ("rate = '5 MiB/s'", Some("rate")),
            ("lifetime = '11 min'", Some("lifetime")),
            ("keep_awake = true", Some("keep_awake")),
            ("processes = 9", Some("processes")),
            ("descriptors = 65", Some("descriptors")),
            ("invocations = 2", Some("invocations")),
            ("installs = 2", None),
            ("installs = 3", Some("installs")),
            ("circuits = 3", None),
            ("circuits = 4", Some("circuits")),
            ("onion_services = 1", Some("onion_services")),
            ("calls = ['store.put', 'net.*']", None),
            ("calls = ['nodes.list']", Some("calls")),
            ("connect = ['accept 8.8.8.8:443']", None),
            ("connect = ['accept *:80']", Some("connect")),
            // An image is a matter of the node that has it.
            ("image = 'web'", None),
        ] {
            match (parent.covers(&manifest(&format!("{least}{needs}"))), key) {
                (Ok(()), None) => {}
                (Err(Refusal::NotGranted(line)), Some(key)) => assert_eq!(line.key, key, "{needs}"),
                (covered, _) => panic!("{needs}: {covered:?}"),
            }
        }
        let Err(refusal) = parent.covers(&manifest("")) else { panic!("it gave up a system call") };
        assert_eq!((refusal.code(), refusal.status()), ("not-granted", 403));
        assert!(refusal.to_string().contains("of syscalls, and the function that installs it was granted default, -unlink"), "{refusal}");
    }

    #[test]
    fn the_way_out_that_was_asked_for_is_passed_on_and_no_other() {
        let child = |egress: &str| manifest(&format!("egress = '{egress}'\nconnect = ['accept *:443']"));
        for (own, fits) in [("tor", ["tor"].as_slice()), ("direct", &["direct"]), ("any", &["tor", "any"])] {
            let parent = grant("egress = ['tor', 'direct']", &format!("egress = '{own}'\nconnect = ['accept *:443']"));
            for egress in ["tor", "direct", "any"] {
                assert_eq!(parent.covers(&child(egress)).is_ok(), fits.contains(&egress), "{own} / {egress}");
            }
        }
        // Who connects nowhere needs none.
        assert_eq!(grant("egress = ['tor']", "egress = 'tor'").covers(&manifest("egress = 'direct'")), Ok(()));
    }

    /// A manifest that is near another: each amount a little less, the same, or a little more; the rest the same or any other.
    fn near(parent: Needs) -> impl Strategy<Value = Manifest> {
        let ways = prop_oneof![Just(Egress::Tor), Just(Egress::Direct), Just(Egress::Any)];
        (prop::array::uniform14(prop_oneof![1 => Just(0), 20 => Just(1), 1 => Just(2)]), any::<[bool; 4]>(), ways, any_manifest()).prop_map(
            move |(nudges, [awake, calls, connect, syscalls], egress, other)| {
                let mut needs = parent.clone();
                let nudged = |at: usize, amount: u64| (amount + nudges[at]).saturating_sub(1);
                let number = |at: usize, amount: u32| nudged(at, amount.into()) as u32;
                let size = |at: usize, amount: Size| Size::bytes(nudged(at, amount.as_bytes()));
                let span = |at: usize, amount: Span| Span::millis(nudged(at, amount.as_millis()));
                (needs.memory, needs.scratch, needs.storage) = (size(0, needs.memory), size(1, needs.scratch), size(2, needs.storage));
                (needs.traffic, needs.cpu, needs.lifetime) = (size(3, needs.traffic), span(4, needs.cpu), span(5, needs.lifetime));
                (needs.processes, needs.descriptors) = (number(6, needs.processes), number(7, needs.descriptors));
                (needs.invocations, needs.installs) = (number(8, needs.invocations), number(9, needs.installs));
                (needs.circuits, needs.onion_services) = (number(12, needs.circuits), number(13, needs.onion_services));
                needs.rate = format!("{} B/s", nudged(10, needs.rate.bytes_per_second())).parse().unwrap();
                needs.share = format!("{} %", nudged(11, needs.share.percent().into()).clamp(1, 6400)).parse().unwrap();
                needs.keep_awake = if awake { other.needs.keep_awake } else { needs.keep_awake };
                needs.calls = if calls { other.needs.calls } else { needs.calls };
                needs.connect = if connect { other.needs.connect } else { needs.connect };
                needs.syscalls = if syscalls { other.needs.syscalls } else { needs.syscalls };
                (needs.egress, needs.image) = (egress, other.needs.image);
                Manifest { needs, ..manifest("") }
            },
        )
    }

    fn parent_and_child() -> impl Strategy<Value = (Manifest, Manifest)> {
        any_manifest().prop_flat_map(|parent| near(parent.needs.clone()).prop_map(move |child| (parent.clone(), child)))
    }

    /// Is nothing in the second that is not in the first? In other words than the code's.
    fn within(has: &Needs, got: Option<Egress>, asks: &Needs) -> bool {
        asks.memory <= has.memory
            && asks.scratch <= has.scratch
            && asks.storage <= has.storage
            && asks.cpu <= has.cpu
            && asks.share <= has.share
            && asks.traffic <= has.traffic
            && asks.rate <= has.rate
            && asks.lifetime <= has.lifetime
            && asks.keep_awake <= has.keep_awake
            && asks.processes <= has.processes
            && asks.descriptors <= has.descriptors
            && asks.invocations <= has.invocations
            && asks.installs <= has.installs
            && asks.circuits <= has.circuits
            && asks.onion_services <= has.onion_services
            && CALLS.iter().all(|call| !asks.calls.iter().any(|one| one.matches(call)) || has.calls.iter().any(|one| one.matches(call)))
            && (asks.connect.rules().is_empty() || Some(asks.egress) == got || (asks.egress == has.egress && got.is_some()))
            && has.connect.first_uncovered(&asks.connect).is_none()
            && asks.syscalls.beyond(&has.syscalls).is_empty()
    }

    proptest! {
        #[test]
        fn a_grant_covers_what_it_has_and_never_more((parent, child) in parent_and_child(), way in prop_oneof![Just(Egress::Tor), Just(Egress::Direct)]) {
            // A policy that offers just what the parent needs, by one way or by its own.
            let egress = if parent.needs.egress == Egress::Any { way } else { parent.needs.egress };
            let mut offers = Offers { image: vec![parent.needs.image.clone(), child.needs.image.clone()], egress: vec![egress], ..Offers::default() };
            let needs = parent.needs.clone();
            (offers.memory, offers.scratch, offers.storage, offers.cpu) = (needs.memory, needs.scratch, needs.storage, needs.cpu);
            (offers.share, offers.traffic, offers.rate, offers.lifetime) = (needs.share, needs.traffic, needs.rate, needs.lifetime);
            (offers.keep_awake, offers.processes, offers.descriptors) = (needs.keep_awake, needs.processes, needs.descriptors);
            (offers.invocations, offers.installs, offers.calls) = (needs.invocations, needs.installs, needs.calls);
            (offers.circuits, offers.onion_services) = (needs.circuits, needs.onion_services);
            (offers.connect, offers.syscalls) = (needs.connect, needs.syscalls);
            let policy = Policy { offers };
            let grant = policy.admit(&parent).unwrap();
            prop_assert_eq!(grant.covers(&parent), Ok(()));
            prop_assert_eq!(grant.covers(&child).is_ok(), within(&parent.needs, grant.egress(), &child.needs), "{:?}", grant.covers(&child));
            // So nobody gets by way of a function what the node would not have given it itself.
            prop_assert!(grant.covers(&child).is_err() || policy.admit(&child).is_ok());
        }
    }
}
