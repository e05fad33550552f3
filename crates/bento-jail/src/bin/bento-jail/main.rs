//! Puts up the walls around a function and starts it inside. See the library for what is said on which descriptor.
//!
//! Two processes: the one that was started stays outside, waits, and reports; the one it clones walls itself in and becomes the function.
//!
//! ```text
//! bento-jail            read a spec on descriptor 0, put up the jail, report on descriptor 1
//! bento-jail --check    put up a jail for a probe, and print for each wall whether it holds
//! ```

mod check;
mod filter;
mod inside;
mod limits;
mod mounts;
mod outside;
mod probe;
mod refusal;
mod rights;
mod seal;
mod shortcut;
mod sys;

use std::process::ExitCode;

fn main() -> ExitCode {
    let mut arguments = std::env::args_os().skip(1);
    match (arguments.next(), arguments.next()) {
        (None, None) => outside::run(),
        (Some(argument), None) if argument == "--check" => check::run(),
        (Some(argument), None) if argument == probe::ARGUMENT => probe::run(),
        _ => {
            eprintln!("usage: bento-jail [--check]\nIt is started by bentod; `bentod check` says what this machine enforces.");
            ExitCode::from(2)
        }
    }
}
