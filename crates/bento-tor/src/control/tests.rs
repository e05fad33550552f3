use tokio::io::{AsyncReadExt, AsyncWriteExt, DuplexStream};

use super::wire::Assembler;
use super::*;

/// A controller, and the end that plays Tor.
fn fake() -> (Controller, DuplexStream) {
    let (ours, its) = tokio::io::duplex(64 * 1024);
    (Controller::over(ours), its)
}

/// Reads one command line.
async fn line(tor: &mut DuplexStream) -> String {
    let mut text = String::new();
    while !text.ends_with("\r\n") {
        text.push(char::from(tor.read_u8().await.unwrap()));
    }
    text.trim_end().to_owned()
}

fn whole(bytes: &[u8], piece: usize) -> Vec<Reply> {
    let mut assembler = Assembler::default();
    let mut replies = Vec::new();
    for piece in bytes.chunks(piece) {
        assembler.push(piece);
        while let Some(reply) = assembler.next().unwrap() {
            replies.push(reply);
        }
    }
    replies
}

const MIXED: &[u8] = b"250-version=0.4.9.11\r\n250 OK\r\n\
    650 STATUS_CLIENT NOTICE BOOTSTRAP PROGRESS=5 TAG=conn SUMMARY=\"Connecting to a relay\"\r\n\
    250+config-text=\r\nControlPort 9051\r\n..dotted\r\n650 not an event\r\n.\r\n250 OK\r\n\
    650+NEWCONSENSUS\r\nr alpha\r\n.\r\n650 OK\r\n\
    552 Unrecognized key \"x\"\r\n";

#[test]
fn replies_are_the_same_wherever_the_bytes_are_split() {
    let expected = whole(MIXED, MIXED.len());
    assert_eq!(expected.len(), 5);
    assert_eq!(expected[2].lines[0].data.as_deref(), Some("ControlPort 9051\n.dotted\n650 not an event\n"));
    assert!(expected[1].is_event() && expected[3].is_event() && !expected[2].is_event());
    assert_eq!((expected[4].code(), expected[4].text()), (552, "Unrecognized key \"x\""));
    for piece in 1..MIXED.len() {
        assert_eq!(whole(MIXED, piece), expected, "pieces of {piece}");
    }
}

#[test]
fn garbage_is_refused_and_bounded() {
    for garbage in ["HTTP/1.1 400 Bad Request\r\n", "\r\n", "25\r\n", "250\r\n", "250_OK\r\n", "2\u{e9}0 OK\r\n"] {
        let mut assembler = Assembler::default();
        assembler.push(garbage.as_bytes());
        assert!(assembler.next().is_err(), "{garbage:?}");
    }
    let mut assembler = Assembler::default();
    let refused = (0..40).any(|_| {
        assembler.push(&[b'a'; 64 * 1024]);
        assembler.next().is_err()
    });
    assert!(refused, "a line without end must not fill the memory");
}

