//! Puts the Python runtime into the program, so that node and runtime are always of one version.

use std::{env, error::Error, fmt::Write as _, fs, path::Path};

fn main() -> Result<(), Box<dyn Error>> {
    // Relative, and the texts themselves are written: clones that share a build directory must not get each other's files.
    let source = Path::new("../../python/bento");
    println!("cargo::rerun-if-changed={}", source.display());
    let mut names = Vec::new();
    for entry in fs::read_dir(source)? {
        let name = entry?.file_name().into_string().map_err(|_| "a file name is not UTF-8")?;
        // What authors test with (`testing/`, and what it alone uses) does not belong into the jail.
        if name.ends_with(".py") && name != "exit_policy.py" {
            names.push(name);
        }
    }
    names.sort();
    let mut entries = String::new();
    for name in &names {
        writeln!(entries, "({name:?}, {:?}),", fs::read_to_string(source.join(name))?)?;
    }
    fs::write(Path::new(&env::var("OUT_DIR")?).join("runtime.rs"), format!("[{entries}]"))?;
    Ok(())
}
