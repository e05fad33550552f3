//! A node that is killed while its Tor goes on, since it is not its own.

use std::time::Duration;

use bento_tor::{CircuitStatus, Controller};
use serde_json::json;
use testnet::bento::{Node, SharedTor};
use tokio::time::{Instant, sleep};

use super::broker::{CODE, Going, NEEDS, path, run};
use crate::{
    bento::{LENT, Person},
    mirror::Mirror,
    world::{Case, Error, Outcome, World, case},
};

pub(crate) const CASES: &[Case] = &[case!("what_functions_had_at_a_tor_that_outlives_its_node_is_ended_when_the_node_is_back", outlived)];

const DEADLINE: Duration = Duration::from_secs(30);

/// Circuits that controllers of this `tor` have made and that are built, by their relays.
async fn circuits(tor: &Controller) -> Result<Vec<Vec<String>>, Error> {
    let all = tor.circuits().await?;
    let made = all.into_iter().filter(|circuit| circuit.purpose == "CONTROLLER" && circuit.status == CircuitStatus::Built);
    Ok(made.map(|circuit| circuit.path.iter().map(|hop| hop.fingerprint.to_string()).collect()).collect())
}

/// Waits until there are exactly these.
async fn there(tor: &Controller, expected: &[Vec<String>]) -> Outcome {
    let end = Instant::now() + DEADLINE;
    // Tor tells each controller of its own circuits alone; to ask again is simpler.
    loop {
        let mut found = circuits(tor).await?;
        found.sort();
        if found == expected {
            return Ok(());
        }
        if Instant::now() > end {
            return Err(format!("there are {found:?}, and not {expected:?}").into());
        }
        sleep(Duration::from_millis(50)).await;
    }
}

async fn outlived(world: &World) -> Outcome {
    let (person, mirror) = (Person::new(world, "orphans"), Mirror::start(world).await?);
    let shared = SharedTor::start(&world.network, &world.scratch.path().join("outliving")).await?;
    let tor = shared.control();
    let node = Node::start_beside(&world.network, &shared, &world.scratch.path().join("node-orphans"), "Orphans", "tor", LENT).await?;
    let (its, others) = (path(world, &["middle1", "middle2", "exit1"]), path(world, &["middle2", "middle3"]));
    // The neighbour: somebody else's circuit at the same Tor, and an order of theirs.
    let relays: Vec<_> = others.iter().map(|relay| relay.parse()).collect::<Result<_, _>>()?;
    tor.extend_circuit(None, &relays, |_| Vec::new()).await?;
    let function = person.function("orphan", NEEDS, CODE);
    let arguments = json!({"path": its, "host": "127.80.0.9", "port": mirror.address.port()});
    let mut holding = Going::start(&person, &node.address, &function, "hold", &arguments)?;
    let has = holding.said().await?;
    let mut both = [its.clone(), others.clone()];
    both.sort();
    there(&tor, &both).await?;
    node.program.kill().await;
    drop(holding);
    // Tor goes on with all of it, and may be leaving streams unattached, for as long as nobody tells it.
    let left = tor.get_conf("__LeaveStreamsUnattached").await?;
    eprintln!("testnet: the killed node left __LeaveStreamsUnattached {left:?}");
    there(&tor, &both).await?;
    let node = Node::start_again("Orphans", &node.config).await?;
    there(&tor, &[others]).await?;
    assert_eq!(tor.get_conf("__LeaveStreamsUnattached").await?, ["0"]);
    // Its onion service ended with its control connection, and the node is as good as before.
    let address = has["address"].as_str().ok_or("no address")?;
    assert!(!tor.get_info("onions/detached").await?.contains(address.trim_end_matches(".onion")));
    assert_eq!(run(&person, &node.address, &function, "through", &arguments).await[0]["body"], "exit1");
    node.program.stop().await;
    shared.stop().await;
    Ok(())
}
