//! Puts the Python runtime into the program, so that node and runtime are always of one version.

use std::{env, error::Error, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    let source = Path::new(&env::var("CARGO_MANIFEST_DIR")?).join("../../python/bento").canonicalize()?;
    println!("cargo::rerun-if-changed={}", source.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(&source)? {
        let name = entry?.file_name().into_string().map_err(|_| "a file name is not UTF-8")?;
        // What authors test with (`testing/`, and what it alone uses) does not belong into the jail.
        if name.ends_with(".py") && name != "exit_policy.py" {
            names.push(name);
        }
    }
    names.sort();
    let entries: String = names.iter().map(|name| format!("({name:?}, include_str!({:?})),\n", source.join(name))).collect();
    fs::write(Path::new(&env::var("OUT_DIR")?).join("runtime.rs"), format!("[{entries}]"))?;
    Ok(())
}
