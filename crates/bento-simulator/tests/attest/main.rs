//! What is judged of a simulator's evidence, and a host between a client and a conclave that tries everything.

mod host;
mod hostile;
mod judge;
#[path = "../shared/messages.rs"]
mod messages;
#[path = "../shared/report.rs"]
mod report;
mod snp;
mod stream;
mod support;
