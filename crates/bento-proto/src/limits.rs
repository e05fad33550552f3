//! Bounds that both sides keep, with their reason and unit.

/// Longest manifest, in bytes. A full one is under 2 KiB; eight times that leaves room for long lists.
pub const MANIFEST_BYTES_MAX: usize = 16 * 1024;

/// Longest policy file, in bytes. Its destinations may be many.
pub const POLICY_BYTES_MAX: usize = 64 * 1024;

/// Longest bundle, in bytes as it travels. Functions are source code; a megabyte is a large program.
pub const BUNDLE_BYTES_MAX: usize = 1024 * 1024;

/// Most files in a bundle.
pub const BUNDLE_FILES_MAX: usize = 256;

/// Longest file name in a bundle, in bytes: what a plain tar header holds.
pub const BUNDLE_NAME_MAX: usize = 100;

/// Longest arguments of an invocation, in bytes of JSON. They travel in a header; more data belongs into the input.
pub const ARGUMENTS_BYTES_MAX: usize = 16 * 1024;

/// Most rules in a manifest's `connect`. The comparison with a policy costs their product.
pub const MANIFEST_RULES_MAX: usize = 32;

/// Most rules in a policy's `connect`. Enough for a relay's reduced exit policy.
pub const POLICY_RULES_MAX: usize = 256;

/// Least address space that a manifest asks for, in bytes. In less no interpreter starts, and no jail is put up.
pub const MEMORY_BYTES_MIN: u64 = 16 << 20;

/// Least scratch that a manifest asks for, in bytes: one page.
pub const SCRATCH_BYTES_MIN: u64 = 4096;

/// Fewest descriptors that a manifest asks for. Four are open when a function starts, and its libraries are read through others.
pub const DESCRIPTORS_MIN: u64 = 8;

/// Most methods that a manifest names.
pub const METHODS_MAX: usize = 32;

/// Longest error text of a function that travels, in characters.
pub const ERROR_CHARS_MAX: usize = 1024;

/// Longest traceback of a function that travels, in characters. It must fit into HTTP trailers (16 KiB) even when escaped.
pub const TRACEBACK_CHARS_MAX: usize = 6000;

/// Most log lines of a function that are kept for its client.
pub const LOG_LINES_MAX: usize = 100;
