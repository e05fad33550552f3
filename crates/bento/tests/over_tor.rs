//! The library over Tor's SOCKS port: which requests share circuits, and what is tried again. The port here is one of our own, which
//! leads every stream to a node on this machine and writes down who asked.
#![cfg(test)]

mod fake;

use std::{
    net::SocketAddr,
    sync::{Arc, Mutex},
    time::Duration,
};

use bento::{Bounds, Call, Client, ClientError, NodeAddress, Standard, Tokens};
use bento_tor::{Socks, SocksError};
use fake::{FakeNode, good};
use tokio::{
    io::{AsyncReadExt as _, AsyncWriteExt as _},
    net::{TcpListener, TcpStream},
};

const ONE: &str = "pg6mmjiyjmcrsslvykfwnntlaru7p5svn6y2ymmju6nubxndf4pscryd.onion";
const TWO: &str = "sp3k262uwy4r2k3ycr5awluarykdpag6a7y33jxop4cs2lu5uz5sseqd.onion:8080";

#[derive(Clone, Debug, Eq, PartialEq)]
struct Asked {
    password: Vec<u8>,
    host: String,
    port: u16,
}

/// Tor's SOCKS port, as far as a client sees it. The first streams end with the codes in `first`.
struct FakeTor {
    socks: Socks,
    asked: Arc<Mutex<Vec<Asked>>>,
    _node: FakeNode,
}

impl FakeTor {
    async fn start(first: &[u8]) -> Self {
        let node = FakeNode::start(good).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        let asked: Arc<Mutex<Vec<Asked>>> = Arc::default();
        let (log, to, first) = (Arc::clone(&asked), node.address, first.to_vec());
        tokio::spawn(async move {
            let mut codes = first.into_iter();
            while let Ok((stream, _)) = listener.accept().await {
                tokio::spawn(serve(stream, to, Arc::clone(&log), codes.next().unwrap_or(0)));
            }
        });
        Self { socks: Socks::tcp(address), asked, _node: node }
    }

    fn client(&self) -> Client {
        let bounds = Bounds { connect: Duration::from_secs(10), answer: Duration::from_secs(2), idle: Duration::from_secs(2) };
        Client::over(self.socks.clone()).with_bounds(bounds)
    }

    fn passwords(&self) -> Vec<Vec<u8>> {
        self.asked.lock().unwrap().drain(..).map(|asked| asked.password).collect()
    }
}

async fn serve(mut stream: TcpStream, node: SocketAddr, log: Arc<Mutex<Vec<Asked>>>, code: u8) -> Option<()> {
    word(&mut stream, Some(3)).await?;
    stream.write_all(&[5, 2]).await.ok()?;
    word(&mut stream, Some(1)).await?;
    word(&mut stream, None).await?;
    let password = word(&mut stream, None).await?;
    stream.write_all(&[1, 0]).await.ok()?;
    let mut head = [0; 5];
    stream.read_exact(&mut head).await.ok()?;
    let mut host = vec![0; head[4].into()];
    stream.read_exact(&mut host).await.ok()?;
    let port = stream.read_u16().await.ok()?;
    log.lock().unwrap().push(Asked { password, host: String::from_utf8(host).unwrap(), port });
    stream.write_all(&[5, code, 0, 1, 0, 0, 0, 0, 0, 0]).await.ok()?;
    if code == 0 {
        let mut onward = TcpStream::connect(node).await.ok()?;
        tokio::io::copy_bidirectional(&mut stream, &mut onward).await.ok()?;
    }
    Some(())
}

/// So many bytes, or as many as the byte before them says.
async fn word(stream: &mut TcpStream, length: Option<usize>) -> Option<Vec<u8>> {
    let length = match length {
        Some(length) => length,
        None => stream.read_u8().await.ok()?.into(),
    };
    let mut bytes = vec![0; length];
    stream.read_exact(&mut bytes).await.ok()?;
    Some(bytes)
}

#[tokio::test]
async fn a_functions_requests_share_circuits_and_nothing_else_does() {
    let tor = FakeTor::start(&[]).await;
    let (one, two): (NodeAddress, NodeAddress) = (ONE.parse().unwrap(), TWO.parse().unwrap());
    let (client, bundle) = (tor.client(), Standard::Browser.bundle().unwrap());
    let (tokens, others) = (Tokens::mint().unwrap(), Tokens::mint().unwrap());

    client.install(&one, &bundle, &tokens).await.unwrap();
    client.status(&one, &tokens.invocation).await.unwrap();
    client.invoke(&one, &tokens.invocation, Call::new("hello")).await.unwrap();
    let own = tor.passwords();
    assert!(own.iter().all(|password| *password == own[0]));

    client.status(&one, &others.invocation).await.unwrap();
    client.status(&two, &tokens.invocation).await.unwrap();
    client.run(&one, &bundle, Call::new("hello")).await.unwrap();
    client.run(&one, &bundle, Call::new("hello")).await.unwrap();
    client.describe(&one).await.unwrap();
    client.describe(&two).await.unwrap();
    client.policy(&one).await.unwrap();
    let mut all = tor.passwords();
    all.push(own[0].clone());
    let count = all.len();
    all.sort();
    all.dedup();
    assert_eq!(all.len(), count, "two of them share circuits");
    for password in &all {
        let text = String::from_utf8_lossy(password);
        assert!(!text.contains(&tokens.invocation.reveal()) && !text.contains(&tokens.invocation.digest().to_string()));
    }
}

#[tokio::test]
async fn the_name_of_an_onion_service_goes_to_tor_as_it_is() {
    let tor = FakeTor::start(&[]).await;
    tor.client().describe(&TWO.parse().unwrap()).await.unwrap();
    let asked = tor.asked.lock().unwrap()[0].clone();
    assert_eq!((asked.host.as_str(), asked.port), (TWO.strip_suffix(":8080").unwrap(), 8080));
}

#[tokio::test]
async fn a_stream_that_may_open_later_is_tried_again_and_one_that_never_will_is_not() {
    // F0: the descriptor is not there yet. F6: the address is wrong.
    let tor = FakeTor::start(&[0xf0]).await;
    tor.client().describe(&ONE.parse().unwrap()).await.unwrap();
    assert_eq!(tor.passwords().len(), 2);

    let tor = FakeTor::start(&[0xf6; 9]).await;
    let error = tor.client().describe(&ONE.parse().unwrap()).await.unwrap_err();
    assert!(matches!(error, ClientError::Tor(SocksError::BadOnionAddress)) && !error.is_tor_unreachable());
    assert_eq!(tor.passwords().len(), 1);
}
