//! Bundles: bytes that may be a tar archive. What is taken is packed and taken again, and holds no more than was sent.

use bento_proto::bundle::{Bundle, BundleError};

use crate::text;

pub fn run(data: &[u8]) {
    read(data);
    // The checksum of a header stops nearly every change of it, so each block is given the right one as well.
    let mut mended = data.to_vec();
    for block in mended.chunks_exact_mut(512) {
        if block[257..262] == *b"ustar" {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    read(&mended);
}

fn read(archive: &[u8]) {
    match Bundle::unpack(archive) {
        Ok(bundle) => {
            crate::manifest::holds(&bundle.manifest);
            assert!((1..=256).contains(&bundle.files.len()));
            assert!(bundle.files.iter().map(|(_, content)| content.len()).sum::<usize>() <= archive.len(), "it unfolds");
            for (index, (name, _)) in bundle.files.iter().enumerate() {
                assert!((1..=100).contains(&name.len()), "{name:?}");
                assert!(name.chars().all(|letter| letter.is_ascii_alphanumeric() || "._-/".contains(letter)), "{name:?}");
                assert!(name.split('/').all(|part| !matches!(part, "" | "." | "..")), "{name:?}");
                for (other, _) in &bundle.files[..index] {
                    let folder = |one: &str, of: &str| of.strip_prefix(one).is_some_and(|rest| rest.starts_with('/'));
                    assert!(name != other && !folder(name, other) && !folder(other, name), "{name:?} and {other:?}");
                }
            }
            assert!(bundle.files.iter().any(|(name, _)| *name == bundle.manifest.code));
            // What came in few blocks may need no more than them, and the end.
            let packed = bundle.pack().unwrap_or_else(|error| panic!("it cannot be packed again: {error}"));
            assert_eq!(Bundle::unpack(&packed).as_ref(), Ok(&bundle));
        }
        Err(BundleError::Manifest(_)) => {}
        Err(error) => text::is_short(&error.to_string()),
    }
}
