//! The file that `bentod` hands to its conclave: whole at every moment, and never one in place of another that is better to clients.

use std::{
    fs::{File, Permissions},
    io::{self, Read as _, Write as _},
    os::unix::fs::PermissionsExt as _,
    path::Path,
};

use bento_attest::{
    Assurance, Kind, Published, Roots,
    evidence::{Collateral, EVIDENCE_BYTES_MAX},
    platform::format,
};

use crate::Trouble;

/// What is there, if clients would take it for the machine of this quote.
pub fn kept<A: Assurance>(
    path: &Path,
    roots: &Roots<A>,
    report: &[u8],
    accept_missing_crl: bool,
    now: u64,
) -> Option<(Collateral, Published)> {
    let mut bytes = Vec::new();
    File::open(path).and_then(|file| file.take(EVIDENCE_BYTES_MAX as u64 + 1).read_to_end(&mut bytes)).ok()?;
    let kind: Kind = A::kind(format(report)?);
    let collateral = Collateral::from_bytes(&bytes).ok()?;
    let published = roots.published(kind, report, &collateral, accept_missing_crl, now).ok()?;
    Some((collateral, published))
}

/// Holds that what was fetched is no worse to clients than what is there.
///
/// A machine that is accepted goes before one that is refused; then what has AMD's list of revoked certificates before what has none, which would be
/// in force for longer and which most clients refuse; then what is in force for longer.
///
/// # Errors
/// When it is worse.
pub fn check_better((there, before): &(Collateral, Published), (fetched, published): &(Collateral, Published)) -> Result<(), Trouble> {
    match (before.refused.is_none(), published.refused.is_none()) {
        (false, true) => Ok(()),
        _ if has_list(there) != has_list(fetched) => {
            if has_list(fetched) {
                Ok(())
            } else {
                Err(Trouble::NoList)
            }
        }
        _ if before.until > published.until => Err(Trouble::Older),
        _ => Ok(()),
    }
}

fn has_list(collateral: &Collateral) -> bool {
    !matches!(collateral, Collateral::Snp(snp) if snp.crl.is_empty())
}

/// Writes it in place of what is there, at once.
///
/// # Errors
/// When it cannot be written; then what was there stays.
pub fn keep(path: &Path, collateral: &Collateral) -> Result<(), Trouble> {
    let failed = |source: io::Error| Trouble::File { doing: "writing", path: path.to_owned(), source };
    let name = path.file_name().ok_or_else(|| failed(io::ErrorKind::InvalidInput.into()))?;
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut prefix = name.to_owned();
    prefix.push(".");
    let writing = || {
        // A name of its own for each run: two at once leave each other's alone. Nothing of it is secret, and `bentod` may be another user.
        let mut new = tempfile::Builder::new().prefix(&prefix).permissions(Permissions::from_mode(0o666)).tempfile_in(directory)?;
        new.write_all(&collateral.to_bytes())?;
        new.as_file().sync_all()?;
        new.persist(path).map_err(|error| error.error)?;
        File::open(directory)?.sync_all()
    };
    writing().map_err(failed)
}

#[cfg(test)]
mod tests {
    use bento_attest::{Refused, evidence::SnpCollateral};

    use super::*;

    #[test]
    fn what_clients_take_is_replaced_by_nothing_that_they_take_less() {
        let one = |crl: &[u8], until: u64, refused: Option<Refused>| {
            let snp = SnpCollateral { ask: vec![1], vcek: vec![2], crl: crl.to_vec() };
            let published = Published { state: String::new(), advisories: Vec::new(), facts: Vec::new(), until, refused };
            (Collateral::Snp(snp), published)
        };
        let refused = || Some(Refused::Machine("is old"));
        // What has no list is in force for years.
        let (listed, unlisted) = (one(b"list", 100, None), one(b"", 9_000, None));
        assert!(matches!(check_better(&listed, &unlisted), Err(Trouble::NoList)));
        assert!(check_better(&unlisted, &listed).is_ok() && check_better(&unlisted, &unlisted).is_ok());
        // Of two alike the one that is in force for longer.
        assert!(matches!(check_better(&listed, &one(b"list", 99, None)), Err(Trouble::Older)));
        assert!(check_better(&listed, &one(b"list", 100, None)).is_ok());
        // A machine that is accepted now goes before one that was not, and only so round.
        assert!(check_better(&one(b"list", 100, refused()), &one(b"list", 99, None)).is_ok());
        for before in [None, refused()] {
            assert!(matches!(check_better(&one(b"list", 100, before), &one(b"list", 99, refused())), Err(Trouble::Older)));
        }
    }
}
