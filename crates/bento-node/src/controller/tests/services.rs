//! Onion services and descriptors.

use super::*;

#[tokio::test]
async fn an_onion_service_ends_with_its_connection_and_one_that_is_detached_does_not() {
    let (fake, view) = view(&[]);
    let (clients, receiver) = mpsc::channel(4);
    *fake.clients.lock().unwrap() = Some(receiver);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS HS_DESC").await, "250 OK");
    let reply = script.ask("ADD_ONION NEW:BEST Port=80,5000").await;
    assert!(reply.starts_with(&format!("250-ServiceID={SERVICE}\n250-PrivateKey=")), "{reply}");
    assert_eq!(fake.did(), ["service [80] None None"]);
    assert_eq!(script.ask("GETINFO ns/name/exit2").await.lines().count(), 6);
    fake.happen(Happening::Uploaded { service: 1, directory: Some(EXIT.into()), failed: None }).await;
    assert_eq!(script.event().await, format!("650 HS_DESC UPLOAD {SERVICE} UNKNOWN ${EXIT}~exit2 UNKNOWN"));
    assert_eq!(script.event().await, format!("650 HS_DESC UPLOADED {SERVICE} UNKNOWN ${EXIT}~exit2"));
    // A client before anybody listens is refused, and the next one comes to who listens.
    let (mut refused, theirs) = UnixStream::pair().unwrap();
    clients.send((80, theirs)).await.unwrap();
    let mut rest = Vec::new();
    refused.read_to_end(&mut rest).await.unwrap();
    let listening = {
        let view = Arc::clone(&view);
        tokio::spawn(async move { view.listen(5000).await.unwrap().expect("a client") })
    };
    while !view.listens_at(5000) {
        tokio::task::yield_now().await;
    }
    let (mut client, theirs) = UnixStream::pair().unwrap();
    clients.send((80, theirs)).await.unwrap();
    let mut far = listening.await.unwrap();
    far.write_all(b"hi").await.unwrap();
    let mut hi = [0; 2];
    client.read_exact(&mut hi).await.unwrap();
    // Another connection of the same function does not see it, and ending the connection ends it.
    let mut other = Script::start(&view).await;
    assert_eq!(other.ask("GETINFO onions/current").await, "250-onions/current=\n250 OK");
    assert_eq!(other.ask(&format!("DEL_ONION {SERVICE}")).await, "552 Unknown Onion Service id");
    assert_eq!(script.ask("GETINFO onions/current").await, format!("250-onions/current={SERVICE}\n250 OK"));
    assert_eq!(script.ask("QUIT").await, "250 closing connection");
    assert_eq!(script.message().await, None);
    while fake.did() != ["end 1"] {
        tokio::task::yield_now().await;
    }
    let reply = other.ask("ADD_ONION NEW:BEST Flags=Detach,DiscardPK MaxStreams=3 Port=80").await;
    assert_eq!(reply, format!("250-ServiceID={SERVICE}\n250 OK"));
    assert_eq!(fake.did(), ["service [80] None Some(3)"]);
    assert_eq!(
        other.ask("GETINFO onions/current onions/detached").await,
        format!("250-onions/current=\n250-onions/detached={SERVICE}\n250 OK")
    );
    drop(other);
    let mut third = Script::start(&view).await;
    assert_eq!(third.ask(&format!("DEL_ONION {SERVICE}")).await, "250 OK");
    assert_eq!(fake.did(), ["end 1"]);
}

#[tokio::test]
async fn descriptors_are_fetched_and_published_and_told_of() {
    let (fake, view) = view(&[]);
    let mut script = Script::start(&view).await;
    assert_eq!(script.ask("SETEVENTS HS_DESC HS_DESC_CONTENT").await, "250 OK");
    assert_eq!(script.ask(&format!("HSFETCH {SERVICE} SERVER=exit2")).await, "250 OK");
    assert_eq!(script.event().await, format!("650 HS_DESC REQUESTED {SERVICE} NO_AUTH ${EXIT}~exit2 UNKNOWN"));
    assert_eq!(script.event().await, format!("650 HS_DESC RECEIVED {SERVICE} NO_AUTH ${EXIT}~exit2 UNKNOWN"));
    let content = format!("650+HS_DESC_CONTENT {SERVICE} UNKNOWN ${EXIT}~exit2\nhs-descriptor 3\n..dotted\n.\n650 OK");
    assert_eq!(script.event().await, content);
    assert_eq!(fake.did(), [format!("fetch {SERVICE} [\"{EXIT}\"]")]);
    let kept = script.ask(&format!("GETINFO hs/client/desc/id/{SERVICE}")).await;
    assert_eq!(kept, format!("250+hs/client/desc/id/{SERVICE}=\nhs-descriptor 3\n..dotted\n.\n250 OK"));
    let nobody = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd";
    assert_eq!(script.ask(&format!("HSFETCH {nobody}")).await, "250 OK");
    assert!(script.event().await.ends_with("REASON=NOT_FOUND"));
    assert!(script.event().await.ends_with("~Unnamed\n\n.\n650 OK"));
    assert_eq!(script.ask(&format!("HSFETCH {SERVICE} SERVER=nosuch")).await, "552 Server \"nosuch\" not found");
    fake.did();
    assert_eq!(script.ask(&format!("+HSPOST HSADDRESS={SERVICE}\r\nhs-descriptor 3\r\nx\r\n.")).await, "250 OK");
    for status in ["UPLOAD", "UPLOADED", "UPLOAD", "FAILED"] {
        assert!(script.event().await.starts_with(&format!("650 HS_DESC {status} {SERVICE} UNKNOWN $")), "{status}");
    }
    assert_eq!(fake.did(), [format!("publish {SERVICE} [] 18 bytes")]);
    assert_eq!(script.ask(&format!("+HSPOST HSADDRESS={SERVICE}\r\nabc\r\n.")).await, "554 Invalid descriptor");
    assert_eq!(script.ask("+HSPOST \r\nhs-descriptor 3\r\n.").await, "512 Missing HSADDRESS: it is needed for a descriptor of version 3");
}
