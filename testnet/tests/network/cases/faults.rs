//! A short run of `testnet faults`. The long one is `bench/run faults`.

use std::{process::Stdio, time::Duration};

use testnet::binary;
use tokio::process::Command;

use crate::world::{Case, Outcome, World, case};

pub(crate) const CASES: &[Case] =
    &[case!("nothing_is_lost_and_nothing_is_left_when_parts_of_a_node_are_killed_at_random_moments", killed_at_random)];

/// One of each kind first, then some more of the quick ones. Always the same choices; other ones are for `bench/run faults`.
const ROUNDS: &str = "15";
const SEED: &str = "1";

/// A busy machine begins no further round after this.
const SECONDS: &str = "40";

/// A round that began just in time may have to wait until clients reach the node again.
const DEADLINE: Duration = Duration::from_secs(200);

async fn killed_at_random(world: &World) -> Outcome {
    // A program of its own: it becomes the parent of all that is orphaned below it.
    let mut command = Command::new(binary("testnet")?);
    command.args(["faults", "--rounds", ROUNDS, "--seconds", SECONDS, "--seed", SEED, "--torrc"]).arg(world.network.torrc_file()?);
    command.args(["--socks", &world.network.client_socks().to_string()]);
    command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).kill_on_drop(true);
    let output = tokio::time::timeout(DEADLINE, command.output()).await??;
    let (said, told) = (String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr));
    if output.status.success() && said.contains("nothing was lost, and nothing was left") {
        Ok(())
    } else {
        Err(format!("{said}{told}").into())
    }
}
