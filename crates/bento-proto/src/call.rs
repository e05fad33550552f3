//! Names of the function API's calls, and patterns over them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::lines::from_text;

/// Every call that a policy or manifest can name.
pub const CALLS: &[&str] = &["net.connect"];

/// One call by name, or a family of them: `net.connect`, `net.*`, `*`.
#[derive(Clone, Debug, Eq, PartialEq, Serialize)]
#[serde(into = "String")]
pub struct CallPattern(String);

/// The pattern names no call that exists.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
#[error("`{0}` names no call of the function API: there are {all}, and a trailing `*` stands for the rest of a name", all = CALLS.join(", "))]
pub struct UnknownCall(String);

impl CallPattern {
    /// Does it name this call?
    pub fn matches(&self, call: &str) -> bool {
        match self.0.strip_suffix('*') {
            Some(family) => call.starts_with(family),
            None => self.0 == call,
        }
    }

    /// Does it name every call that `other` names?
    pub fn covers(&self, other: &Self) -> bool {
        self.matches(&other.0) || CALLS.iter().filter(|call| other.matches(call)).all(|call| self.matches(call))
    }
}

impl FromStr for CallPattern {
    type Err = UnknownCall;

    fn from_str(text: &str) -> Result<Self, UnknownCall> {
        let pattern = Self(text.to_owned());
        let whole_words = text.strip_suffix('*').is_none_or(|family| family.is_empty() || family.ends_with('.'));
        if whole_words && CALLS.iter().any(|call| pattern.matches(call)) {
            Ok(pattern)
        } else {
            Err(UnknownCall(text.chars().take(60).collect()))
        }
    }
}

impl fmt::Display for CallPattern {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        out.write_str(&self.0)
    }
}

impl<'de> Deserialize<'de> for CallPattern {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        from_text(deserializer)
    }
}

impl From<CallPattern> for String {
    fn from(pattern: CallPattern) -> Self {
        pattern.0
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_names_its_family_and_no_neighbour() {
        let family: CallPattern = "net.*".parse().unwrap();
        assert!(family.matches("net.connect") && !family.matches("network") && !family.matches("store.put"));
        assert!(family.covers(&"net.connect".parse().unwrap()) && "*".parse::<CallPattern>().unwrap().covers(&family));
        for wrong in ["", "net", "ne*", "net.listen", "store.*", "net.connect ", "**"] {
            assert!(wrong.parse::<CallPattern>().is_err(), "{wrong:?}");
        }
    }
}
