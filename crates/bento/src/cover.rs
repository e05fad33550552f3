//! The standard function `cover` from the client's side: a flow of one rate both ways, and questions that are asked in it; cover traffic that a node
//! sends through circuits of its own.
//!
//! All of a flow is fixed before its first byte: how many frames, of which size, and when each is due. What is carried changes none of it.

mod flow;
mod frame;
mod plan;
mod traffic;

pub use flow::{Asker, CoverError, Flow, FlowProgress, Reply};
pub use plan::{CoverPlan, Pace, PlanError};
pub use traffic::{CoverTraffic, Sent, Shape};
