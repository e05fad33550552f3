//! Manifests: what is taken keeps every bound that the rest of the node relies on, and what is not is told without growing.

use bento_proto::{Manifest, limits, manifest::ManifestError};

use crate::text;

pub fn run(data: &[u8]) {
    let Ok(written) = std::str::from_utf8(data) else { return };
    let parsed = text::is_quick("a manifest", || Manifest::parse(written));
    match parsed {
        Ok(manifest) => holds(&manifest),
        // The parser of TOML quotes the line that it means.
        Err(ManifestError::Toml(error)) => assert!(error.len() <= 2048 + 2 * written.len()),
        Err(ManifestError::Value { reason, .. }) => assert!(reason.len() <= 2048, "{} bytes of reason", reason.len()),
        Err(ManifestError::TooLong(length)) => assert!(length > limits::MANIFEST_BYTES_MAX),
    }
}

/// What is written in no type, and is relied on all the same.
pub fn holds(manifest: &Manifest) {
    let Manifest { name, description, code, methods, needs } = manifest;
    let letters = |text: &str, more: &str| text.chars().all(|letter| letter.is_ascii_alphanumeric() || more.contains(letter));
    assert!((1..=40).contains(&name.len()) && letters(name, "-") && *name == name.to_lowercase(), "{name:?}");
    assert!(description.chars().count() <= 200 && !description.contains(char::is_control));
    assert!(code.ends_with(".py") && code.len() <= 100 && !code.starts_with('/') && letters(code, "._-/"), "{code:?}");
    assert!(code.split('/').all(|part| !matches!(part, "" | "." | "..")), "{code:?}");
    assert!((1..=32).contains(&methods.len()));
    assert!(methods.iter().all(|method| (1..=64).contains(&method.len()) && letters(method, "_") && !method.starts_with('_')));
    assert!(needs.memory.as_bytes() >= 16 << 20 && needs.scratch.as_bytes() >= 4096 && needs.descriptors >= 8);
    assert!(needs.cpu.as_millis() > 0 && needs.lifetime.as_millis() > 0 && needs.traffic.as_bytes() > 0);
    assert!(needs.processes > 0 && needs.invocations > 0);
    assert!(needs.connect.rules().len() <= 32);
}
