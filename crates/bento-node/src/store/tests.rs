//! What the store promises.

mod damage;
mod disk;
mod functions;
mod model;
mod objects;

use std::{
    fs,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use bento_proto::{InvocationToken, SealKey, ShutdownToken};
use tempfile::TempDir;

use super::*;

const LIMIT: u64 = 4 << 20;

/// A directory on a fast disk, where there is one.
fn directory() -> TempDir {
    tempfile::tempdir_in("/dev/shm").or_else(|_| tempfile::tempdir()).unwrap()
}

fn key(n: u8) -> SealKey {
    SealKey::of(&InvocationToken::from_random([n; 32]))
}

/// Adds a function; one with an odd number starts with the node.
fn add(registry: &Registry, n: u8) -> Record {
    add_until(registry, n, SystemTime::now() + Duration::from_secs(3600))
}

fn add_until(registry: &Registry, n: u8, ends: SystemTime) -> Record {
    let new = New {
        invocation: InvocationToken::from_random([n; 32]).digest(),
        shutdown: ShutdownToken::from_random([n; 32]).digest(),
        ends,
        lifetime: Duration::from_secs(3600),
        storage: LIMIT,
        keep_awake: n % 2 == 1,
        key: &key(n),
        head: &head(n),
    };
    registry.add(new).unwrap()
}

fn head(n: u8) -> Vec<u8> {
    bytes(n.into(), 3000)
}

/// Opens the store of the only function, or of the first.
fn store(registry: &Registry, record: &Record, n: u8) -> Store {
    registry.vault(record.id, &key(n), LIMIT).unwrap().space(Space::Function)
}

fn get(store: &Store, name: &str) -> Result<Vec<u8>, StoreError> {
    part(store, name, 0, None)
}

fn part(store: &Store, name: &str, offset: u64, length: Option<u64>) -> Result<Vec<u8>, StoreError> {
    let mut reader = store.reader(name, offset, length)?;
    let promised = reader.remaining();
    let mut all = Vec::new();
    while let Some(piece) = reader.piece()? {
        assert!(!piece.is_empty() && piece.len() <= CHUNK);
        all.extend_from_slice(&piece);
        assert_eq!(all.len() as u64 + reader.remaining(), promised);
    }
    Ok(all)
}

fn append(store: &Store, name: &str, data: &[u8]) -> Result<u64, StoreError> {
    let mut writer = store.writer(name, Mode::Append)?;
    writer.write(data)?;
    writer.commit()
}

/// Bytes that differ everywhere, and with the seed.
fn bytes(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) ^ 0x5851_f42d_4c95_7f2d;
    let next = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    std::iter::repeat_with(next).flatten().take(length).collect()
}

/// All files below a directory.
fn files(below: &Path) -> Vec<PathBuf> {
    let mut all = Vec::new();
    for entry in fs::read_dir(below).unwrap() {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap().is_dir() {
            true => all.extend(files(&path)),
            false => all.push(path),
        }
    }
    all.sort();
    all
}

/// The same files in another place.
fn copy(from: &Path, to: &Path) {
    fs::create_dir_all(to).unwrap();
    for entry in fs::read_dir(from).unwrap() {
        let path = entry.unwrap().path();
        let other = to.join(path.file_name().unwrap());
        match path.is_dir() {
            true => copy(&path, &other),
            false => assert!(fs::copy(&path, &other).is_ok()),
        }
    }
}

#[track_caller]
fn is_damaged<T>(result: Result<T, StoreError>) {
    match result {
        Err(StoreError::Damaged { .. }) => {}
        Err(other) => panic!("not damaged, but {other:?}"),
        Ok(_) => panic!("nothing was noticed"),
    }
}
