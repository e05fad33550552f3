//! Packs the standard functions into the client, so that one program is enough.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

/// The standard functions, by the names of their directories.
const FUNCTIONS: &[&str] = &["browser", "cover", "dropbox", "shard"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../functions");
    let mut code = String::new();
    for function in FUNCTIONS {
        let directory = root.join(function).canonicalize()?;
        let mut files = Vec::new();
        let mut folders = vec![directory.clone()];
        while let Some(folder) = folders.pop() {
            println!("cargo::rerun-if-changed={}", folder.display());
            for entry in fs::read_dir(&folder)? {
                let path = entry?.path();
                let named = |name: &str| path.file_name().is_some_and(|own| own == name);
                // What else lies there is the author's: tests, a README.
                let is_code = path.extension().is_some_and(|kind| ["py", "html", "css", "js"].iter().any(|code| kind == *code));
                if path.is_dir() && !["tests", "__pycache__"].iter().any(|name| named(name)) {
                    folders.push(path);
                } else if path.is_file() && (is_code || named("manifest.toml")) {
                    files.push(path);
                }
            }
        }
        files.sort();
        writeln!(code, "const {}: &[(&str, &[u8])] = &[", function.to_ascii_uppercase())?;
        for path in files {
            println!("cargo::rerun-if-changed={}", path.display());
            let name = path.strip_prefix(&directory)?.to_string_lossy().into_owned();
            writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())?;
        }
        writeln!(code, "];")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("standard.rs"), code)?;
    Ok(())
}
