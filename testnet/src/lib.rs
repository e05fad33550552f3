//! A private Tor network.
#![forbid(unsafe_code)]
