//! Onion services of functions that are backends: they take the clients of a front as well (`tor.front`).
//!
//! Only a Tor that is the node's own can have them: they are made by its configuration, which is nobody else's business then.

use std::{
    fs, io,
    os::unix::fs::{DirBuilderExt, MetadataExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use data_encoding::HEXLOWER;
use sha2::{Digest, Sha256};
use tracing::warn;

use bento_tor::{Backend, BackendError, Backends, OnionService};

use super::{bad_call, by_control};
use crate::link::{CallError, CallErrorKind};

/// Where memory is a file system, on Linux.
const MEMORY: &str = "/dev/shm";

/// One backend. Dropped, it is ended.
pub(super) struct Held {
    backends: Arc<Backends>,
    address: String,
}

impl std::fmt::Debug for Held {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Held").finish_non_exhaustive()
    }
}

impl Held {
    pub(super) fn new(backends: &Arc<Backends>, address: &str) -> Self {
        Self { backends: Arc::clone(backends), address: address.to_owned() }
    }
}

impl Drop for Held {
    fn drop(&mut self) {
        let (backends, address) = (Arc::clone(&self.backends), std::mem::take(&mut self.address));
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move {
                if backends.remove(&address).await.is_err() {
                    warn!("Tor did not hear that a function's backend is to be ended");
                }
            });
        }
    }
}

/// What Tor is asked for.
pub(super) fn wanted(front: &str, service: &OnionService) -> Backend {
    Backend { front: front.to_owned(), key: service.key.clone(), ports: service.ports.clone(), max_streams: service.max_streams }
}

/// In the words of the function API.
pub(super) fn not_made(error: &BackendError) -> CallError {
    match error {
        BackendError::Control(error) => by_control(error),
        BackendError::Exists => CallError::new(CallErrorKind::Busy, "there is an onion service of this address at this node"),
        BackendError::Key => bad_call("this is no key of an onion service"),
        _ => CallError::new(CallErrorKind::Failed, "the node's disk failed"),
    }
}

/// Where the directories of backends are, which hold their keys: in memory if that can be, so that a seized disk has none of them.
pub(super) fn place(state: &Path) -> PathBuf {
    let digest = Sha256::digest(state.as_os_str().as_encoded_bytes());
    let own = Path::new(MEMORY).join(format!("bento-{}", HEXLOWER.encode(&digest[..8])));
    match private(&own) {
        Ok(()) => own.join("backends"),
        Err(_) => state.join("backends"),
    }
}

/// Makes a directory for this user alone; one that is somebody else's is no good.
fn private(path: &Path) -> io::Result<()> {
    match fs::DirBuilder::new().mode(0o700).create(path) {
        Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
        _ => {}
    }
    let found = fs::symlink_metadata(path)?;
    let is_own = found.is_dir() && found.uid() == rustix::process::geteuid().as_raw() && found.mode() & 0o077 == 0;
    is_own.then_some(()).ok_or_else(|| io::ErrorKind::PermissionDenied.into())
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    #[test]
    fn a_directory_that_others_may_enter_is_no_place_for_keys() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("x");
        assert!(private(&path).is_ok() && private(&path).is_ok());
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(private(&path).is_err());
        fs::remove_dir(&path).unwrap();
        std::os::unix::fs::symlink(directory.path(), &path).unwrap();
        assert!(private(&path).is_err());
    }
}
