//! What one function was promised: the only key to a container.

use std::net::IpAddr;

use serde::{Deserialize, Serialize};

use crate::{
    call::CallPattern,
    exit_policy::ExitPolicy,
    manifest::{Egress, Manifest},
    refusal::Refusal,
    syscalls::{self, Syscalls},
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
    image: String,
    memory: Size,
    scratch: Size,
    cpu: Span,
    share: Share,
    traffic: Size,
    rate: Rate,
    lifetime: Span,
    processes: u32,
    descriptors: u32,
    invocations: u32,
    calls: Vec<CallPattern>,
    egress: Option<Egress>,
    connect: ExitPolicy,
    node_connect: ExitPolicy,
    syscalls: Syscalls,
}

/// A grant's amounts, as a node tells them to its client.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Granted {
    /// Address space.
    pub memory: Size,
    /// File system in memory.
    pub scratch: Size,
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
        let needs = manifest.needs.clone();
        Self {
            image: needs.image,
            memory: needs.memory,
            scratch: needs.scratch,
            cpu: needs.cpu,
            share: needs.share,
            traffic: needs.traffic,
            rate: needs.rate,
            lifetime: needs.lifetime,
            processes: needs.processes,
            descriptors: needs.descriptors,
            invocations: needs.invocations,
            calls: needs.calls,
            egress,
            connect: needs.connect,
            node_connect,
            syscalls: needs.syscalls,
        }
    }

    /// Which set of packages.
    pub fn image(&self) -> &str {
        &self.image
    }

    /// Address space of its process.
    pub fn memory(&self) -> Size {
        self.memory
    }

    /// Its file system in memory.
    pub fn scratch(&self) -> Size {
        self.scratch
    }

    /// CPU time over its whole life.
    pub fn cpu(&self) -> Span {
        self.cpu
    }

    /// Part of one processor core, averaged over a short time.
    pub fn share(&self) -> Share {
        self.share
    }

    /// Bytes of all its streams, both ways, over its whole life.
    pub fn traffic(&self) -> Size {
        self.traffic
    }

    /// Bytes of all its streams together, both ways, averaged over a second.
    pub fn rate(&self) -> Rate {
        self.rate
    }

    /// From install to the end.
    pub fn lifetime(&self) -> Span {
        self.lifetime
    }

    /// Threads at the same time.
    pub fn processes(&self) -> u32 {
        self.processes
    }

    /// Open descriptors at the same time.
    pub fn descriptors(&self) -> u32 {
        self.descriptors
    }

    /// Invocations at the same time.
    pub fn invocations(&self) -> u32 {
        self.invocations
    }

    /// The system calls that are open to it, as far as this machine has them; sorted.
    pub fn syscalls(&self) -> Vec<&'static str> {
        syscalls::on_this_machine(self.syscalls.names())
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
        if self.calls.iter().any(|pattern| pattern.matches(call)) { Ok(()) } else { Err(Refusal::Call(call.to_owned())) }
    }

    /// May it connect to this port of anything? Asked before a name is resolved.
    ///
    /// # Errors
    /// When no rule accepts the port.
    pub fn permits_port(&self, port: u16) -> Result<(), Refusal> {
        if self.connect.may_accept_port(port) && self.node_connect.may_accept_port(port) {
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
        if self.connect.accepts(address, port) && self.node_connect.accepts(address, port) {
            Ok(())
        } else {
            Err(Refusal::Destination { port })
        }
    }

    /// Its amounts, to be told.
    pub fn granted(&self) -> Granted {
        Granted {
            memory: self.memory,
            scratch: self.scratch,
            cpu: self.cpu,
            share: self.share,
            traffic: self.traffic,
            rate: self.rate,
            lifetime: self.lifetime,
            egress: self.egress,
        }
    }
}
