//! A relay that does with two streams what the node does with a function's and its far side: [`meter::join`], and nothing else.
//!
//! For `bench/run stream`, which compares what it costs with a TCP stream proxy. Takes an address to connect to, listens on a free port of
//! loopback, says which, and ends with its standard input.

use std::{
    error::Error,
    io::{Read, Write},
    net::SocketAddr,
};

use bento_node::meter::{self, Meter};
use tokio::net::{TcpListener, TcpStream};

#[tokio::main]
async fn main() -> Result<(), Box<dyn Error>> {
    let to: SocketAddr = std::env::args().nth(1).ok_or("which address?")?.parse()?;
    let listener = TcpListener::bind(("127.0.0.1", 0)).await?;
    writeln!(std::io::stdout(), "listening address={}", listener.local_addr()?)?;
    std::thread::spawn(|| {
        let _ = std::io::stdin().read_to_end(&mut Vec::new());
        std::process::exit(0);
    });
    loop {
        let (near, _) = listener.accept().await?;
        let far = TcpStream::connect(to).await?;
        // Bounds that are counted against, as every function has them, and never met.
        let meter = Meter::new(1 << 60, 1 << 40);
        tokio::spawn(async move { meter::join(near, far, &meter).await });
    }
}
