//! The files that Python needs: its program, its standard library, the loader and the shared libraries, and no more of the machine.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use crate::elf;
use crate::spec::Opening;

/// Where the loader looks without being told, in its order. Inside there is no `/etc/ld.so.cache`, so libraries must be found in these.
#[cfg(target_arch = "x86_64")]
const DIRECTORIES: &[&str] = &["/lib/x86_64-linux-gnu", "/usr/lib/x86_64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];
#[cfg(target_arch = "aarch64")]
const DIRECTORIES: &[&str] = &["/lib/aarch64-linux-gnu", "/usr/lib/aarch64-linux-gnu", "/lib64", "/usr/lib64", "/lib", "/usr/lib"];

/// Extension modules that make no sense in a jail (terminals, windows, Sun's yellow pages, old databases): what they alone need is not opened.
const WITHOUT: &[&str] = &["_curses", "_curses_panel", "_dbm", "_gdbm", "_tkinter", "nis", "readline"];

/// Loaded by name at run time: `pthread_exit` aborts without it.
const BY_NAME: &[&str] = &["libgcc_s.so.1"];

/// Deepest directory below one of `more` that is looked through.
const DEPTH_MAX: usize = 12;

/// What has to be open for the Python at `python` to run, and for extension modules in `more` to load.
///
/// `more` names files (`….so`) or directories looked through for them, such as an image's packages. They are not themselves opened, only
/// the libraries that they need. Reads some hundred files, so do it once and keep the answer. Blocks.
pub fn python_openings(python: &Path, more: &[PathBuf]) -> io::Result<Vec<Opening>> {
    let real = python.canonicalize().map_err(|error| saying("finding", python, error))?;
    let standard = standard_library(&real)?;
    let mut libraries =
        Libraries { within: more.iter().map(|path| path.canonicalize()).collect::<io::Result<_>>()?, ..Libraries::default() };
    libraries.within.push(standard.clone());

    let program = elf::read(&real)?.ok_or_else(|| invalid(format!("{} is no program for this machine", real.display())))?;
    let mut openings = vec![Opening { outside: real.clone(), inside: real.clone() }, Opening::same(&standard)];
    if real != python {
        openings.push(Opening { outside: real.clone(), inside: python.to_owned() });
    }
    if let Some(loader) = program.interpreter {
        libraries.opened.insert(loader.clone());
        openings.push(Opening::same(loader));
    }
    libraries.add_needs_of(&real)?;
    for name in BY_NAME {
        libraries.add(Path::new(name), None)?;
    }
    libraries.add_all_in(&standard.join("lib-dynload"), 0)?;
    for path in more {
        libraries.add_all_in(path, 0)?;
    }
    openings.extend(libraries.found.into_iter().map(|(inside, outside)| Opening { outside, inside }));
    openings.sort();
    openings.dedup();
    Ok(openings)
}

/// The loader and the shared libraries that a program needs, but not the program itself. Blocks.
pub fn library_openings(program: &Path) -> io::Result<Vec<Opening>> {
    let mut libraries = Libraries::default();
    let loader = elf::read(program)?.and_then(|elf| elf.interpreter);
    libraries.opened.extend(loader.clone());
    libraries.add_needs_of(program)?;
    let found = libraries.found.into_iter().map(|(inside, outside)| Opening { outside, inside });
    Ok(loader.map(Opening::same).into_iter().chain(found).collect())
}

/// `/usr/bin/python3.11` has its standard library in `/usr/lib/python3.11`.
fn standard_library(real: &Path) -> io::Result<PathBuf> {
    let prefix = real.parent().and_then(Path::parent).unwrap_or(Path::new("/"));
    let named = real.file_name().map(|name| prefix.join("lib").join(name));
    let is_one = |path: &PathBuf| path.join("os.py").is_file();
    if let Some(path) = named.filter(is_one) {
        return Ok(path);
    }
    let mut found = None;
    for entry in fs::read_dir(prefix.join("lib"))?.flatten() {
        let path = entry.path();
        if entry.file_name().to_string_lossy().starts_with("python3.") && is_one(&path) {
            if found.is_some() {
                return Err(invalid(format!("{} does not say which of several standard libraries is its own", real.display())));
            }
            found = Some(path);
        }
    }
    found.ok_or_else(|| invalid(format!("{} has no standard library beside it", real.display())))
}

#[derive(Default)]
struct Libraries {
    /// Inside and outside path of each library to open.
    found: BTreeMap<PathBuf, PathBuf>,
    /// Directories that are opened anyway.
    within: Vec<PathBuf>,
    /// What was looked into already, or is opened by its own path.
    opened: BTreeSet<PathBuf>,
}

impl Libraries {
    /// Adds what the extension modules in a directory, or one such file, need.
    fn add_all_in(&mut self, path: &Path, depth: usize) -> io::Result<()> {
        if path.is_file() {
            let name = path.file_name().map(OsStr::to_string_lossy).unwrap_or_default();
            let module = name.split('.').next().unwrap_or_default();
            let is_library = name.ends_with(".so") || name.contains(".so.");
            return if is_library && !WITHOUT.contains(&module) { self.add_needs_of(path) } else { Ok(()) };
        }
        if !path.is_dir() || depth > DEPTH_MAX {
            return Ok(());
        }
        for entry in fs::read_dir(path).map_err(|error| saying("reading", path, error))? {
            let entry = entry?;
            // A link is followed only to a file: a link to a directory may lead in a circle.
            if !entry.file_type()?.is_symlink() || entry.path().is_file() {
                self.add_all_in(&entry.path(), depth + 1)?;
            }
        }
        Ok(())
    }

    /// Adds the libraries that this file needs, and what they need in turn.
    fn add_needs_of(&mut self, path: &Path) -> io::Result<()> {
        if !self.opened.insert(path.to_owned()) {
            return Ok(());
        }
        let Some(elf) = elf::read(path).map_err(|error| saying("reading", path, error))? else { return Ok(()) };
        let beside = path.parent().unwrap_or(Path::new("/"));
        let own: Vec<PathBuf> = elf
            .search
            .iter()
            .flat_map(|search| std::env::split_paths(search).collect::<Vec<_>>())
            .map(|directory| match directory.to_string_lossy().replace("${ORIGIN}", "$ORIGIN").strip_prefix("$ORIGIN") {
                Some(rest) => beside.join(rest.trim_start_matches('/')),
                None => directory,
            })
            .collect();
        elf.needed.iter().try_for_each(|name| self.add(name, Some(&own)))
    }

    /// Adds one library. One that is not on this machine is left out: whatever needs it says so when it is loaded.
    fn add(&mut self, name: &Path, own: Option<&[PathBuf]>) -> io::Result<()> {
        let own = own.unwrap_or_default().iter().map(PathBuf::as_path);
        // `join` takes a name that is a whole path as it is.
        let Some(path) = own.chain(DIRECTORIES.iter().map(Path::new)).map(|directory| directory.join(name)).find(|path| path.is_file())
        else {
            return Ok(());
        };
        let real = path.canonicalize().map_err(|error| saying("finding", &path, error))?;
        let is_opened_anyway = self.within.iter().any(|directory| real.starts_with(directory)) || self.opened.contains(&path);
        if !is_opened_anyway {
            self.found.insert(path, real.clone());
        }
        self.add_needs_of(&real)
    }
}

fn saying(doing: &str, path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{doing} {}: {error}", path.display()))
}

fn invalid(text: String) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PYTHON: &str = "/usr/bin/python3.11";

    #[test]
    fn python_gets_its_own_files_and_not_the_machine() {
        if !Path::new(PYTHON).exists() {
            return;
        }
        let openings = python_openings(Path::new(PYTHON), &[]).unwrap();
        let has = |part: &str| openings.iter().any(|opening| opening.inside.to_string_lossy().contains(part));
        for part in ["/python3.11", "libc.so.6", "ld-linux", "libssl.so", "libffi.so", "libsqlite3.so"] {
            assert!(has(part), "{part} in {openings:?}");
        }
        for part in ["libreadline", "libnsl", "/etc"] {
            assert!(!has(part), "{part} in {openings:?}");
        }
        assert!(!openings.iter().any(|opening| DIRECTORIES.iter().any(|directory| opening.inside == Path::new(directory))));
        assert!(openings.len() < 40, "{}", openings.len());
    }
}
