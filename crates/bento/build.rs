//! Packs the standard functions into the client, so that one program is enough.

use std::{
    env,
    error::Error,
    fmt::Write as _,
    fs,
    path::{Path, PathBuf},
};

/// The standard functions, by the names of their directories.
const FUNCTIONS: &[&str] = &["browser", "cover", "dropbox", "load-balancer", "shard"];

fn main() -> Result<(), Box<dyn Error>> {
    // Relative, and the bytes themselves are written: clones that share a build directory must not get each other's files.
    let root = Path::new("../../functions");
    let mut code = String::new();
    for function in FUNCTIONS {
        let directory = root.join(function);
        let mut files = Vec::new();
        collect(&directory, &mut files)?;
        files.sort();
        writeln!(code, "const {}: &[(&str, &[u8])] = &[", function.to_ascii_uppercase().replace('-', "_"))?;
        for path in files {
            println!("cargo::rerun-if-changed={}", path.display());
            let name = path.strip_prefix(&directory)?.to_string_lossy().into_owned();
            writeln!(code, "    ({name:?}, {:?}.as_bytes()),", fs::read_to_string(&path)?)?;
        }
        writeln!(code, "];")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("standard.rs"), code)?;
    Ok(())
}

/// What travels of a directory and those below it. What else lies there is the author's: tests, a README.
fn collect(directory: &Path, files: &mut Vec<PathBuf>) -> Result<(), Box<dyn Error>> {
    println!("cargo::rerun-if-changed={}", directory.display());
    for entry in fs::read_dir(directory)? {
        let path = entry?.path();
        let is_named = |names: &[&str]| path.file_name().is_some_and(|name| names.iter().any(|one| name == *one));
        if path.is_dir() && !is_named(&["tests", "__pycache__"]) {
            collect(&path, files)?;
        }
        let is_code = path.extension().is_some_and(|kind| ["py", "html", "css", "js"].iter().any(|code| kind == *code));
        if path.is_file() && (is_code || is_named(&["manifest.toml"])) {
            files.push(path);
        }
    }
    Ok(())
}
