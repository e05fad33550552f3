//! Bento over a private Tor network. All cases of this program share one network; `-- NAME` runs those whose name contains NAME.
//!
//! A case is a line in a `cases` list below: a sentence, and a function that is given the [`World`].

mod bento;
mod cases;
mod mirror;
mod world;

use std::process::ExitCode;
use std::sync::{Arc, OnceLock};

use libtest_mimic::{Arguments, Trial};
use world::{Case, World};

fn main() -> ExitCode {
    let arguments = Arguments::from_args();
    let cases: Vec<Case> = [
        cases::exits::CASES,
        cases::onion_services::CASES,
        cases::daemons::CASES,
        cases::functions::CASES,
        cases::pages::CASES,
        cases::offline::CASES,
        cases::drops::CASES,
        cases::kills::CASES,
        cases::faults::CASES,
        cases::shards::CASES,
        cases::stem::CASES,
        cases::broker::CASES,
        cases::orphans::CASES,
        cases::examples::CASES,
        cases::cover::CASES,
        cases::balance::CASES,
        cases::replicas::CASES,
        cases::conclaves::CASES,
    ]
    .concat();

    // The network comes up when the first case runs: listing the cases, or filtering all of them out, costs nothing.
    let shared: Arc<OnceLock<World>> = Arc::default();
    let trials = cases.into_iter().map(|(name, case)| {
        let shared = shared.clone();
        Trial::test(name, move || {
            let world = shared.get_or_init(World::new);
            world.run(name, case)
        })
    });
    let conclusion = libtest_mimic::run(&arguments, trials.collect());
    if let Some(world) = Arc::into_inner(shared).and_then(OnceLock::into_inner) {
        world.end();
    }
    conclusion.exit_code()
}
