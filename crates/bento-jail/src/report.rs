//! What `bento-jail` says on its standard output, one JSON object a line.

use serde::{Deserialize, Serialize};

/// One line from `bento-jail`: first `up` or `refused`, and after `up`, once, `ended`.
///
/// ```text
/// {"up":{"pid":4711}}
/// {"refused":{"wall":"landlock","reason":"this kernel has no Landlock"}}
/// {"ended":{"exit":null,"signal":9,"cpu_ms":10004,"max_rss_kib":9216,"out_of_cpu":true}}
/// ```
#[derive(Clone, Debug, Deserialize, Eq, PartialEq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// Every wall stands and the program has started.
    Up {
        /// The program's process id, as it is seen outside.
        pid: u32,
    },
    /// A wall does not stand, so nothing was started. `bento-jail` then exits with 1.
    Refused {
        /// Which wall: `spec`, `namespaces`, `mounts`, `limits`, `rights`, `landlock`, `seccomp`, `start`…
        wall: String,
        /// What went wrong, in words for the operator.
        reason: String,
    },
    /// The program ended.
    Ended {
        /// Its exit status, if it exited.
        exit: Option<i32>,
        /// The signal that killed it, if one did.
        signal: Option<i32>,
        /// CPU time it used, user and system together.
        cpu_ms: u64,
        /// The most memory it had resident at once.
        max_rss_kib: u64,
        /// Whether it was killed because its CPU time was used up.
        out_of_cpu: bool,
    },
}
