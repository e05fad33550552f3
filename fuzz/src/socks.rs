//! Replies of a SOCKS port, over a real socket: an address is the one in the reply, and the stream begins right behind it.

use std::{net::IpAddr, sync::OnceLock, time::Duration};

use bento_tor::{Isolation, SocksError};
use tokio::io::{AsyncReadExt, AsyncWriteExt};

use crate::port::Port;

const SOON: Duration = Duration::from_secs(10);

/// Login and greeting as Bento sends them.
const GREETING: usize = 3;
const LOGIN: usize = 2 + 5 + 1 + 64;

fn port() -> &'static Port {
    static PORT: OnceLock<Port> = OnceLock::new();
    PORT.get_or_init(Port::open)
}

/// What a reply means, read a second time: the address, and where the stream begins.
fn read(reply: &[u8]) -> Option<(Option<IpAddr>, usize)> {
    let (head, rest) = reply.split_first_chunk::<4>()?;
    let (5, 0) = (head[0], head[1]) else { return None };
    let (address, length) = match head[3] {
        1 => (Some(IpAddr::from(*rest.first_chunk::<4>()?)), 4),
        4 => (Some(IpAddr::from(*rest.first_chunk::<16>()?)), 16),
        3 => (None, 1 + usize::from(*rest.first()?)),
        _ => return None,
    };
    (reply.len() >= 4 + length + 2).then_some((address, 4 + length + 2))
}

pub fn run(data: &[u8]) {
    let Some((mode, answer)) = data.split_first() else { return };
    let port = port();
    // Mostly what is right comes first, so that the reply is what differs.
    let (choice, login) = (if mode & 2 == 0 { vec![5, 2] } else { answer[..answer.len().min(2)].to_vec() }, [1, 0]);
    let answer = if mode & 2 == 0 { answer } else { &answer[answer.len().min(2)..] };
    let resolve = mode & 1 == 1;
    let step = usize::from(mode >> 4) + 1;
    let isolation = Isolation::new("fuzz");
    let tor = async {
        let (mut stream, _) = port.listener.accept().await.expect("a stream");
        let mut bytes = [0; GREETING];
        stream.read_exact(&mut bytes).await.expect("a greeting");
        let _ = stream.write_all(&choice).await;
        let mut bytes = [0; LOGIN];
        if choice != [5, 2] || stream.read_exact(&mut bytes).await.is_err() {
            return;
        }
        let _ = stream.write_all(&login).await;
        let mut bytes = [0; 300];
        let _ = stream.read(&mut bytes).await;
        for piece in answer.chunks(step) {
            if stream.write_all(piece).await.is_err() {
                return;
            }
            tokio::task::yield_now().await;
        }
    };
    let client = async {
        if resolve {
            return (port.socks.resolve("example.org", &isolation, SOON).await.map(Some), Vec::new());
        }
        match port.socks.connect("example.org", 80, &isolation, SOON).await {
            Ok(mut stream) => {
                let mut rest = Vec::new();
                let _ = stream.read_to_end(&mut rest).await;
                (Ok(None), rest)
            }
            Err(error) => (Err(error), Vec::new()),
        }
    };
    let ((got, rest), ()) = port.runtime.block_on(async { tokio::join!(client, tor) });
    let expected = if choice == [5, 2] { read(answer) } else { None };
    match got {
        Ok(address) => {
            let (told, begins) = expected.expect("a reply that is one");
            if resolve {
                assert_eq!(address, told);
            } else {
                assert_eq!(rest, answer[begins..], "the stream does not begin behind the reply");
            }
        }
        Err(error) => {
            assert!(!matches!(error, SocksError::Deadline(_) | SocksError::NoTor { .. }), "{error}");
            assert!(expected.is_none_or(|(address, _)| resolve && address.is_none()), "a good reply is refused: {error}");
            crate::text::is_line(&error.to_string());
            assert!(!error.hint().is_empty() && !error.to_string().contains("example.org"));
        }
    }
}
