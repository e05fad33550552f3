//! Jails that wait for functions, and functions that sleep.

use rustix::process::{Pid, Signal, kill_process};

use crate::support::{Node, PATIENCE, POLICY, descendants, installed_at, run, until};

/// Says who it is, and whether anybody was there before it.
const TRACES: &str = r"
import builtins, os

def look(api):
    left = os.listdir('/tmp')
    before = hasattr(builtins, 'left_behind')
    builtins.left_behind = True
    open('/tmp/left-behind', 'w').close()
    api.output.write(f'{before} {sorted(left)}'.encode())
";

/// Processes of functions, and those that wait to be one.
fn jails(node: &Node) -> Vec<u32> {
    let mut jails = descendants(node.pid(), "python3.11");
    jails.sort_unstable();
    jails
}

#[tokio::test]
async fn a_ready_jail_is_used_once_and_nothing_is_left_in_it_for_the_next() {
    let node = Node::start(POLICY, "[limits]\nready = 2");
    until("two jails are ready", || jails(&node).len() == 2).await;
    let ready = jails(&node);
    let mut used = Vec::new();
    for _ in 0..3 {
        let function = installed_at(node.address, "", TRACES).await;
        let all = jails(&node);
        used.extend(ready.iter().filter(|pid| all.contains(pid)).copied());
        let first = function.invoke("look", "{}").await;
        assert_eq!(first.body, "False ['function']");
        assert_eq!(function.invoke("look", "{}").await.body, "True ['function', 'left-behind']");
        assert_eq!(function.end().await.status, 204);
        // Its jail ended with it: what is there is either ready or on its way.
        until("its jail ends", || jails(&node).len() <= 2).await;
    }
    until("two new jails are ready", || jails(&node).len() == 2 && jails(&node).iter().all(|pid| !ready.contains(pid))).await;
}

#[tokio::test]
async fn a_kind_of_jail_is_kept_ready_from_its_second_use_and_no_more_than_there_is_room() {
    let node = Node::start(POLICY, "[limits]\nready = 2");
    until("two jails are ready", || jails(&node).len() == 2).await;
    let usual = jails(&node);
    // A new kind each time makes nobody else wait.
    for mib in 65..70 {
        assert_eq!(run(node.address, &format!("memory = '{mib} MiB'"), TRACES, "look", b"").await.status, 200);
    }
    until("only the ready ones are left", || jails(&node).len() == 2).await;
    assert_eq!(jails(&node), usual);
    for _ in 0..3 {
        assert_eq!(run(node.address, "memory = '70 MiB'", TRACES, "look", b"").await.status, 200);
    }
    until("other jails are ready", || jails(&node).len() == 2 && jails(&node) != usual).await;
}

#[tokio::test]
async fn a_ready_jail_that_was_killed_is_not_handed_out() {
    let node = Node::start(POLICY, "[limits]\nready = 2");
    until("two jails are ready", || jails(&node).len() == 2).await;
    for name in ["bento-jail", "python3.11"] {
        for pid in descendants(node.pid(), name) {
            let _ = kill_process(Pid::from_raw(i32::try_from(pid).unwrap()).unwrap(), Signal::KILL);
        }
        until("they are gone", || descendants(node.pid(), "python3.11").is_empty()).await;
        assert_eq!(run(node.address, "", TRACES, "look", b"").await.body, "False ['function']", "{name}");
        until("one is ready", || !jails(&node).is_empty()).await;
    }
}

#[tokio::test]
async fn ready_jails_that_were_killed_are_replaced_though_nobody_asks_for_one() {
    let node = Node::start(POLICY, "[limits]\nready = 2");
    until("two jails are ready", || jails(&node).len() == 2).await;
    let before = jails(&node);
    for pid in &before {
        let _ = kill_process(Pid::from_raw(i32::try_from(*pid).unwrap()).unwrap(), Signal::KILL);
    }
    until("two others are ready", || jails(&node).len() == 2 && jails(&node).iter().all(|pid| !before.contains(pid))).await;
    // And no more than that, however often it looks.
    tokio::time::sleep(std::time::Duration::from_millis(2500)).await;
    assert_eq!(jails(&node).len(), 2);
}

#[tokio::test]
async fn a_function_without_work_sleeps_and_wakes_for_the_next_invocation() {
    let node = Node::start(POLICY, "[limits]\nready = 0\nsleep = \"1 s\"");
    let code = format!("{TRACES}\nimport time\ndef wait(api):\n    time.sleep(3)\n    look(api)\n");
    let function = installed_at(node.address, "", &code).await;
    // Work of longer than that is no sleep.
    assert_eq!(function.invoke("wait", "{}").await.body, "False ['function']");
    assert!(function.status().await.awake);
    let cpu = function.status().await.cpu_used;
    until("it sleeps", || jails(&node).is_empty()).await;
    // Between its end and its sleep the node writes down what it used.
    let asleep = async {
        while function.status().await.awake {
            tokio::time::sleep(std::time::Duration::from_millis(10)).await;
        }
    };
    tokio::time::timeout(PATIENCE, asleep).await.expect("it is never asleep");
    assert!(function.status().await.cpu_used >= cpu);
    assert_eq!(function.invoke("look", "{}").await.body, "False ['function']");
    assert!(function.status().await.awake);
}

#[tokio::test]
async fn an_invocation_at_the_moment_of_falling_asleep_is_served() {
    let node = Node::start(POLICY, "[limits]\nready = 1\nsleep = \"1 ms\"");
    let function = installed_at(node.address, "cpu = '20 s'", TRACES).await;
    for _ in 0..60 {
        let answer = function.invoke("look", "{}").await;
        assert_eq!(answer.status, 200, "{:?}", answer.body);
    }
}
