//! Where this program keeps its files: the XDG base directories.

use std::{
    env,
    fs::{self, File, OpenOptions, TryLockError},
    io::{self, Write as _},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    thread,
    time::{Duration, Instant},
};

use super::failure::Failure;

/// `${VARIABLE:-~/FALLBACK}/bento`.
fn base(variable: &str, fallback: &str) -> Result<PathBuf, Failure> {
    // The specification has relative paths ignored.
    let given = env::var_os(variable).map(PathBuf::from).filter(|path| path.is_absolute());
    let home = || env::var_os("HOME").map(PathBuf::from).filter(|path| path.is_absolute()).map(|home| home.join(fallback));
    let base = given.or_else(home).ok_or_else(|| {
        Failure::input(format!("neither HOME nor {variable} says where files may be kept")).with_hint("set HOME to an absolute path")
    })?;
    Ok(base.join("bento"))
}

/// For files that a person writes.
pub(crate) fn config() -> Result<PathBuf, Failure> {
    base("XDG_CONFIG_HOME", ".config")
}

/// For what must not be lost.
pub(crate) fn data() -> Result<PathBuf, Failure> {
    base("XDG_DATA_HOME", ".local/share")
}

/// For what can be made again.
pub(crate) fn cache() -> Result<PathBuf, Failure> {
    base("XDG_CACHE_HOME", ".cache")
}

/// For sockets, which last as long as the person is there.
pub(crate) fn runtime() -> Result<PathBuf, Failure> {
    base("XDG_RUNTIME_DIR", ".cache")
}

/// Makes a directory and those above it, for this user alone.
pub(crate) fn make_private(directory: &Path) -> Result<(), Failure> {
    let mut builder = fs::DirBuilder::new();
    builder.recursive(true).mode(0o700);
    builder.create(directory).map_err(|error| Failure::file("making", directory, &error))
}

/// Refuses what others may look into: an existing file or directory with a wider mode than ours.
pub(crate) fn check_private(path: &Path, mode: u32) -> Result<(), Failure> {
    let found = match fs::metadata(path) {
        Ok(found) => found.permissions().mode() & 0o777,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(Failure::file("looking at", path, &error)),
    };
    if found & 0o077 == 0 {
        return Ok(());
    }
    Err(Failure::input(format!("others may look into {}, which is for tokens (mode {found:o})", path.display()))
        .with_hint(format!("`chmod {mode:o} {}` if nobody else has looked; else shut the functions down", path.display())))
}

/// How long another program may hold a file. It holds it for milliseconds.
const LOCK_DEADLINE: Duration = Duration::from_secs(10);

/// Keeps other programs from changing a file until the lock is dropped. It is on a file of its own, `.lock`, since the other one is replaced when
/// it is written.
pub(crate) fn lock(file: &Path) -> Result<File, Failure> {
    let path = file.with_extension("lock");
    let opened = OpenOptions::new().create(true).truncate(false).write(true).mode(0o600).open(&path);
    let lock = opened.map_err(|error| Failure::file("opening", &path, &error))?;
    let end = Instant::now() + LOCK_DEADLINE;
    loop {
        match lock.try_lock() {
            Ok(()) => return Ok(lock),
            Err(TryLockError::WouldBlock) if Instant::now() < end => thread::sleep(Duration::from_millis(20)),
            Err(TryLockError::WouldBlock) => {
                return Err(Failure::input(format!("another `bento` holds {}", file.display())).with_hint("wait for it, or end it"));
            }
            Err(TryLockError::Error(error)) => return Err(Failure::file("locking", &path, &error)),
        }
    }
}

/// Writes a file so that it is there whole or not at all, with this mode.
pub(crate) fn write_whole(path: &Path, content: &[u8], mode: u32) -> io::Result<()> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut file = tempfile::Builder::new().prefix(".bento-").permissions(fs::Permissions::from_mode(mode)).tempfile_in(directory)?;
    file.write_all(content)?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    fs::File::open(directory)?.sync_all()
}
