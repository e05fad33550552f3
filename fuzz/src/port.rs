//! A SOCKS port that a target plays itself, and the runtime in which both ends of it are.

use bento_tor::Socks;
use tokio::{net::UnixListener, runtime::Runtime};

pub struct Port {
    pub runtime: Runtime,
    pub listener: UnixListener,
    pub socks: Socks,
    _directory: tempfile::TempDir,
}

impl Port {
    /// Listens on a Unix socket of its own.
    pub fn open() -> Self {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().expect("a runtime");
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("socks");
        let listener = runtime.block_on(async { UnixListener::bind(&path) }).expect("a listener");
        Self { runtime, listener, socks: Socks::unix(path), _directory: directory }
    }
}
