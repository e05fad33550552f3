//! The cases, by what they are about.

pub(crate) mod balance;
pub(crate) mod broker;
pub(crate) mod conclaves;
pub(crate) mod cover;
pub(crate) mod daemons;
pub(crate) mod drops;
pub(crate) mod examples;
pub(crate) mod exits;
pub(crate) mod faults;
pub(crate) mod functions;
pub(crate) mod kills;
pub(crate) mod offline;
pub(crate) mod onion_services;
pub(crate) mod orphans;
pub(crate) mod pages;
pub(crate) mod replicas;
pub(crate) mod shards;
pub(crate) mod stem;
