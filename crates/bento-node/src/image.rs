//! What of the machine a function may read: interpreter, standard library, the image's packages, and the runtime.
//!
//! The runtime is part of this program and written below the node's state directory at start, so that it always is of one version.

use std::{
    collections::BTreeMap,
    fs::Permissions,
    io,
    os::unix::fs::PermissionsExt,
    path::{Path, PathBuf},
    process::Stdio,
    sync::Arc,
    time::Duration,
};

use bento_jail::Opening;

use crate::config;

/// Everything that is the same for all functions of an image.
#[derive(Debug)]
pub struct Image {
    /// The interpreter, links followed.
    pub python: PathBuf,
    /// What is opened inside, read only.
    pub openings: Vec<Opening>,
    /// Does `/packages` exist inside?
    pub has_packages: bool,
    /// Names of the packages.
    pub packages: Vec<String>,
}

/// Images by name.
pub type Images = BTreeMap<String, Arc<Image>>;

const RUNTIME: &[(&str, &str)] = &include!(concat!(env!("OUT_DIR"), "/runtime.rs"));

/// Where the runtime is inside.
const INSIDE: &str = "/bento";

/// Where certificates are inside, as OpenSSL of Debian looks for them.
const CERTIFICATES: &str = "/etc/ssl/certs/ca-certificates.crt";

/// Compiling the runtime takes about 0.2 s; a machine that needs a hundred times as long is in trouble.
const COMPILE_DEADLINE: Duration = Duration::from_secs(30);

/// An image cannot be offered.
#[derive(Debug, thiserror::Error)]
#[error("image {name}: {what}")]
pub struct ImageError {
    name: String,
    what: String,
    source: Option<io::Error>,
}

/// Prepares all images: finds their files, writes and compiles the runtime.
///
/// # Errors
/// When a file is not there.
pub async fn prepare(images: &BTreeMap<String, config::Image>, state: &Path) -> Result<Images, ImageError> {
    let mut prepared = Images::new();
    for (name, image) in images {
        let failed = |what: String, source: Option<io::Error>| ImageError { name: name.clone(), what, source };
        let python =
            image.python.canonicalize().map_err(|error| failed(format!("no interpreter at {}", image.python.display()), Some(error)))?;
        let runtime = runtime(state, &python).await.map_err(|error| failed("writing the runtime".into(), Some(error)))?;
        let mut openings = vec![Opening { outside: runtime, inside: INSIDE.into() }];
        let mut extensions = Vec::new();
        for package in &image.packages {
            let file_name = find(&image.packages_from, package).ok_or_else(|| {
                failed(
                    format!("no package `{package}` in {}; on Debian it may be in python3-{package}", image.packages_from.display()),
                    None,
                )
            })?;
            let outside = image.packages_from.join(&file_name);
            extensions.push(outside.clone());
            openings.push(Opening { outside, inside: Path::new("/packages").join(file_name) });
        }
        if image.certificates.exists() {
            if !readable_by_all(&image.certificates) {
                return Err(failed(format!("{} is not readable by all; a function runs as nobody", image.certificates.display()), None));
            }
            openings.push(Opening { outside: image.certificates.clone(), inside: CERTIFICATES.into() });
        }
        let found = bento_jail::python_openings(&python, &extensions);
        openings.extend(found.map_err(|error| failed("finding the interpreter's files".into(), Some(error)))?);
        if image.packages.iter().any(|package| package == "cryptography") {
            openings.extend(legacy_provider(&openings));
        }
        let has_packages = !image.packages.is_empty();
        prepared.insert(name.clone(), Arc::new(Image { python, openings, has_packages, packages: image.packages.clone() }));
    }
    Ok(prepared)
}

/// Debian 12's `cryptography` does not load without OpenSSL's old algorithms, which OpenSSL looks for beside its library.
fn legacy_provider(openings: &[Opening]) -> Option<Opening> {
    let is_crypto = |opening: &&Opening| opening.inside.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcrypto.so."));
    // It looks below the place where the library was installed, which may be open inside under another name.
    let module = openings.iter().find(is_crypto)?.outside.canonicalize().ok()?.with_file_name("ossl-modules").join("legacy.so");
    module.is_file().then(|| Opening { outside: module.clone(), inside: module })
}

fn readable_by_all(path: &Path) -> bool {
    std::fs::metadata(path).is_ok_and(|metadata| metadata.permissions().mode() & 0o004 != 0)
}

/// The file or directory of a module: `name/`, `name.py`, or an extension module such as `name.cpython-311-x86_64-linux-gnu.so`.
fn find(directory: &Path, name: &str) -> Option<String> {
    if name.is_empty() || !name.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') {
        return None;
    }
    let is_it = |file: &str| {
        let rest = file.strip_prefix(name)?;
        (rest.is_empty() || rest == ".py" || (rest.starts_with(".cpython-") && rest.ends_with(".so"))).then_some(())
    };
    let mut found: Vec<String> = std::fs::read_dir(directory)
        .ok()?
        .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
        .filter(|file| is_it(file).is_some())
        .collect();
    found.sort();
    found.into_iter().next()
}

/// Writes the runtime's files and compiles them with the interpreter that will run them; inside, nothing can be written.
async fn runtime(state: &Path, python: &Path) -> io::Result<PathBuf> {
    let directory = state.join("runtime").join("bento");
    std::fs::create_dir_all(&directory)?;
    // Functions of a node that root runs are nobody's, whatever root's umask says.
    for open in [directory.as_path(), &state.join("runtime")] {
        std::fs::set_permissions(open, Permissions::from_mode(0o755))?;
    }
    for (name, text) in RUNTIME {
        let path = directory.join(name);
        // An unchanged file keeps its time, and with it its compiled form.
        if std::fs::read_to_string(&path).ok().as_deref() != Some(*text) {
            std::fs::write(&path, text)?;
        }
        std::fs::set_permissions(&path, Permissions::from_mode(0o644))?;
    }
    let mut compile = tokio::process::Command::new(python);
    // Compiled files name their sources. A function can read them, and is told the path inside, not where the operator keeps the node's state.
    compile.args(["-I", "-S", "-m", "compileall", "-q", "--invalidation-mode", "unchecked-hash", "-p", INSIDE, "-s"]);
    compile.arg(state.join("runtime")).arg(&directory);
    compile.env_clear().stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).kill_on_drop(true);
    // Unchecked, since the files are ours and the check costs a read of each at every start; so stale ones are removed first.
    let _ = std::fs::remove_dir_all(directory.join("__pycache__"));
    let status = tokio::time::timeout(COMPILE_DEADLINE, compile.status()).await.map_err(|_| io::Error::from(io::ErrorKind::TimedOut))??;
    if !status.success() {
        return Err(io::Error::other("the interpreter could not compile the runtime"));
    }
    let compiled = directory.join("__pycache__");
    std::fs::set_permissions(&compiled, Permissions::from_mode(0o755))?;
    for entry in std::fs::read_dir(&compiled)? {
        std::fs::set_permissions(entry?.path(), Permissions::from_mode(0o644))?;
    }
    Ok(state.join("runtime"))
}
