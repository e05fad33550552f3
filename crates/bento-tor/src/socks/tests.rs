use tokio::net::TcpListener;
use tokio::task::JoinHandle;

use super::*;

const SOON: Duration = Duration::from_secs(5);

/// What the fake Tor saw: the login and the request.
type Seen = JoinHandle<(Vec<u8>, Vec<u8>)>;

/// A SOCKS server for one connection. It writes each piece of its answer on its own, and then echoes.
async fn fake(choice: &'static [u8], pieces: Vec<Vec<u8>>) -> (Socks, Seen) {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socks = Socks::tcp(listener.local_addr().unwrap());
    let seen = tokio::spawn(async move {
        let (mut stream, _) = listener.accept().await.unwrap();
        let mut greeting = [0; 3];
        stream.read_exact(&mut greeting).await.unwrap();
        assert_eq!(greeting, GREETING);
        stream.write_all(choice).await.unwrap();
        let mut login = vec![0; 2 + 5 + 1 + 64];
        if stream.read_exact(&mut login).await.is_err() {
            return (Vec::new(), Vec::new());
        }
        stream.write_all(&[1, 0]).await.unwrap();
        let mut request = vec![0; 1024];
        let length = stream.read(&mut request).await.unwrap();
        request.truncate(length);
        for piece in pieces {
            stream.write_all(&piece).await.unwrap();
            stream.flush().await.unwrap();
            tokio::task::yield_now().await;
        }
        let mut echo = [0; 4];
        if stream.read_exact(&mut echo).await.is_ok() {
            stream.write_all(&echo).await.unwrap();
        }
        (login, request)
    });
    (socks, seen)
}

#[tokio::test]
async fn a_stream_starts_right_after_a_reply_that_came_in_pieces() {
    let pieces = [5, 0, 0, 3, 2, b'x', b'y', 0, 80].map(|byte| vec![byte]).to_vec();
    let (socks, seen) = fake(&[5, 2], pieces).await;
    let mut stream = socks.connect("site.example", 80, &Isolation::new("a"), SOON).await.unwrap();
    stream.write_all(b"ping").await.unwrap();
    let mut echo = [0; 4];
    stream.read_exact(&mut echo).await.unwrap();
    assert_eq!(&echo, b"ping");
    let (login, request) = seen.await.unwrap();
    assert_eq!(&login[..8], b"\x01\x05bento\x40");
    assert_eq!(request, b"\x05\x01\x00\x03\x0csite.example\x00\x50");
}

#[tokio::test]
async fn a_name_is_resolved_to_the_address_in_the_reply() {
    let (socks, seen) = fake(&[5, 2], vec![vec![5, 0, 0, 1, 192, 0, 2, 7, 0, 0]]).await;
    let address = socks.resolve("site.example", &Isolation::new("a"), SOON).await.unwrap();
    assert_eq!(address, IpAddr::from([192, 0, 2, 7]));
    assert_eq!(seen.await.unwrap().1[1], RESOLVE);

    let (socks, _) = fake(&[5, 2], vec![vec![5, 0, 0, 3, 1, b'x', 0, 0]]).await;
    let error = socks.resolve("site.example", &Isolation::new("a"), SOON).await.unwrap_err();
    assert!(matches!(error, SocksError::Protocol(_)));
}

#[tokio::test]
async fn each_reason_is_told_apart_and_has_a_hint() {
    for (code, text) in [
        (0x01, "no reason"),
        (0x02, "policy"),
        (0x04, "does not exist"),
        (0x05, "refused"),
        (0x06, "timed out"),
        (0xF0, "descriptor cannot be found"),
        (0xF2, "introduction"),
        (0xF3, "rendezvous"),
        (0xF6, "not valid"),
        (0xF7, "introduction"),
        (0x99, "0x99"),
    ] {
        let (socks, _) = fake(&[5, 2], vec![vec![5, code, 0, 1, 0, 0, 0, 0, 0, 0]]).await;
        let error = socks.connect("site.example", 80, &Isolation::new("a"), SOON).await.unwrap_err();
        assert!(error.to_string().contains(text), "{code:#x}: {error}");
        assert!(!error.hint().is_empty());
        assert!(!error.to_string().contains("site.example"));
    }
}

#[tokio::test]
async fn what_is_not_tor_is_told_from_tor_that_is_not_there() {
    let isolation = Isolation::new("a");
    let (socks, _) = fake(b"HT", Vec::new()).await;
    let error = socks.connect("site.example", 80, &isolation, SOON).await.unwrap_err();
    assert!(matches!(error, SocksError::Protocol(_)));

    // A proxy that takes no user name would put all streams on one circuit.
    let (socks, _) = fake(&[5, 0], Vec::new()).await;
    let error = socks.connect("site.example", 80, &isolation, SOON).await.unwrap_err();
    assert!(matches!(error, SocksError::Protocol(_)));

    let gone = TcpListener::bind("127.0.0.1:0").await.unwrap().local_addr().unwrap();
    let error = Socks::tcp(gone).connect("site.example", 80, &isolation, SOON).await.unwrap_err();
    assert!(matches!(error, SocksError::NoTor { .. }));
    let error = Socks::unix("/nowhere/socks").connect("site.example", 80, &isolation, SOON).await.unwrap_err();
    assert!(matches!(error, SocksError::NoTor { .. }));
}

#[tokio::test]
async fn a_server_that_never_answers_meets_the_deadline() {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let socks = Socks::tcp(listener.local_addr().unwrap());
    let short = Duration::from_millis(50);
    let error = socks.connect("site.example", 80, &Isolation::new("a"), short).await.unwrap_err();
    assert!(matches!(error, SocksError::Deadline(_)));
    assert!(!socks.answers(short).await);

    // One that hangs up in the middle is told at once.
    let (socks, _) = fake(&[5], Vec::new()).await;
    let hang_up = socks.connect("site.example", 80, &Isolation::new("a"), Duration::from_millis(200)).await;
    assert!(hang_up.is_err());
}

#[test]
fn a_request_carries_names_and_addresses_and_nothing_else() {
    assert_eq!(request(CONNECT, "192.0.2.1", 443).unwrap(), [5, 1, 0, 1, 192, 0, 2, 1, 1, 187]);
    assert_eq!(request(CONNECT, "[::1]", 80).unwrap(), request(CONNECT, "::1", 80).unwrap());
    assert_eq!(request(CONNECT, "::1", 80).unwrap().len(), 4 + 16 + 2);
    for bad in ["", "a b", "b\u{fc}cher.example", "a\0b", &"a".repeat(254)] {
        assert!(matches!(request(CONNECT, bad, 80), Err(SocksError::BadName)), "{bad:?}");
    }
    assert!(request(CONNECT, &"a".repeat(253), 80).is_ok());
}

#[test]
fn isolation_is_the_same_for_the_same_name_and_tells_nothing() {
    assert!(Isolation::new("a") == Isolation::new("a"));
    assert!(Isolation::new("a") != Isolation::new("b"));
    assert!(!format!("{:?} {}", Isolation::new("secret"), Isolation::new("secret").password).contains("secret"));
}
