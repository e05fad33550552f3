//! `bentod check --explain`: a manifest beside this node's policy.

use std::{
    io::{self, Read},
    path::{Path, PathBuf},
};

use bento_proto::{Manifest, limits::MANIFEST_BYTES_MAX, manifest::ManifestError};

/// Why a manifest cannot be compared.
#[derive(Debug, thiserror::Error)]
pub enum ManifestTrouble {
    /// It cannot be read.
    #[error("reading {path}")]
    Read {
        /// Which.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// It is none.
    #[error("{path}: {error}")]
    Wrong {
        /// Which.
        path: PathBuf,
        /// What is wrong; it names the line.
        error: ManifestError,
    },
}

/// Reads a manifest: the file, or the one in a function's directory.
///
/// # Errors
/// When it cannot be read, or is none.
pub fn manifest(path: &Path) -> Result<Manifest, ManifestTrouble> {
    let path = if path.is_dir() { path.join("manifest.toml") } else { path.to_owned() };
    let mut text = String::new();
    // One byte more than may be, so that what is too long is told as that.
    let reading = std::fs::File::open(&path).and_then(|file| file.take(MANIFEST_BYTES_MAX as u64 + 1).read_to_string(&mut text));
    match reading {
        Ok(_) => Manifest::parse(&text).map_err(|error| ManifestTrouble::Wrong { path, error }),
        Err(source) => Err(ManifestTrouble::Read { path, source }),
    }
}