#[test]
fn quoted_strings_come_back_as_they_were() {
    for text in ["", "plain", "two words", r#"a "quoted" \ back"#] {
        assert_eq!(wire::unquote(&wire::quote(text).unwrap()), text);
    }
    assert_eq!(wire::unquote(r#""\303\274\n\"""#), "\u{fc}\n\"");
    assert_eq!(wire::unquote(r#""ends with \""#), "ends with ");
    assert!(wire::quote("a\r\nSIGNAL HALT").is_err());
    let words: Vec<_> = wire::words(r#"A  B="c \" d" E"#).collect();
    assert_eq!(words, ["A", r#"B="c \" d""#, "E"]);
}

#[test]
fn bootstrap_phases_are_read_and_other_events_are_not() {
    let now = Bootstrap::parse(
        "WARN BOOTSTRAP PROGRESS=10 TAG=conn_done SUMMARY=\"Connected to a relay\" \
         WARNING=\"Network is unreachable\" REASON=NOROUTE HOSTADDR=\"192.0.2.1:443\"",
    );
    let now = now.unwrap();
    assert_eq!((now.percent, now.tag.as_str(), now.summary.as_str()), (10, "conn_done", "Connected to a relay"));
    assert_eq!(now.trouble.as_deref(), Some("Network is unreachable"));
    assert!(!now.is_done());
    assert_eq!(Bootstrap::parse("NOTICE CIRCUIT_ESTABLISHED"), None);
    assert_eq!(Bootstrap::parse("NOTICE BOOTSTRAP PROGRESS=101 TAG=x"), None);
    assert_eq!(Bootstrap::parse(""), None);
}

#[tokio::test]
async fn commands_that_overlap_get_their_own_replies_with_events_between() {
    let (controller, mut tor) = fake();
    let peer = tokio::spawn(async move {
        assert_eq!(line(&mut tor).await, "SETEVENTS CIRC");
        tor.write_all(b"250 OK\r\n650 CIRC 1 LAUNCHED PURPOSE=GENERAL\r\n650 STREAM 3 NEW\r\n").await.unwrap();
        let mut lines = [line(&mut tor).await, line(&mut tor).await];
        for line in &lines {
            let key = line.strip_prefix("GETINFO ").unwrap();
            tor.write_all(format!("250-{key}=value of {key}\r\n250 OK\r\n650 CIRC 1 EXTENDED $A\r\n").as_bytes()).await.unwrap();
        }
        lines.sort();
        assert_eq!(lines, ["GETINFO a", "GETINFO b"]);
        tor
    });
    let mut events = controller.events(&["circ"]).await.unwrap();
    let (a, b) = tokio::join!(controller.get_info("a"), controller.get_info("b"));
    assert_eq!((a.unwrap(), b.unwrap()), ("value of a".into(), "value of b".into()));
    let first = events.next().await.unwrap();
    assert_eq!((first.kind.as_str(), first.text.as_str()), ("CIRC", "1 LAUNCHED PURPOSE=GENERAL"));
    assert_eq!(first.field("PURPOSE").as_deref(), Some("GENERAL"));
    assert_eq!(events.next().await.unwrap().words().nth(1), Some("EXTENDED"));
    drop(peer.await.unwrap());
    assert_eq!(events.next().await.unwrap().words().nth(1), Some("EXTENDED"));
    assert!(matches!(events.next().await, Err(ControlError::Closed)));
    assert!(matches!(controller.get_info("c").await, Err(ControlError::Closed)));
}

#[tokio::test]
async fn a_refusal_names_the_command_but_not_its_arguments() {
    let (controller, mut tor) = fake();
    let peer = tokio::spawn(async move {
        let line = line(&mut tor).await;
        tor.write_all(b"512 Invalid key\r\n").await.unwrap();
        (line, tor)
    });
    let mut service = OnionService::new(80, Target::Tcp(([127, 0, 0, 1], 1).into()));
    service.key = Some("ED25519-V3:secret".into());
    let error = controller.add_onion(&service).await.unwrap_err();
    assert_eq!(error.to_string(), "Tor refused ADD_ONION: 512 Invalid key");
    assert_eq!(peer.await.unwrap().0, "ADD_ONION ED25519-V3:secret Port=80,127.0.0.1:1");
}

#[tokio::test(start_paused = true)]
async fn tor_that_never_answers_meets_the_deadline_and_a_late_reply_is_not_mistaken() {
    let (controller, mut tor) = fake();
    let error = controller.get_info("a").await.unwrap_err();
    assert!(matches!(&error, ControlError::Deadline { command, .. } if command == "GETINFO"), "{error}");
    assert_eq!(line(&mut tor).await, "GETINFO a");
    let later = tokio::spawn(async move { controller.get_info("b").await });
    assert_eq!(line(&mut tor).await, "GETINFO b");
    tor.write_all(b"250-a=1\r\n250 OK\r\n250-b=2\r\n250 OK\r\n").await.unwrap();
    assert_eq!(later.await.unwrap().unwrap(), "2");
}

#[tokio::test]
async fn a_peer_that_breaks_the_protocol_is_left() {
    let (controller, mut tor) = fake();
    let asked = tokio::spawn({
        let controller = controller.clone();
        async move { controller.get_info("a").await }
    });
    line(&mut tor).await;
    tor.write_all(b"<html>\r\n").await.unwrap();
    assert!(matches!(asked.await.unwrap(), Err(ControlError::Protocol(_))));
    assert!(matches!(controller.get_info("b").await, Err(ControlError::Closed)));

    let (controller, mut tor) = fake();
    tor.write_all(b"250 OK\r\n").await.unwrap();
    controller.closed().await;
}

#[tokio::test]
async fn no_argument_can_carry_a_second_command() {
    let (controller, _tor) = fake();
    let bad = |error| matches!(error, Err(ControlError::Argument(_)));
    assert!(bad(controller.command("GETINFO a\r\nSIGNAL HALT").await.map(drop)));
    assert!(bad(controller.get_info("a b").await.map(drop)));
    assert!(bad(controller.get_info("a\r\nb").await.map(drop)));
    assert!(bad(controller.set_conf(&[("Log", Some("a\nb"))]).await));
    assert!(bad(controller.del_onion("a b").await));
    assert!(bad(controller.events(&["CIRC STREAM"]).await.map(drop)));
}

#[tokio::test]
async fn options_and_data_are_written_as_tor_reads_them() {
    let (controller, mut tor) = fake();
    let peer = tokio::spawn(async move {
        let mut seen = vec![line(&mut tor).await];
        tor.write_all(b"250 OK\r\n").await.unwrap();
        seen.push(line(&mut tor).await);
        tor.write_all(b"250-Log=notice stdout\r\n250 Log=\"info file /a b\"\r\n").await.unwrap();
        seen.push(line(&mut tor).await);
        tor.write_all(b"250 ExitNodes\r\n").await.unwrap();
        for _ in 0..4 {
            seen.push(line(&mut tor).await);
        }
        tor.write_all(b"250 OK\r\n").await.unwrap();
        seen
    });
    controller.set_conf(&[("Nickname", Some("a \"b\"")), ("ExitNodes", None)]).await.unwrap();
    assert_eq!(controller.get_conf("Log").await.unwrap(), ["notice stdout", "info file /a b"]);
    assert!(controller.get_conf("ExitNodes").await.unwrap().is_empty());
    controller.command_with_data("+POSTDESCRIPTOR", "one\n.two\n").await.unwrap();
    assert_eq!(
        peer.await.unwrap(),
        ["SETCONF Nickname=\"a \\\"b\\\"\" ExitNodes", "GETCONF Log", "GETCONF ExitNodes", "+POSTDESCRIPTOR", "one", "..two", "."]
    );
}

#[tokio::test]
async fn a_reader_that_is_too_slow_is_told_what_it_lost() {
    let (controller, mut tor) = fake();
    let peer = tokio::spawn(async move {
        line(&mut tor).await;
        tor.write_all(b"250 OK\r\n").await.unwrap();
        for number in 0..EVENTS_MAX + 10 {
            tor.write_all(format!("650 CIRC {number} BUILT\r\n").as_bytes()).await.unwrap();
        }
        line(&mut tor).await;
        tor.write_all(b"250-a=1\r\n250 OK\r\n").await.unwrap();
        tor
    });
    let mut events = controller.events(&["CIRC"]).await.unwrap();
    controller.get_info("a").await.unwrap();
    let _tor = peer.await.unwrap();
    assert!(matches!(events.next().await, Err(ControlError::EventsLost(10))));
    assert_eq!(events.next().await.unwrap().text, "10 BUILT");
}

#[tokio::test]
async fn an_exit_policy_is_read_in_one_line_or_many_and_its_lack_is_told() {
    let (controller, mut tor) = fake();
    let peer = tokio::spawn(async move {
        let replies: [&[u8]; 4] = [
            b"250+exit-policy/full=\r\naccept *:80\r\naccept6 *:80\r\nreject *:*\r\nreject6 *:*\r\n.\r\n250 OK\r\n",
            b"250-exit-policy/full=reject *:25,accept *:*\r\n250 OK\r\n",
            b"551 Descriptor still rebuilding - not ready yet\r\n",
            b"250-exit-policy/ipv4=reject *:*\r\n250 OK\r\n",
        ];
        for reply in replies {
            assert_eq!(line(&mut tor).await, "GETINFO exit-policy/full");
            tor.write_all(reply).await.unwrap();
        }
        tor
    });
    assert_eq!(controller.exit_policy().await.unwrap(), ["accept *:80", "accept6 *:80", "reject *:*", "reject6 *:*"]);
    assert_eq!(controller.exit_policy().await.unwrap(), ["reject *:25", "accept *:*"]);
    assert!(matches!(controller.exit_policy().await, Err(ControlError::Refused { code: 551, .. })));
    assert!(matches!(controller.exit_policy().await, Err(ControlError::Protocol(_))));
    drop(peer.await.unwrap());
}

#[tokio::test]
async fn replies_and_events_are_heard_in_their_order_and_orders_are_written_at_once() {
    let (controller, mut tor) = fake();
    let heard: Arc<Mutex<Vec<String>>> = Arc::default();
    let table = Arc::clone(&heard);
    let observe = controller.observe(&["circ", "STREAM"], move |event| {
        table.lock().unwrap().push(format!("{} {}", event.kind, event.text));
        match StreamEvent::parse(event) {
            Some(stream) if stream.waits() => vec![Order::attach(&stream.id, None)],
            _ => Vec::new(),
        }
    });
    let peer = async {
        assert_eq!(line(&mut tor).await, "SETEVENTS CIRC STREAM");
        tor.write_all(b"250 OK\r\n").await.unwrap();
        assert_eq!(line(&mut tor).await, "EXTENDCIRCUIT 0 $62B250DE403BA8DB38A79133C36111C0D217C74C purpose=controller");
        // All at once, so that whoever waits for the reply runs after the events have been read.
        tor.write_all(b"650 CIRC 6 LAUNCHED\r\n250 EXTENDED 7\r\n650 CIRC 7 LAUNCHED\r\n650 CIRC 7 BUILT\r\n650 STREAM 3 NEW 0 a:80\r\n650 HS_DESC UPLOADED x\r\n")
            .await
            .unwrap();
        assert_eq!(line(&mut tor).await, "CLOSECIRCUIT 7");
        assert_eq!(line(&mut tor).await, "ATTACHSTREAM 3 0");
        tor.write_all(b"250 OK\r\n552 Unknown stream \"3\"\r\n").await.unwrap();
        tor
    };
    let relay: Fingerprint = "62B250DE403BA8DB38A79133C36111C0D217C74C".parse().unwrap();
    let (told, closed) = (Arc::clone(&heard), Arc::clone(&heard));
    let asking = async {
        observe.await.unwrap();
        controller
            .extend_circuit(None, &[relay], move |circuit| {
                told.lock().unwrap().push(format!("extended {circuit}"));
                vec![Order::close_circuit(circuit).then(move |done| {
                    closed.lock().unwrap().push(format!("closed {}", done.is_ok()));
                    Vec::new()
                })]
            })
            .await
            .unwrap()
    };
    let (circuit, mut tor) = tokio::join!(asking, peer);
    assert_eq!(circuit.to_string(), "7");
    // What nobody waits for any more is heard all the same: its object must not be left over.
    let (sender, mut receiver) = mpsc::channel(1);
    let relays = [relay];
    let given_up = controller.extend_circuit(None, &relays, move |circuit| {
        sender.try_send(circuit.to_string()).unwrap();
        Vec::new()
    });
    tokio::select! {
        biased;
        _ = given_up => panic!("it was not answered"),
        sent = line(&mut tor) => assert!(sent.starts_with("EXTENDCIRCUIT 0 ")),
    }
    tor.write_all(b"250 EXTENDED 8\r\n").await.unwrap();
    assert_eq!(receiver.recv().await.as_deref(), Some("8"));
    assert_eq!(
        *heard.lock().unwrap(),
        ["CIRC 6 LAUNCHED", "extended 7", "CIRC 7 LAUNCHED", "CIRC 7 BUILT", "STREAM 3 NEW 0 a:80", "closed true"]
    );
}

#[tokio::test]
async fn an_observer_loses_no_event_however_many_come_and_subscribers_of_others_lose_none_by_it() {
    const EVENTS: usize = 50_000;
    let (controller, mut tor) = fake();
    let count = Arc::new(Mutex::new(0));
    let counted = Arc::clone(&count);
    let (done, all) = oneshot::channel();
    let mut done = Some(done);
    let done = Mutex::new(move || done.take());
    let peer = async {
        for _ in 0..2 {
            assert!(line(&mut tor).await.starts_with("SETEVENTS"));
            tor.write_all(b"250 OK\r\n").await.unwrap();
        }
        tor.write_all(b"650 HS_DESC UPLOADED first\r\n").await.unwrap();
        for number in 0..EVENTS {
            tor.write_all(format!("650 CIRC {} LAUNCHED PURPOSE=CONTROLLER\r\n", number + 1).as_bytes()).await.unwrap();
        }
        tor.write_all(b"650 HS_DESC UPLOADED last\r\n").await.unwrap();
        tor
    };
    let asking = async {
        let observer = move |event: &Event| {
            let mut count = counted.lock().unwrap();
            *count += 1;
            assert_eq!(CircuitEvent::parse(event).unwrap().id.to_string(), count.to_string());
            if *count == EVENTS {
                let _ = (done.lock().unwrap())().map(|done| done.send(()));
            }
            Vec::new()
        };
        controller.observe(&["CIRC"], observer).await.unwrap();
        // This one reads late, and its queue is far shorter than what the other hears.
        let mut events = controller.events(&["HS_DESC"]).await.unwrap();
        all.await.unwrap();
        (events.next().await.unwrap().text, events.next().await.unwrap().text)
    };
    let (told, _tor) = tokio::join!(asking, peer);
    assert_eq!((told.0.as_str(), told.1.as_str()), ("UPLOADED first", "UPLOADED last"));
    assert_eq!(*count.lock().unwrap(), EVENTS);
}

#[tokio::test]
async fn commands_about_circuits_and_descriptors_are_written_as_tor_reads_them() {
    let (controller, mut tor) = fake();
    let relay: Fingerprint = "62B250DE403BA8DB38A79133C36111C0D217C74C".parse().unwrap();
    let circuit: CircuitId = "7".parse().unwrap();
    let stream: StreamId = "9".parse().unwrap();
    let peer = tokio::spawn(async move {
        let mut lines = Vec::new();
        for reply in ["250 EXTENDED 7", "250 OK", "250 OK", "250 OK", "250 OK", "250 OK", "250 OK", "250 OK"] {
            lines.push(line(&mut tor).await);
            tor.write_all(format!("{reply}\r\n").as_bytes()).await.unwrap();
        }
        lines
    });
    controller.extend_circuit(Some(&circuit), &[relay, relay], |_| Vec::new()).await.unwrap();
    controller.leave_streams_unattached(true, Vec::new).await.unwrap();
    controller.hs_fetch("abc7.onion", &[relay]).await.unwrap();
    controller.order(Order::attach_resolve(&stream, &circuit, |_| Vec::new())).await.unwrap();
    controller.order(vec![Order::close_stream(&stream, 4), Order::del_onion("abc7.onion").unwrap()]).await.unwrap();
    assert_eq!(
        peer.await.unwrap(),
        [
            "EXTENDCIRCUIT 7 $62B250DE403BA8DB38A79133C36111C0D217C74C,$62B250DE403BA8DB38A79133C36111C0D217C74C",
            "SETCONF __LeaveStreamsUnattached=1",
            "HSFETCH abc7 SERVER=62B250DE403BA8DB38A79133C36111C0D217C74C",
            "SETCIRCUITPURPOSE 7 purpose=general",
            "ATTACHSTREAM 9 7",
            "SETCIRCUITPURPOSE 7 purpose=controller",
            "CLOSESTREAM 9 4",
            "DEL_ONION abc7",
        ]
    );
    for wrong in ["abc7\r\nSIGNAL HALT", "abc7 SERVER=x", ""] {
        assert!(controller.hs_fetch(wrong, &[]).await.is_err() && Order::del_onion(wrong).is_err(), "{wrong:?}");
    }
    assert!(controller.extend_circuit(None, &[], |_| Vec::new()).await.is_err());
}
