//! A node with a simulated conclave, on loopback, with real jails: what a person does with it, and what a hostile host can do about it.
#![cfg(test)]

mod host;
mod hostile;
#[path = "../shared/messages.rs"]
mod messages;
mod people;
mod shards;
mod site;
mod wire;
mod world;
