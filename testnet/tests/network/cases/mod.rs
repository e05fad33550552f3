//! The cases, by what they are about.

pub(crate) mod daemons;
pub(crate) mod exits;
pub(crate) mod onion_services;
