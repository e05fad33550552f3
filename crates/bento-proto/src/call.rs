//! Names of the function API's calls, and patterns over them.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize};

use crate::lines::from_text;

/// Every call that a policy or manifest can name.
pub const CALLS: &[&str] = &[
    "link.end",
    "link.make",
    "maybenot.end",
    "maybenot.start",
    "maybenot.trigger",
    "net.connect",
    "nodes.install",
    "nodes.installed",
    "nodes.invoke",
    "nodes.list",
    "nodes.outcome",
    "nodes.shutdown",
    "seal",
    "store.append",
    "store.commit",
    "store.delete",
    "store.get",
    "store.list",
    "store.put",
    "store.send",
    "store.usage",
    "tor.accept",
    "tor.circuit",
    "tor.circuit_connect",
    "tor.close_circuit",
    "tor.close_service",
    "tor.connect",
    "tor.consensus",
    "tor.controller",
    "tor.descriptor",
    "tor.events",
    "tor.extend",
    "tor.front",
    "tor.onion_service",
    "tor.path",
    "tor.publish",
    "tor.relays",
];

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
        other.within(std::slice::from_ref(self))
    }

    /// Is every call that it names named by one of these?
    pub fn within(&self, offers: &[Self]) -> bool {
        CALLS.iter().filter(|call| self.matches(call)).all(|call| offers.iter().any(|offer| offer.matches(call)))
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
        let stored: CallPattern = "store.*".parse().unwrap();
        assert!(stored.covers(&"store.put".parse().unwrap()) && !stored.covers(&family) && !family.covers(&stored));
        assert!(!"store.put".parse::<CallPattern>().unwrap().covers(&stored) && !stored.covers(&"*".parse().unwrap()));
        for wrong in ["", "net", "ne*", "net.listen", "store", "storage.*", "seal.*", "net.connect ", "**"] {
            assert!(wrong.parse::<CallPattern>().is_err(), "{wrong:?}");
        }
    }
}
