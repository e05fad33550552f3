//! Circuits, and the directory that they are chosen from.

use super::*;

#[tokio::test]
async fn a_circuit_is_numbered_at_once_and_told_hop_by_hop() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS CIRC CIRC_MINOR").await, "250 OK");
    assert_eq!(script.ask(&format!("EXTENDCIRCUIT 0 middle1,${EXIT} purpose=general")).await, "250 EXTENDED 1");
    let (one, two) = (format!("${MIDDLE}~middle1"), format!("${MIDDLE}~middle1,${EXIT}~exit2"));
    assert_eq!(script.event().await, "650 CIRC 1 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, format!("650 CIRC 1 EXTENDED {one} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 1 EXTENDED {two} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 1 BUILT {two} PURPOSE=GENERAL"));
    assert_eq!(script.ask("SETCIRCUITPURPOSE 1 purpose=controller").await, "250 OK");
    assert_eq!(script.event().await, format!("650 CIRC_MINOR 1 PURPOSE_CHANGED {two} PURPOSE=CONTROLLER OLD_PURPOSE=GENERAL"));
    assert!(script.ask("GETINFO circuit-status").await.starts_with(&format!("250-circuit-status=1 BUILT {two} PURPOSE=CONTROLLER TIME_")));
    assert_eq!(fake.did(), [format!("path {MIDDLE},{EXIT}")]);
    assert_eq!(script.ask("CLOSECIRCUIT 1").await, "250 OK");
    assert_eq!(script.event().await, format!("650 CIRC 1 CLOSED {two} PURPOSE=CONTROLLER REASON=REQUESTED"));
    assert_eq!(fake.did(), ["close 1"]);
    assert_eq!(script.ask("CLOSECIRCUIT 1").await, "552 Unknown circuit \"1\"");
    assert_eq!(script.ask("GETINFO circuit-status").await, "250-circuit-status=\n250 OK");
    // One that cannot be built, and one that ends by itself.
    assert_eq!(script.ask("EXTENDCIRCUIT 0 exit2,exit2").await, "250 EXTENDED 2");
    assert_eq!(script.event().await, "650 CIRC 2 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, "650 CIRC 2 FAILED PURPOSE=GENERAL REASON=TIMEOUT");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 middle1").await, "250 EXTENDED 3");
    assert_eq!(script.event().await, "650 CIRC 3 LAUNCHED PURPOSE=GENERAL");
    assert_eq!(script.event().await, format!("650 CIRC 3 EXTENDED {one} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 3 BUILT {one} PURPOSE=GENERAL"));
    assert_eq!(script.ask("EXTENDCIRCUIT 3 exit2").await, "250 EXTENDED 3");
    assert_eq!(script.event().await, format!("650 CIRC 3 EXTENDED {two} PURPOSE=GENERAL"));
    assert_eq!(script.event().await, format!("650 CIRC 3 BUILT {two} PURPOSE=GENERAL"));
    assert_eq!(fake.did()[1..], [format!("path {MIDDLE}"), format!("extend 3 {EXIT}")]);
    fake.happen(change(3, "CLOSED", &[MIDDLE, EXIT], Some("DESTROYED"))).await;
    assert_eq!(script.event().await, format!("650 CIRC 3 CLOSED {two} PURPOSE=GENERAL REASON=DESTROYED"));
}

#[tokio::test]
async fn no_more_circuits_than_the_broker_gives() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    for id in 1..=4 {
        assert_eq!(script.ask("EXTENDCIRCUIT 0").await, format!("250 EXTENDED {id}"));
    }
    assert_eq!(script.ask("EXTENDCIRCUIT 0").await, "551 the function may have 4 circuits");
    // What is told of a circuit after it was closed makes no new one.
    assert_eq!(script.ask("CLOSECIRCUIT 2").await, "250 OK");
    fake.happen(change(2, "CLOSED", &[MIDDLE, EXIT], Some("REQUESTED"))).await;
    fake.happen(change(9, "LAUNCHED", &[], None)).await;
    while !script.ask("GETINFO circuit-status").await.contains("9 LAUNCHED") {}
    assert!(!script.ask("GETINFO circuit-status").await.contains("\n2 "));
}

#[tokio::test]
async fn the_directory_is_there_as_tor_has_it() {
    let (_, view) = view(&[]);
    let mut script = Script::start(&view).await;
    let exit = STATUSES.split("w Bandwidth=1\n").nth(1).unwrap().trim_end();
    assert_eq!(script.ask("GETINFO ns/all").await, format!("250+ns/all=\n{}.\n250 OK", STATUSES));
    assert_eq!(script.ask("GETINFO ns/name/exit2").await, format!("250+ns/name/exit2=\n{exit}\n.\n250 OK"));
    assert_eq!(script.ask(&format!("GETINFO ns/id/${EXIT}")).await, format!("250+ns/id/${EXIT}=\n{exit}\n.\n250 OK"));
    assert_eq!(script.ask("GETINFO md/name/exit2").await, "250+md/name/exit2=\nonion-key\nid ed25519 y\n.\n250 OK");
    assert_eq!(script.ask("GETINFO consensus/valid-after").await, "250-consensus/valid-after=2026-11-28 00:24:30\n250 OK");
    for (key, reply) in [
        ("ns/name/nobody", "552 Unrecognized key \"ns/name/nobody\""),
        ("ns/id/xx", "551 Data not decodeable as hex"),
        ("md/name/middle1", "552 Unrecognized key \"md/name/middle1\""),
        ("desc/name/exit2", "552 We fetch microdescriptors, not router descriptors. You'll need to use md/name/* instead of desc/name/*."),
        ("fingerprint", "551 Not running in server mode"),
        ("address", "551 Address unknown"),
        ("config-text", "552 Unrecognized key \"config-text\""),
        ("version entry-guards orconn-status", "552-Unrecognized key \"entry-guards\"\n552 Unrecognized key \"orconn-status\""),
        ("", "250 OK"),
    ] {
        assert_eq!(script.ask(&format!("GETINFO {key}")).await, reply);
    }
}
