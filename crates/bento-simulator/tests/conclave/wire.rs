//! What the host of a plain node has at its node's door, where Tor has ended.

use std::sync::{Arc, Mutex};

use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{TcpListener, TcpStream},
    task::JoinHandle,
};

use crate::host::contains;

pub(crate) struct Wire {
    pub(crate) address: String,
    seen: Arc<Mutex<Vec<u8>>>,
    serving: JoinHandle<()>,
}

impl Wire {
    /// Has it seen this?
    pub(crate) fn saw(&self, secret: &[u8]) -> bool {
        contains(&self.seen.lock().unwrap(), secret)
    }
}

impl Drop for Wire {
    fn drop(&mut self) {
        self.serving.abort();
    }
}

/// A port in front of that node's.
pub(crate) async fn before(node: &str) -> Wire {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let (node, all) = (node.to_owned(), Arc::clone(&seen));
    let serving = tokio::spawn(async move {
        loop {
            let (near, _) = listener.accept().await.unwrap();
            let far = TcpStream::connect(&node).await.unwrap();
            let ((near_reads, near_writes), (far_reads, far_writes)) = (near.into_split(), far.into_split());
            for (mut reads, mut writes) in [(near_reads, far_writes), (far_reads, near_writes)] {
                let all = Arc::clone(&all);
                tokio::spawn(async move {
                    let mut chunk = vec![0; 64 * 1024];
                    while let Ok(count @ 1..) = reads.read(&mut chunk).await {
                        all.lock().unwrap().extend_from_slice(&chunk[..count]);
                        if writes.write_all(&chunk[..count]).await.is_err() {
                            break;
                        }
                    }
                    let _ = writes.shutdown().await;
                });
            }
        }
    });
    Wire { address, seen, serving }
}
