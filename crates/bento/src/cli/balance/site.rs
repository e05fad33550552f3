//! A site as it travels: a tar archive of a directory.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use crate::cli::failure::Failure;

/// Longest site, in bytes. A replica has all of it in memory.
const SITE_BYTES_MAX: u64 = 64 << 20;

/// A block of the archive.
const BLOCK: usize = 512;

/// Longest path in the archive: what the plain header has room for.
const PATH_BYTES_MAX: usize = 100;

/// Reads the directory. What begins with a dot stays here, and so does what is no regular file.
pub(super) fn pack(directory: &Path) -> Result<Vec<u8>, Failure> {
    let mut files = Vec::new();
    collect(directory, directory, &mut files)?;
    files.sort();
    if files.is_empty() {
        return Err(Failure::input(format!("there is no file in {}", directory.display())).with_hint("give the directory of a site"));
    }
    let mut archive = Vec::new();
    for (name, path) in files {
        let failed = |error: io::Error| Failure::file("reading", &path, &error);
        if name.len() > PATH_BYTES_MAX {
            let text = format!("the path {} has more than {PATH_BYTES_MAX} bytes", bento::line(&name));
            return Err(Failure::input(text).with_hint("shorten it"));
        }
        let size = fs::metadata(&path).map_err(failed)?.len();
        if archive.len() as u64 + size > SITE_BYTES_MAX {
            let text = format!("the site has more than {} MiB", SITE_BYTES_MAX >> 20);
            return Err(Failure::input(text).with_hint("forward to an onion service of your own instead: `--origin ADDRESS.onion:80`"));
        }
        let content = fs::read(&path).map_err(failed)?;
        archive.extend_from_slice(&header(&name, content.len()));
        archive.extend_from_slice(&content);
        archive.resize(archive.len().next_multiple_of(BLOCK), 0);
    }
    archive.resize(archive.len() + 2 * BLOCK, 0);
    Ok(archive)
}

fn collect(root: &Path, directory: &Path, files: &mut Vec<(String, PathBuf)>) -> Result<(), Failure> {
    let failed = |error: io::Error| Failure::file("reading", directory, &error);
    for entry in fs::read_dir(directory).map_err(failed)? {
        let entry = entry.map_err(failed)?;
        let (path, kind) = (entry.path(), entry.file_type().map_err(failed)?);
        if entry.file_name().to_string_lossy().starts_with('.') {
            continue;
        }
        if kind.is_dir() {
            collect(root, &path, files)?;
        } else if kind.is_file() {
            let name = path.strip_prefix(root).unwrap_or(&path).to_str().map(str::to_owned);
            let name = name.ok_or_else(|| Failure::input(format!("the name of {} is not UTF-8", path.display())))?;
            files.push((name, path));
        }
    }
    Ok(())
}

/// The header of a regular file (POSIX.1-1988, ustar): name, mode, owner, size, time, checksum, kind.
fn header(name: &str, size: usize) -> [u8; BLOCK] {
    let mut block = [0; BLOCK];
    let mut put = |at: usize, bytes: &[u8]| block[at..at + bytes.len()].copy_from_slice(bytes);
    put(0, name.as_bytes());
    put(100, b"0000644\0");
    put(108, b"0000000\0");
    put(116, b"0000000\0");
    put(124, format!("{size:011o}\0").as_bytes());
    put(136, b"00000000000\0");
    put(148, b"        ");
    put(156, b"0");
    put(257, b"ustar\x0000");
    let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
    block
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_becomes_an_archive_that_tar_reads_and_hidden_files_stay_here() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().join("site");
        fs::create_dir_all(root.join("docs/.git")).unwrap();
        for (name, content) in [("index.html", "<h1>"), ("docs/a.txt", "aaa"), (".htpasswd", "no"), ("docs/.git/x", "no")] {
            fs::write(root.join(name), content).unwrap();
        }
        std::os::unix::fs::symlink("/etc/passwd", root.join("link")).unwrap();
        let file = directory.path().join("site.tar");
        fs::write(&file, pack(&root).unwrap()).unwrap();
        let told = std::process::Command::new("tar").arg("-tf").arg(&file).output().unwrap();
        assert!(told.status.success());
        assert_eq!(String::from_utf8(told.stdout).unwrap(), "docs/a.txt\nindex.html\n");
        let text = std::process::Command::new("tar").arg("-xOf").arg(&file).arg("docs/a.txt").output().unwrap();
        assert_eq!(text.stdout, b"aaa");
    }

    #[test]
    fn a_directory_without_files_or_with_a_long_path_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        assert_eq!(pack(directory.path()).unwrap_err().status, 2);
        fs::write(directory.path().join("a".repeat(101)), "x").unwrap();
        assert!(pack(directory.path()).unwrap_err().text.contains("100 bytes"));
        assert!(pack(&directory.path().join("none")).is_err());
    }
}
