//! Packs the standard functions into the client, so that one program is enough.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

/// The standard functions, by the names of their directories.
const FUNCTIONS: &[&str] = &["browser", "cover", "dropbox"];

fn main() -> Result<(), Box<dyn Error>> {
    let root = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../functions");
    let mut code = String::new();
    for function in FUNCTIONS {
        let directory = root.join(function);
        println!("cargo::rerun-if-changed={}", directory.display());
        let mut files = Vec::new();
        for entry in fs::read_dir(&directory)? {
            let path = entry?.path();
            // What else lies there is the author's: tests, a README.
            let is_code = path.extension().is_some_and(|kind| ["py", "html", "css", "js"].iter().any(|code| kind == *code));
            let travels = is_code || path.file_name().is_some_and(|name| name == "manifest.toml");
            if travels && path.is_file() {
                files.push(path.canonicalize()?);
            }
        }
        files.sort();
        writeln!(code, "const {}: &[(&str, &[u8])] = &[", function.to_ascii_uppercase())?;
        for path in files {
            println!("cargo::rerun-if-changed={}", path.display());
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            writeln!(code, "    ({name:?}, include_bytes!({:?})),", path.display().to_string())?;
        }
        writeln!(code, "];")?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("standard.rs"), code)?;
    Ok(())
}
