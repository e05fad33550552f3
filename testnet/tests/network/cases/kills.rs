//! Things that die in the middle.

use std::{process::Stdio, time::Duration};

use rustix::process::{Pid, Signal, kill_process};
use testnet::bento::Node;
use tokio::io::AsyncReadExt;

use crate::{
    bento::{Person, shipped},
    world::{Case, Outcome, World, case},
};

pub(crate) const CASES: &[Case] = &[
    case!("a_node_whose_tor_dies_comes_back_with_its_address_and_its_functions", tor_dies),
    case!("a_node_that_dies_in_the_middle_is_told_and_leaves_nothing", node_dies),
];

const WAIT: &str = "import time\ndef wait(api):\n    api.output.write(b'begun')\n    time.sleep(300)\n";

/// Processes below one, by name.
pub(crate) fn below(root: u32, name: &str) -> Vec<u32> {
    let mut found = Vec::new();
    let mut left = vec![root];
    while let Some(pid) = left.pop() {
        if std::fs::read_to_string(format!("/proc/{pid}/comm")).is_ok_and(|comm| comm.trim() == name) {
            found.push(pid);
        }
        let Ok(tasks) = std::fs::read_dir(format!("/proc/{pid}/task")) else { continue };
        for task in tasks.flatten() {
            let children = std::fs::read_to_string(task.path().join("children")).unwrap_or_default();
            left.extend(children.split_whitespace().filter_map(|pid| pid.parse::<u32>().ok()));
        }
    }
    found
}

pub(crate) fn kill(pid: u32) -> Outcome {
    let pid = i32::try_from(pid).ok().and_then(Pid::from_raw).ok_or("no pid")?;
    Ok(kill_process(pid, Signal::KILL)?)
}

fn is_there(pid: u32) -> bool {
    std::fs::read_to_string(format!("/proc/{pid}/stat")).is_ok_and(|stat| !stat.contains(") Z "))
}

async fn tor_dies(world: &World) -> Outcome {
    let person = Person::new(world, "tor-dies");
    let mut node = Node::start(&world.network, &world.scratch.path().join("node-mortal"), "Mortal", "tor", "").await?;
    person.bento(&["nodes", "add", "mortal", &node.address]).await.good();
    person.bento(&["install", "mortal", &shipped("hello")]).await.good();
    let tor = below(node.program.pid(), "tor");
    assert_eq!(tor.len(), 1, "{tor:?}");
    kill(tor[0])?;
    let line = node.program.wait_for_line(|line| line.contains("published address="), Duration::from_secs(60)).await?;
    assert!(line.contains(&node.address), "{line}");
    // Clients still know where it was; its descriptor is soon renewed, and the client tries again by itself.
    let mut said = person.bento(&["invoke", "hello", "hello", "name=again"]).await;
    for _ in 0..5 {
        if said.status == Some(0) {
            break;
        }
        said = person.bento(&["invoke", "hello", "hello", "name=again"]).await;
    }
    assert_eq!(said.good().text(), "Hello, again!\n");
    node.program.stop().await;
    Ok(())
}

async fn node_dies(world: &World) -> Outcome {
    let person = Person::new(world, "node-dies");
    let node = Node::start(&world.network, &world.scratch.path().join("node-killed"), "Killed", "tor", "").await?;
    let function = person.function("waiter", "lifetime = '10 min'", WAIT);
    let mut waiting = person.command(&["run", &node.address, &function, "wait"]).stdin(Stdio::null()).spawn()?;
    let mut begun = [0; 5];
    let mut stdout = waiting.stdout.take().ok_or("no stdout")?;
    tokio::time::timeout(Duration::from_secs(60), stdout.read_exact(&mut begun)).await??;
    assert_eq!(&begun, b"begun");
    let left: Vec<u32> = ["bento-jail", "python3.11", "tor"].iter().flat_map(|name| below(node.program.pid(), name)).collect();
    assert!(left.len() >= 3, "{left:?}");
    node.program.kill().await;
    let ended = tokio::time::timeout(Duration::from_secs(60), waiting.wait_with_output()).await??;
    let stderr = String::from_utf8_lossy(&ended.stderr);
    assert!(!ended.status.success() && stderr.contains("Error: ") && stderr.contains("Hint: "), "{stderr}");
    // The kernel ends the jails and tor notices by itself; neither sends an event to us.
    for _ in 0..1000 {
        if !left.iter().any(|pid| is_there(*pid)) {
            return Ok(());
        }
        tokio::time::sleep(Duration::from_millis(20)).await;
    }
    Err(format!("still there: {left:?}").into())
}
