//! The file that `bentod` hands to its conclave: whole at every moment, and never one that holds less long in place of another.

use std::{
    fs::{self, File},
    io::{self, Read as _, Write as _},
    path::Path,
};

use bento_attest::{
    Assurance, Kind, Published, Roots,
    evidence::{Collateral, EVIDENCE_BYTES_MAX},
    platform::format,
};

use crate::Trouble;

/// What is there, if clients would take it for the machine of this quote.
pub fn kept<A: Assurance>(path: &Path, roots: &Roots<A>, report: &[u8], accept_missing_crl: bool, now: u64) -> Option<Published> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(EVIDENCE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)).ok()?;
    let kind: Kind = A::kind(format(report)?);
    roots.published(kind, report, &Collateral::from_bytes(&bytes).ok()?, accept_missing_crl, now).ok()
}

/// Writes it in place of what is there, at once.
///
/// # Errors
/// When it cannot be written; then what was there stays.
pub fn keep(path: &Path, collateral: &Collateral) -> Result<(), Trouble> {
    let failed = |source: io::Error| Trouble::File { doing: "writing", path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut new = name.to_owned();
    new.push(".new");
    let new = directory.join(new);
    let writing = || {
        let mut file = File::create(&new)?;
        file.write_all(&collateral.to_bytes())?;
        file.sync_all()?;
        fs::rename(&new, path)?;
        File::open(directory)?.sync_all()
    };
    writing().map_err(|error| {
        let _ = fs::remove_file(&new);
        failed(error)
    })
}
