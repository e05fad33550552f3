//! Streams at the SOCKS port.

use super::*;

async fn socks(view: &Arc<View<Fake>>, port: u16) -> UnixStream {
    let (ours, mut theirs) = UnixStream::pair().unwrap();
    let view = Arc::clone(view);
    tokio::spawn(async move { view.socks(ours).await });
    let request = [b"\x05\x01\x00\x05\x01\x00\x03\x0bexample.org".as_slice(), &port.to_be_bytes()].concat();
    theirs.write_all(&request).await.unwrap();
    let mut method = [0; 2];
    theirs.read_exact(&mut method).await.unwrap();
    assert_eq!(method, [5, 0]);
    theirs
}

async fn answered(stream: &mut UnixStream) -> u8 {
    let mut reply = [0; 10];
    timeout(Duration::from_secs(20), stream.read_exact(&mut reply)).await.unwrap().unwrap();
    reply[1]
}

#[tokio::test]
async fn a_stream_waits_for_its_circuit_and_goes_on_no_other() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS STREAM CONF_CHANGED").await, "250 OK");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 middle1,exit2").await, "250 EXTENDED 1");
    assert_eq!(script.ask("EXTENDCIRCUIT 0 exit2").await, "250 EXTENDED 2");
    assert_eq!(script.ask("SETCONF __LeaveStreamsUnattached=1").await, "250 OK");
    assert_eq!(script.event().await, "650-CONF_CHANGED\n650-__LeaveStreamsUnattached=1\n650 OK");
    let mut stream = socks(&view, 80).await;
    assert_eq!(script.event().await, "650 STREAM 1 NEW 0 example.org:80 SOURCE_ADDR=127.0.0.1:9 PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
    assert_eq!(script.ask("GETINFO stream-status").await, "250-stream-status=1 NEW 0 example.org:80\n250 OK");
    for (command, reply) in [
        ("ATTACHSTREAM 2 1", "552 Unknown stream \"2\""),
        ("ATTACHSTREAM 1 9", "552 Unknown circuit \"9\""),
        ("ATTACHSTREAM 1 2", "551 Can't attach stream to this one-hop circuit."),
        ("ATTACHSTREAM 1 1 HOP=1", "552 Bad value hop=1"),
        ("ATTACHSTREAM 1 1 HOP=2", "250 OK"),
    ] {
        assert_eq!(script.ask(command).await, reply, "{command}");
    }
    assert_eq!(script.event().await, "650 STREAM 1 SENTCONNECT 1 example.org:80");
    assert_eq!(script.event().await, "650 STREAM 1 SUCCEEDED 1 example.org:80");
    assert_eq!(script.ask("ATTACHSTREAM 1 1").await, "555 Connection is not managed by controller.");
    assert_eq!(answered(&mut stream).await, 0);
    stream.write_all(b"hello").await.unwrap();
    let mut hello = [0; 5];
    stream.read_exact(&mut hello).await.unwrap();
    assert_eq!(script.ask("CLOSECIRCUIT 1 IfUnused").await, "250 OK");
    assert!(script.ask("GETINFO circuit-status").await.contains("1 BUILT"));
    drop(stream);
    assert_eq!(script.event().await, "650 STREAM 1 CLOSED 1 example.org:80 REASON=DONE");
    assert_eq!(fake.did().pop(), Some("connect 1 example.org 80".into()));
    // What fails there is detached, and left to the function.
    let mut stream = socks(&view, 9).await;
    assert!(script.event().await.starts_with("650 STREAM 2 NEW 0 example.org:9 "));
    assert_eq!(script.ask("ATTACHSTREAM 2 1").await, "250 OK");
    assert_eq!(script.event().await, "650 STREAM 2 SENTCONNECT 1 example.org:9");
    assert_eq!(script.event().await, "650 STREAM 2 DETACHED 1 example.org:9 REASON=END REMOTE_REASON=CONNECTREFUSED");
    assert_eq!(script.event().await, "650 STREAM 2 NEW 0 example.org:9 PURPOSE=USER CLIENT_PROTOCOL=SOCKS5");
    assert_eq!(script.ask("CLOSESTREAM 2 1").await, "250 OK");
    assert_eq!(script.event().await, "650 STREAM 2 FAILED 0 example.org:9 REASON=DONE");
    assert_eq!(script.event().await, "650 STREAM 2 CLOSED 0 example.org:9 REASON=DONE");
    assert_eq!(answered(&mut stream).await, 1);
    // A client that leaves while its stream waits takes it along.
    drop(socks(&view, 80).await);
    assert!(script.event().await.starts_with("650 STREAM 3 NEW 0 "));
    assert_eq!(script.event().await, "650 STREAM 3 CLOSED 0 example.org:80 REASON=DONE");
}

#[tokio::test]
async fn a_stream_that_is_not_waited_for_is_attached_by_tor() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    let mut first = socks(&view, 80).await;
    assert_eq!(answered(&mut first).await, 0);
    assert_eq!(answered(&mut socks(&view, 9).await).await, 4);
    assert_eq!(script.ask("SIGNAL NEWNYM").await, "250 OK");
    assert_eq!(answered(&mut socks(&view, 80).await).await, 0);
    let did = fake.did();
    assert!(did[0].starts_with("connect example.org 80 ") && did[0] != did[2], "{did:?}");
    let (refusing, other) = self::view(&["tor.connect"]);
    assert_eq!(answered(&mut socks(&other, 80).await).await, 2);
    assert_eq!(refusing.did(), [""; 0]);
}
