//! The operations, and how a function is invoked.

use arbitrary::Arbitrary;
use bento_proto::Outcome;

use super::ask::Answer;

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum Op {
    Install {
        who: u8,
        ender: u8,
        what: u8,
    },
    /// The same twice at a time.
    Twice {
        who: u8,
        ender: u8,
        what: u8,
    },
    /// Only so much of the request, and then no client any more.
    InstallPart {
        who: u8,
        ender: u8,
        what: u8,
        part: u8,
    },
    Invoke {
        who: u8,
        how: How,
    },
    InvokePart {
        who: u8,
        part: u8,
    },
    /// Begins an invocation that waits for the end of its input.
    Hold {
        who: u8,
        connected: bool,
    },
    /// Ends one of these as it should.
    Release {
        which: u8,
    },
    /// Leaves one of these.
    Drop {
        which: u8,
    },
    Run {
        what: u8,
        how: How,
    },
    /// Leaves a run: before its bundle is there, while it loads, or while it answers.
    RunPart {
        what: u8,
        part: u8,
    },
    Status {
        who: u8,
        by_ender: bool,
    },
    End {
        ender: u8,
    },
    /// Each token where the other belongs.
    Swapped {
        who: u8,
    },
    /// Kills every function's process from outside.
    Kill,
    Restart,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
pub enum How {
    Echo(u16),
    Exact,
    Fail,
    Late,
    Leave,
    Lie,
    Unknown,
}

impl How {
    /// The method that does it.
    pub fn method(self) -> &'static str {
        match self {
            Self::Echo(_) => "echo",
            Self::Exact => "exact",
            Self::Fail => "fail",
            Self::Late => "late",
            Self::Leave => "leave",
            Self::Lie => "lie",
            Self::Unknown => "unknown",
        }
    }

    /// The answer must be what this method gives.
    pub fn check(self, answer: &Answer, what: u8, input: &[u8]) {
        let failed = |with: &str| {
            answer.is(502, "function-failed");
            assert!(String::from_utf8_lossy(&answer.body).contains(with), "{}", String::from_utf8_lossy(&answer.body));
        };
        match self {
            Self::Echo(_) => {
                assert_eq!(answer.body, [&[b'0' + what], input].concat());
                assert_eq!(answer.outcome, Some(Outcome::Returned));
            }
            Self::Exact => assert!(answer.status == 200 && answer.body == vec![b'x'; 100_000] && answer.outcome == Some(Outcome::Returned)),
            Self::Fail => failed("ValueError: no"),
            Self::Late => {
                assert_eq!(answer.body, b"some");
                assert!(
                    matches!(&answer.outcome, Some(Outcome::Failed { error, .. }) if error == "ValueError: no"),
                    "{:?}",
                    answer.outcome
                );
            }
            Self::Leave => failed("status 3"),
            Self::Lie => failed("violation"),
            Self::Unknown => {}
        }
    }
}
