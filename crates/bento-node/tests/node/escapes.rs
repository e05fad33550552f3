//! The part of the escape battery that needs a node: what a function, alone or with a client or a server of its own, tries to gain from
//! the node itself. Each is beside an act that must work. The walls of the jail are attacked in bento-jail's tests.
//!
//! All of it is run as the present user, and if that is root once more as an ordinary one.

mod frames;
mod neighbours;
mod ordinary;
mod streams;
mod tokens;
