//! Who may speak, how much, and what is refused.

use super::*;

#[tokio::test]
async fn nothing_is_answered_before_it_is_authenticated() {
    let (_, view) = view(&[]);
    let mut script = Script::connect(&view);
    let info = "250-PROTOCOLINFO 1\n250-AUTH METHODS=NULL\n250-VERSION Tor=\"0.4.9.11\"\n250 OK";
    assert_eq!(script.ask("PROTOCOLINFO 1").await, info);
    assert_eq!(script.ask("AUTHENTICATE \"x\"").await, "250 OK");
    assert_eq!(script.ask("PROTOCOLINFO 1").await, info);
    assert_eq!(script.ask("QUIT").await, "250 closing connection");
    assert_eq!(script.message().await, None);
    for (first, reply) in [
        ("GETINFO version", "514 Authentication required."),
        ("NONSENSE", "514 Authentication required."),
        ("AUTHCHALLENGE SAFECOOKIE 00", "515 Cookie authentication is disabled"),
    ] {
        let mut script = Script::connect(&view);
        assert_eq!(script.ask(first).await, reply);
        assert_eq!(script.message().await, None, "{first}");
    }
}

#[tokio::test]
async fn two_functions_see_nothing_of_each_other() {
    let ((_, one), (fake, other)) = (view(&[]), view(&[]));
    let mut victim = Script::start(&one).await;
    assert_eq!(victim.ask("SETEVENTS CIRC STREAM HS_DESC").await, "250 OK");
    assert_eq!(victim.ask("EXTENDCIRCUIT 0 middle1,exit2").await, "250 EXTENDED 1");
    let added = victim.ask("ADD_ONION NEW:BEST Port=80").await;
    assert_eq!(added, format!("250-ServiceID={SERVICE}\n250-PrivateKey=ED25519-V3:secret\n250 OK"));
    let mut hostile = Script::start(&other).await;
    assert_eq!(hostile.ask("SETEVENTS CIRC STREAM HS_DESC").await, "250 OK");
    for (command, reply) in [
        (
            "GETINFO circuit-status stream-status onions/current onions/detached",
            "250-circuit-status=\n250-stream-status=\n250-onions/current=\n250-onions/detached=\n250 OK",
        ),
        ("CLOSECIRCUIT 1", "552 Unknown circuit \"1\""),
        ("EXTENDCIRCUIT 1 exit2", "552 Unknown circuit \"1\""),
        ("SETCIRCUITPURPOSE 1 purpose=controller", "552 Unknown circuit \"1\""),
        ("ATTACHSTREAM 1 1", "552 Unknown stream \"1\""),
        ("CLOSESTREAM 1 1", "552 Unknown stream \"1\""),
        (&format!("DEL_ONION {SERVICE}"), "552 Unknown Onion Service id"),
        (&format!("GETINFO hs/client/desc/id/{SERVICE}"), "551 Not found in cache"),
        (&format!("GETINFO hs/service/desc/id/{SERVICE}"), &format!("552 Unrecognized key \"hs/service/desc/id/{SERVICE}\"")),
    ] {
        assert_eq!(hostile.ask(command).await, reply, "{command}");
    }
    assert_eq!((hostile.events.len(), fake.did().len()), (0, 0));
    assert!(victim.ask("GETINFO circuit-status").await.starts_with("250-circuit-status=1 BUILT "));
}

#[tokio::test]
async fn what_was_not_granted_is_refused_before_the_broker_hears_of_it() {
    let all = [
        "tor.path",
        "tor.circuit",
        "tor.extend",
        "tor.onion_service",
        "tor.descriptor",
        "tor.publish",
        "tor.relays",
        "tor.events",
        "tor.consensus",
    ];
    let (fake, view) = view(&all);
    let mut script = Script::start(&view).await;
    for (command, call) in [
        ("EXTENDCIRCUIT 0 middle1,exit2", "tor.path"),
        ("EXTENDCIRCUIT 0", "tor.circuit"),
        ("EXTENDCIRCUIT 1 exit2", "tor.extend"),
        ("ADD_ONION NEW:BEST Port=80", "tor.onion_service"),
        (&format!("HSFETCH {SERVICE}"), "tor.descriptor"),
        (&format!("+HSPOST HSADDRESS={SERVICE}\r\nhs-descriptor 3\r\n."), "tor.publish"),
        ("GETINFO ns/all", "tor.relays"),
        ("GETINFO md/all", "tor.relays"),
        ("GETINFO consensus/valid-after", "tor.consensus"),
        ("SETEVENTS SIGNAL CIRC", "tor.events"),
    ] {
        assert_eq!(script.ask(command).await, format!("551 it may not {call}"), "{command}");
    }
    assert_eq!(fake.did(), [""; 0]);
    // What Stem asks for by itself is no part of any call.
    assert_eq!(script.ask("SETEVENTS SIGNAL CONF_CHANGED STATUS_SERVER").await, "250 OK");
    assert_eq!(script.ask("GETINFO version").await, "250-version=0.4.9.11\n250 OK");
}

#[tokio::test]
async fn a_second_line_is_a_second_command_and_never_more_than_a_command() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("GETINFO version\r\nSIGNAL SHUTDOWN").await, "250-version=0.4.9.11\n250 OK");
    assert_eq!(script.message().await.unwrap(), "552 Unrecognized signal code \"SHUTDOWN\"");
    for garbled in ["EXTENDCIRCUIT 0 middle1\rSIGNAL HALT", "EXTENDCIRCUIT 0 middle1\0", "EXTENDCIRCUIT 0 m\u{e4}dle"] {
        assert_eq!(script.ask(garbled).await, "500 Syntax error: a command is printable ASCII");
    }
    assert_eq!(script.ask(&format!("GETINFO {}", "x".repeat(8192))).await, "500 Syntax error: the command is too long");
    assert_eq!(script.message().await, None);
    assert_eq!(fake.did(), [""; 0]);
}

#[tokio::test]
async fn a_function_has_only_so_many_connections() {
    let (_, view) = view(&[]);
    let mut scripts = Vec::new();
    for _ in 0..8 {
        scripts.push(Script::start(&view).await);
    }
    let mut one_more = Script::connect(&view);
    assert_eq!(one_more.message().await, None);
    drop(scripts.pop());
    while view.sessions.available_permits() == 0 {
        tokio::task::yield_now().await;
    }
    Script::start(&view).await;
}
