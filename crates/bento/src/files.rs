//! A function's directory, read into a bundle.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use bento_proto::{
    bundle::{Bundle, BundleError, check_name},
    limits::{BUNDLE_BYTES_MAX, BUNDLE_FILES_MAX},
};

/// Directories that belong to the author and not to the function.
const LEFT_OUT: &[&str] = &["__pycache__", "tests"];

/// Why a directory is no function.
#[derive(Debug, thiserror::Error)]
pub enum FilesError {
    /// A file or directory cannot be read.
    #[error("reading {}", .0.display())]
    Read(PathBuf, #[source] io::Error),
    /// Its files make no bundle.
    #[error("{} is no function: {}", .0.display(), .1)]
    Bundle(PathBuf, #[source] BundleError),
}

/// Reads a function's directory: all regular files, sorted by name.
///
/// Left out are names that begin with a dot, `__pycache__` and `tests`. Links are refused, so that nothing travels that its author
/// did not put there.
///
/// # Errors
/// When a file cannot be read, has a name that cannot travel, or the files make no good bundle.
pub fn read_bundle(directory: &Path) -> Result<Bundle, FilesError> {
    let wrong = |error| FilesError::Bundle(directory.to_owned(), error);
    let mut files = Vec::new();
    let mut bytes = 0;
    let mut folders = vec![(directory.to_owned(), String::new())];
    while let Some((folder, prefix)) = folders.pop() {
        let unreadable = |error| FilesError::Read(folder.clone(), error);
        for entry in fs::read_dir(&folder).map_err(unreadable)? {
            let entry = entry.map_err(unreadable)?;
            let name = entry.file_name().to_string_lossy().into_owned();
            if name.starts_with('.') || LEFT_OUT.contains(&name.as_str()) {
                continue;
            }
            let (path, inside) = (entry.path(), format!("{prefix}{name}"));
            check_name(&inside).map_err(wrong)?;
            let kind = entry.file_type().map_err(|error| FilesError::Read(path.clone(), error))?;
            if kind.is_dir() {
                folders.push((path, format!("{inside}/")));
                continue;
            }
            if !kind.is_file() {
                return Err(wrong(BundleError::NotAFile(inside)));
            }
            if files.len() == BUNDLE_FILES_MAX {
                return Err(wrong(BundleError::TooMany));
            }
            // Looked at before it is read: a directory given by mistake may hold anything.
            bytes += entry.metadata().map_err(|error| FilesError::Read(path.clone(), error))?.len();
            if bytes > BUNDLE_BYTES_MAX as u64 {
                return Err(wrong(BundleError::TooLarge));
            }
            let content = fs::read(&path).map_err(|error| FilesError::Read(path, error))?;
            files.push((inside, content));
        }
    }
    files.sort();
    Bundle::new(files).map_err(wrong)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn function() -> tempfile::TempDir {
        let directory = tempfile::tempdir().unwrap();
        let put = |name: &str, text: &str| {
            let path = directory.path().join(name);
            fs::create_dir_all(path.parent().unwrap()).unwrap();
            fs::write(path, text).unwrap();
        };
        put("manifest.toml", "name = \"hello\"\nmethods = [\"hello\"]\n");
        put("function.py", "");
        put("data/list.txt", "a");
        put("tests/test_it.py", "");
        put("__pycache__/function.pyc", "");
        put(".git/config", "");
        directory
    }

    #[test]
    fn a_directory_is_read_without_what_is_its_authors() {
        let bundle = read_bundle(function().path()).unwrap();
        let names: Vec<&str> = bundle.files.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["data/list.txt", "function.py", "manifest.toml"]);
    }

    #[test]
    fn links_and_large_files_are_refused() {
        let with_link = function();
        std::os::unix::fs::symlink("/etc/passwd", with_link.path().join("list")).unwrap();
        assert!(matches!(read_bundle(with_link.path()), Err(FilesError::Bundle(_, BundleError::NotAFile(_)))));
        let large = function();
        fs::File::create(large.path().join("large")).unwrap().set_len(1 << 40).unwrap();
        assert!(matches!(read_bundle(large.path()), Err(FilesError::Bundle(_, BundleError::TooLarge))));
        assert!(matches!(read_bundle(Path::new("/nowhere")), Err(FilesError::Read(..))));
    }
}
