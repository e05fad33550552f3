//! A function as it travels: a plain tar archive of regular files (POSIX.1-1988 ustar).
//!
//! Not compressed, so that it cannot unfold into more than was sent.

use std::io::Read;

use crate::{
    limits::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX, BUNDLE_NAME_MAX},
    manifest::{Manifest, ManifestError},
};

/// A function's files in memory, its manifest read.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Bundle {
    /// What its author says of it.
    pub manifest: Manifest,
    /// All files, names with `/` between their parts, in the order of the archive.
    pub files: Vec<(String, Vec<u8>)>,
}

/// Why bytes are no bundle.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum BundleError {
    /// Too many bytes.
    #[error("it has more than {BUNDLE_BYTES_MAX} bytes")]
    TooLarge,
    /// Too many files.
    #[error("it has more than {BUNDLE_FILES_MAX} files")]
    TooMany,
    /// Not a tar archive, or cut off.
    #[error("it is not a whole tar archive: {0}")]
    Archive(String),
    /// A link, a device or the like.
    #[error("`{0}` is not a regular file; a bundle holds nothing else")]
    NotAFile(String),
    /// A name that could lead elsewhere.
    #[error(
        "`{0}` is no name for a file of a bundle: relative, of 1 to {BUNDLE_NAME_MAX} bytes, its parts letters, digits and ._- and none of them `.` or `..`"
    )]
    Name(String),
    /// The same name twice, or a name that is another's folder.
    #[error("`{0}` is there twice")]
    Twice(String),
    /// No `manifest.toml`.
    #[error("it has no manifest.toml")]
    NoManifest,
    /// `manifest.toml` is not text.
    #[error("its manifest.toml is not UTF-8 text")]
    NotText,
    /// The manifest is wrong.
    #[error("its manifest.toml is wrong: {0}")]
    Manifest(#[from] ManifestError),
    /// The code file is not there.
    #[error("its manifest names `{0}` as the code, and there is no such file in it")]
    NoCode(String),
}

/// Checks a name of a file in a bundle.
///
/// # Errors
/// When it could lead anywhere else, or be written in more than one way.
pub fn check_name(name: &str) -> Result<(), BundleError> {
    let part_is_good = |part: &str| {
        !part.is_empty() && part != "." && part != ".." && part.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(&byte))
    };
    if name.len() <= BUNDLE_NAME_MAX && name.split('/').all(part_is_good) {
        Ok(())
    } else {
        Err(BundleError::Name(name.chars().take(120).collect()))
    }
}

impl Bundle {
    /// The bundle of these files.
    ///
    /// # Errors
    /// When a name, the number, or the manifest is wrong.
    pub fn new(files: Vec<(String, Vec<u8>)>) -> Result<Self, BundleError> {
        if files.len() > BUNDLE_FILES_MAX {
            return Err(BundleError::TooMany);
        }
        let mut names: Vec<&str> = Vec::with_capacity(files.len());
        for (name, _) in &files {
            check_name(name)?;
            names.push(name);
        }
        names.sort_unstable();
        // Sorted, a folder's files follow its name directly only after names such as `a.py`; so each name's parents are looked up.
        for (index, name) in names.iter().enumerate() {
            let parents = name.match_indices('/').map(|(at, _)| &name[..at]);
            if names.get(index + 1) == Some(name) || parents.into_iter().any(|parent| names.binary_search(&parent).is_ok()) {
                return Err(BundleError::Twice((*name).to_owned()));
            }
        }
        let find = |wanted: &str| files.iter().find(|(name, _)| name == wanted);
        let (_, manifest) = find("manifest.toml").ok_or(BundleError::NoManifest)?;
        let manifest = Manifest::parse(std::str::from_utf8(manifest).map_err(|_| BundleError::NotText)?)?;
        if find(&manifest.code).is_none() {
            return Err(BundleError::NoCode(manifest.code));
        }
        Ok(Self { manifest, files })
    }

    /// Reads an archive.
    ///
    /// # Errors
    /// When it is not a whole archive of regular files with good names and a good manifest.
    pub fn unpack(archive: &[u8]) -> Result<Self, BundleError> {
        if archive.len() > BUNDLE_BYTES_MAX {
            return Err(BundleError::TooLarge);
        }
        let damaged = |error: std::io::Error| BundleError::Archive(error.to_string());
        let mut files = Vec::new();
        let mut reader = tar::Archive::new(archive);
        // Raw: extensions (long names, sparse files, pax) show as entries of their own kind and are refused as such.
        for entry in reader.entries().map_err(damaged)?.raw(true) {
            let mut entry = entry.map_err(damaged)?;
            let name = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
            if entry.header().entry_type() != tar::EntryType::Regular {
                return Err(BundleError::NotAFile(name.chars().take(120).collect()));
            }
            if files.len() == BUNDLE_FILES_MAX {
                return Err(BundleError::TooMany);
            }
            let told = entry.size();
            let mut content = Vec::new();
            entry.read_to_end(&mut content).map_err(damaged)?;
            if content.len() as u64 != told {
                return Err(BundleError::Archive(format!("`{name}` is cut off")));
            }
            files.push((name, content));
        }
        Self::new(files)
    }

    /// Writes the archive: the same bytes for the same files, whoever packs them and when.
    ///
    /// # Errors
    /// When it is too large to travel.
    pub fn pack(&self) -> Result<Vec<u8>, BundleError> {
        pack(self.files.iter().map(|(name, content)| (name.as_str(), content.as_slice())))
    }
}

