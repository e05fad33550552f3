//! A site that says through which relay one came.

use std::net::{IpAddr, SocketAddr};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::TcpListener,
    task::JoinHandle,
};

use crate::world::World;

/// Says to each that comes which daemon of the network it was, so that a test sees which relay was the exit. Addresses do not tell: a relay that connects to
/// its own machine does so from 127.0.0.1.
pub(crate) struct Mirror {
    pub(crate) address: SocketAddr,
    task: JoinHandle<()>,
}

impl Mirror {
    pub(crate) async fn start(world: &World) -> std::io::Result<Self> {
        let listener = TcpListener::bind("127.80.0.9:0").await?;
        let address = listener.local_addr()?;
        let daemons = world.network.relays().into_iter().map(|relay| relay.name);
        let daemons: Vec<(String, u32)> = daemons.filter_map(|name| Some((name.clone(), world.network.daemon(&name)?.pid()))).collect();
        let task = tokio::spawn(async move {
            while let Ok((mut stream, peer)) = listener.accept().await {
                let socket = socket(peer, address);
                let is_its = |pid: u32| socket.as_ref().is_some_and(|socket| has(pid, socket));
                let who = daemons.iter().find(|(_, pid)| is_its(*pid)).map_or("nobody", |(name, _)| name);
                let answer = format!("HTTP/1.0 200 OK\r\n\r\n{who}");
                tokio::spawn(async move {
                    let mut request = [0; 1024];
                    let _ = stream.read(&mut request).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                });
            }
        });
        Ok(Self { address, task })
    }
}

impl Drop for Mirror {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// The TCP socket from this address to that one, as the descriptors of its process name it.
fn socket(from: SocketAddr, to: SocketAddr) -> Option<String> {
    let (from, to) = (in_table(from)?, in_table(to)?);
    // Both ends: the same port of the same address is the end of many connections, most of them over since less than a minute.
    let is_it = |line: &&str| {
        let mut words = line.split_whitespace().skip(1);
        words.next() == Some(&from) && words.next() == Some(&to)
    };
    // The kernel writes the table page by page and not at one moment, so that a line may be left out where others come and go.
    (0..10).find_map(|_| {
        let table = std::fs::read_to_string("/proc/net/tcp").ok()?;
        let inode = table.lines().find(is_it)?.split_whitespace().nth(9)?;
        Some(format!("socket:[{inode}]"))
    })
}

/// Is it one of a process's descriptors?
fn has(pid: u32, socket: &str) -> bool {
    let Ok(entries) = std::fs::read_dir(format!("/proc/{pid}/fd")) else { return false };
    entries.flatten().any(|entry| std::fs::read_link(entry.path()).is_ok_and(|link| link.to_string_lossy() == socket))
}

/// An IPv4 address and its port, as the kernel's table of TCP sockets writes them.
fn in_table(address: SocketAddr) -> Option<String> {
    let IpAddr::V4(ip) = address.ip() else { return None };
    Some(format!("{:08X}:{:04X}", u32::from(ip).swap_bytes(), address.port()))
}
