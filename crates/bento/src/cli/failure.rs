//! How a command ends when it is not done: one line of what, one line of what next, and an exit status.

use std::{fmt, io, path::Path};

use bento::ClientError;
use bento_proto::Outcome;

/// The function failed, or ran into a bound.
pub(crate) const FUNCTION: u8 = 1;
/// The command line, a file or another input is wrong.
pub(crate) const BAD_INPUT: u8 = 2;
/// The node refuses.
pub(crate) const REFUSED: u8 = 3;
/// There is no conclave whose evidence is accepted.
pub(crate) const EVIDENCE: u8 = 4;
/// There is no way into the Tor network.
pub(crate) const TOR: u8 = 5;
/// The node cannot be reached, breaks off or does not behave as one.
pub(crate) const NODE: u8 = 6;
/// Whoever read our output has gone: what a shell tells of a program that SIGPIPE ended.
const PIPE: u8 = 141;

/// Why a command was not done.
#[derive(Clone, Debug)]
pub(crate) struct Failure {
    pub(crate) status: u8,
    pub(crate) text: String,
    pub(crate) hint: Option<String>,
    /// More lines of the node or the function, shown with a mark before each, so that they cannot pass for ours.
    pub(crate) quoted: String,
}

impl Failure {
    pub(crate) fn new(status: u8, text: impl Into<String>) -> Self {
        Self { status, text: text.into(), hint: None, quoted: String::new() }
    }

    /// A wrong command line, file or other input.
    pub(crate) fn input(text: impl Into<String>) -> Self {
        Self::new(BAD_INPUT, text)
    }

    /// An end that needs no words.
    pub(crate) fn silent(status: u8) -> Self {
        Self::new(status, "")
    }

    /// A file could not be handled: `doing` says what was being done to it.
    pub(crate) fn file(doing: &str, path: &Path, error: &io::Error) -> Self {
        let hint = match error.kind() {
            io::ErrorKind::NotFound => "look at the path",
            io::ErrorKind::PermissionDenied => "look whether this user may do that",
            io::ErrorKind::StorageFull => "make room, or use another disk",
            _ => "look at the file",
        };
        Self::input(format!("{doing} {}: {}", path.display(), reason(error))).with_hint(hint)
    }

    /// Our output could not be written.
    pub(crate) fn output(error: &io::Error) -> Self {
        if error.kind() == io::ErrorKind::BrokenPipe {
            return Self::silent(PIPE);
        }
        Self::input(format!("writing the output: {}", reason(error))).with_hint("look at where the output goes")
    }

    #[must_use]
    pub(crate) fn with_hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// A failed request that concerns a function by this name, from this directory if from one.
    pub(crate) fn about(error: ClientError, name: &str, directory: Option<&Path>) -> Self {
        let mut failure = Self::from(error);
        if failure.status == REFUSED {
            failure.text = failure.text.replacen("the node refused: ", &format!("the node refused {name}: "), 1);
        }
        if let (Some(hint), Some(directory)) = (&mut failure.hint, directory) {
            *hint = hint.replace("--fit DIR", &format!("--fit {}", directory.display()));
        }
        failure
    }

    /// An invocation that did not return, by its outcome.
    pub(crate) fn outcome(outcome: &Outcome) -> Option<Self> {
        match outcome {
            Outcome::Returned => None,
            other => Some(Self::from(ClientError::Ended(other.clone()))),
        }
    }
}

/// What the system says, without the number behind it.
fn reason(error: &io::Error) -> String {
    let text = error.to_string();
    text.split(" (os error").next().unwrap_or_default().to_owned()
}

impl From<ClientError> for Failure {
    fn from(error: ClientError) -> Self {
        let status = match &error {
            ClientError::Refused(_) => REFUSED,
            ClientError::Ended(_) => FUNCTION,
            ClientError::Evidence { .. } => EVIDENCE,
            ClientError::Request(_) | ClientError::Input(_) | ClientError::Random(_) | ClientError::NoDemand => BAD_INPUT,
            other if other.is_tor_unreachable() => TOR,
            _ => NODE,
        };
        let text = match &error {
            ClientError::Ended(Outcome::Killed { bound }) => format!("the function was killed: {bound}"),
            ClientError::NotThere(cause) | ClientError::Input(cause) => format!("{error}: {}", reason(cause)),
            other => other.to_string(),
        };
        let quoted = match &error {
            ClientError::Ended(Outcome::Failed { traceback, .. }) => traceback.clone(),
            ClientError::Refused(problem) => problem.traceback.clone().unwrap_or_default(),
            _ => String::new(),
        };
        Self { status, text, hint: Some(error.hint().to_owned()), quoted }
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.text.is_empty() {
            return Ok(());
        }
        for line in self.quoted.lines() {
            writeln!(out, "  | {line}")?;
        }
        writeln!(out, "Error: {}", self.text)?;
        match &self.hint {
            Some(hint) => writeln!(out, "Hint: {hint}"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_traceback_cannot_pass_for_a_message_of_ours() {
        let outcome = Outcome::Failed { error: "ValueError: no".into(), traceback: "Traceback\nError: all is well\n".into() };
        let shown = Failure::outcome(&outcome).unwrap().to_string();
        assert_eq!(
            shown,
            "  | Traceback\n  | Error: all is well\nError: the function failed: ValueError: no\nHint: look at the function's traceback\n"
        );
        assert!(Failure::outcome(&Outcome::Returned).is_none());
    }
}