/// Writes an archive of these files without looking at what they are.
///
/// # Errors
/// When it is too large to travel.
pub fn pack<'a>(files: impl IntoIterator<Item = (&'a str, &'a [u8])>) -> Result<Vec<u8>, BundleError> {
    let damaged = |error: std::io::Error| BundleError::Archive(error.to_string());
    let mut builder = tar::Builder::new(Vec::new());
    for (name, content) in files {
        let mut header = tar::Header::new_ustar();
        header.set_size(content.len() as u64);
        header.set_mode(0o644);
        header.set_mtime(0);
        builder.append_data(&mut header, name, content).map_err(damaged)?;
    }
    let archive = builder.into_inner().map_err(damaged)?;
    if archive.len() > BUNDLE_BYTES_MAX { Err(BundleError::TooLarge) } else { Ok(archive) }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const MANIFEST: &str = "name = \"hello\"\nmethods = [\"hello\"]\n";

    fn files(more: &[(&str, &str)]) -> Vec<(String, Vec<u8>)> {
        let own = [("manifest.toml", MANIFEST), ("function.py", "def hello(api): pass\n")];
        own.iter().chain(more).map(|(name, text)| ((*name).to_owned(), text.as_bytes().to_vec())).collect()
    }

    fn entry(kind: tar::EntryType, name: &str, link: &str, size: u64) -> Vec<u8> {
        let mut header = tar::Header::new_ustar();
        header.set_entry_type(kind);
        // Past the library's own check of names, as an attacker would write it.
        header.as_mut_bytes()[..name.len()].copy_from_slice(name.as_bytes());
        header.as_mut_bytes()[157..157 + link.len()].copy_from_slice(link.as_bytes());
        header.set_size(size);
        header.set_cksum();
        [header.as_bytes().as_slice(), &[0; 1024]].concat()
    }

    #[test]
    fn a_bundle_travels_unchanged() {
        let bundle = Bundle::new(files(&[("data/list.txt", "a")])).unwrap();
        assert_eq!(Bundle::unpack(&bundle.pack().unwrap()).unwrap(), bundle);
    }

    #[test]
    fn names_that_lead_elsewhere_are_refused() {
        for wrong in ["../x", "/etc/passwd", "a/../../x", "./x", "a//b", "a/", "", "a b", "a\0b", "ä", &"n".repeat(101)] {
            assert!(check_name(wrong).is_err(), "{wrong:?}");
            assert!(Bundle::new(files(&[(wrong, "")])).is_err(), "{wrong:?}");
        }
        assert!(check_name("a/..b/c.py").is_ok());
        assert!(matches!(Bundle::unpack(&entry(tar::EntryType::Regular, "../x", "", 0)), Err(BundleError::Name(_))));
    }

    #[test]
    fn what_is_no_regular_file_is_refused() {
        use tar::EntryType;
        for kind in [
            EntryType::Symlink,
            EntryType::Link,
            EntryType::Directory,
            EntryType::Char,
            EntryType::Fifo,
            EntryType::GNUSparse,
            EntryType::GNULongName,
            EntryType::XHeader,
        ] {
            let archive = entry(kind, "x", "/etc/passwd", 0);
            assert!(matches!(Bundle::unpack(&archive), Err(BundleError::NotAFile(_))), "{kind:?}");
        }
    }

    #[test]
    fn lying_sizes_and_missing_or_doubled_files_are_refused() {
        assert!(matches!(Bundle::unpack(&entry(tar::EntryType::Regular, "x", "", 1 << 33)), Err(BundleError::Archive(_))));
        assert_eq!(Bundle::unpack(&[]), Err(BundleError::NoManifest));
        assert_eq!(Bundle::unpack(&vec![0; BUNDLE_BYTES_MAX + 1]), Err(BundleError::TooLarge));
        assert!(matches!(Bundle::new(files(&[("function.py", "")])), Err(BundleError::Twice(_))));
        assert!(matches!(Bundle::new(files(&[("a", ""), ("a.py", ""), ("a/b", "")])), Err(BundleError::Twice(_))));
        assert!(matches!(Bundle::new(files(&[])[..1].to_vec()), Err(BundleError::NoCode(_))));
        let many: Vec<String> = (0..BUNDLE_FILES_MAX).map(|index| format!("f{index}")).collect();
        let many: Vec<(&str, &str)> = many.iter().map(|name| (name.as_str(), "")).collect();
        assert_eq!(Bundle::new(files(&many)), Err(BundleError::TooMany));
        let whole = Bundle::new(files(&[])).unwrap().pack().unwrap();
        assert!(matches!(Bundle::unpack(&whole[..700]), Err(BundleError::Archive(_) | BundleError::NoManifest)));
    }

    proptest! {
        #[test]
        fn no_bytes_panic(mut bytes in prop::collection::vec(any::<u8>(), 0..2000), at in 0usize..1500, good in any::<bool>()) {
            if good {
                let mut archive = Bundle::new(files(&[])).unwrap().pack().unwrap();
                let end = archive.len().min(at + bytes.len());
                let start = at.min(end);
                archive[start..end].copy_from_slice(&bytes[..end - start]);
                bytes = archive;
            }
            let _ = Bundle::unpack(&bytes);
        }
    }
}
