//! The middlebox node policy: what an operator allows, `policy.toml`.

use serde::{Deserialize, Serialize};

use crate::{
    call::CallPattern,
    exit_policy::ExitPolicy,
    grant::{Grant, Line},
    limits::{POLICY_BYTES_MAX, POLICY_RULES_MAX},
    lines,
    manifest::{Egress, Manifest, is_name},
    refusal::Refusal,
    syscalls::Syscalls,
    unit::{Rate, Share, Size, Span},
};

/// What a node allows any one function, and how many of them. Has the keys of a manifest's needs, and a few that concern the node alone.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Policy {
    /// What one function may have.
    pub offers: Offers,
}

/// The amounts of a policy. What is left out has the value given here.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
#[serde(deny_unknown_fields, default)]
pub struct Offers {
    /// Sets of packages. `["python3"]`.
    pub image: Vec<String>,
    /// Address space of a function's process. 256 MiB.
    pub memory: Size,
    /// Its file system in memory. 64 MiB.
    pub scratch: Size,
    /// What it may keep in the node's store. 64 MiB.
    pub storage: Size,
    /// CPU time over its whole life. 60 s.
    pub cpu: Span,
    /// Part of one processor core, averaged over a short time. 100 %.
    pub share: Share,
    /// Bytes of all its streams, both ways, over its whole life. 256 MiB.
    pub traffic: Size,
    /// Bytes of all its streams together, both ways, averaged over a second. 16 MiB/s.
    pub rate: Rate,
    /// From install to the end. 24 h.
    pub lifetime: Span,
    /// May its process be kept, and started with the node? That takes its key on the node's disk. No.
    pub keep_awake: bool,
    /// Threads at the same time. 32.
    pub processes: u32,
    /// Open descriptors at the same time. 256.
    pub descriptors: u32,
    /// Invocations of one function at the same time. 8.
    pub invocations: u32,
    /// Functions that it may have on other nodes at the same time. 4.
    pub installs: u32,
    /// Circuits of its own that it may have open at the same time. 8.
    pub circuits: u32,
    /// Onion services of its own that it may have at the same time. 1.
    pub onion_services: u32,
    /// Calls of the function API. Every one there is, by its family, but for `tor.*`.
    pub calls: Vec<CallPattern>,
    /// Where connections may leave. `["tor"]`.
    pub egress: Vec<Egress>,
    /// Where functions may connect. Public addresses at ports 80 and 443.
    pub connect: ExitPolicy,
    /// System calls. The default.
    pub syscalls: Syscalls,
    /// Functions at the same time, all together. 50.
    pub functions: u32,
    /// Functions that are installed within any 24 hours, all together. 1000.
    pub functions_per_day: u32,
    /// Through how many functions on other nodes an install may come. 2.
    pub depth: u32,
}

impl Default for Offers {
    fn default() -> Self {
        let web = ["accept *:80", "accept *:443"];
        Self {
            image: vec!["python3".into()],
            memory: Size::mib(256),
            scratch: Size::mib(64),
            storage: Size::mib(64),
            cpu: Span::seconds(60),
            share: Share::CORE,
            traffic: Size::mib(256),
            rate: Rate::mib(16),
            lifetime: Span::seconds(24 * 3600),
            keep_awake: false,
            processes: 32,
            descriptors: 256,
            invocations: 8,
            installs: 4,
            circuits: 8,
            onion_services: 1,
            calls: ["net.connect", "store.*", "nodes.*", "link.*", "seal"].iter().filter_map(|call| call.parse().ok()).collect(),
            egress: vec![Egress::Tor],
            connect: web.iter().filter_map(|rule| rule.parse().ok()).collect(),
            syscalls: Syscalls::default(),
            functions: 50,
            functions_per_day: 1000,
            depth: 2,
        }
    }
}

/// Why a text is no policy.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum PolicyError {
    /// It is too long to look at.
    #[error("it has {0} bytes, and at most {POLICY_BYTES_MAX} are allowed")]
    TooLong(usize),
    /// TOML, a key or a value is wrong; the text names the line.
    #[error("{0}")]
    Toml(String),
    /// A key has a value that cannot be.
    #[error("{line}offers.{key}: {reason}")]
    Value {
        /// Its line, as `line 3: `; empty where there is no text, or it does not have the key.
        line: String,
        /// The key.
        key: &'static str,
        /// What is wrong, and what would be right.
        reason: String,
    },
}

impl Policy {
    /// Reads a policy file.
    ///
    /// # Errors
    /// With the line, when it is not TOML, has an unknown key, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong(text.len()));
        }
        let policy: Self = toml::from_str(text).map_err(|error| PolicyError::Toml(error.to_string().trim_end().to_owned()))?;
        policy.check().map_err(|error| error.within(text))?;
        Ok(policy)
    }

    /// Checks what the types do not: a policy that came over the network passes here as well.
    ///
    /// # Errors
    /// When a value cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        let offers = &self.offers;
        let value = |key, reason: String| Err(PolicyError::Value { line: String::new(), key, reason });
        if offers.image.is_empty() || !offers.image.iter().all(|image| is_name(image)) {
            return value("image", "must name at least one image, each 1 to 40 lower-case letters, digits and hyphens".into());
        }
        if offers.egress.contains(&Egress::Any) {
            return value("egress", "is a list of `tor` and `direct`; `any` is for manifests".into());
        }
        if offers.connect.rules().len() > POLICY_RULES_MAX {
            return value("connect", format!("has more than {POLICY_RULES_MAX} rules"));
        }
        Ok(())
    }

    /// As a policy file.
    pub fn to_toml(&self) -> String {
        // A policy is made of strings, numbers and lists of strings: writing it cannot fail.
        toml::to_string(self).unwrap_or_default()
    }

    /// The keys in which this policy differs from an earlier one, in the order of the alphabet.
    pub fn changed(&self, earlier: &Self) -> Vec<String> {
        let table = |policy: &Self| toml::Table::try_from(&policy.offers).unwrap_or_default();
        let earlier = table(earlier);
        table(self).into_iter().filter(|(key, value)| earlier.get(key) != Some(value)).map(|(key, _)| key).collect()
    }

    /// Compares a manifest with this policy, line by line, in the order in which both are written.
    pub fn compare(&self, manifest: &Manifest) -> Vec<Line> {
        let (needs, offers) = (&manifest.needs, &self.offers);
        let amount = |key, needs: String, offers: String, fits| Line { key, needs, offers, fits };
        let upto = |key, need: u32, offer: u32| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let size = |key, need: Size, offer: Size| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let span = |key, need: Span, offer: Span| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let calls_fit = needs.calls.iter().all(|need| need.within(&offers.calls));
        let egress_fits = needs.connect.rules().is_empty() || self.egress(needs.egress).is_some();
        let uncovered = offers.connect.first_uncovered(&needs.connect);
        let connect_offer = match uncovered {
            Some((address, port)) => format!("{} (not {} port {port})", offers.connect, address),
            None => offers.connect.to_string(),
        };
        let closed = needs.syscalls.beyond(&offers.syscalls);
        let syscalls_offer = match closed.as_slice() {
            [] => offers.syscalls.to_string(),
            names => format!("{} (not {})", offers.syscalls, Syscalls::told(names)),
        };
        vec![
            amount("image", needs.image.clone(), list(&offers.image), offers.image.contains(&needs.image)),
            size("memory", needs.memory, offers.memory),
            size("scratch", needs.scratch, offers.scratch),
            size("storage", needs.storage, offers.storage),
            span("cpu", needs.cpu, offers.cpu),
            amount("share", needs.share.to_string(), offers.share.to_string(), needs.share <= offers.share),
            size("traffic", needs.traffic, offers.traffic),
            amount("rate", needs.rate.to_string(), offers.rate.to_string(), needs.rate <= offers.rate),
            span("lifetime", needs.lifetime, offers.lifetime),
            amount("keep_awake", needs.keep_awake.to_string(), offers.keep_awake.to_string(), offers.keep_awake || !needs.keep_awake),
            upto("processes", needs.processes, offers.processes),
            upto("descriptors", needs.descriptors, offers.descriptors),
            upto("invocations", needs.invocations, offers.invocations),
            upto("installs", needs.installs, offers.installs),
            upto("circuits", needs.circuits, offers.circuits),
            upto("onion_services", needs.onion_services, offers.onion_services),
            amount("calls", list(&needs.calls), list(&offers.calls), calls_fit),
            amount("egress", needs.egress.to_string(), list(&offers.egress), egress_fits),
            amount("connect", needs.connect.to_string(), connect_offer, uncovered.is_none()),
            amount("syscalls", needs.syscalls.to_string(), syscalls_offer, closed.is_empty()),
        ]
    }

    /// Decides whether this function may run here. The only maker of a [`Grant`].
    ///
    /// # Errors
    /// The first line that asks for more than is offered.
    pub fn admit(&self, manifest: &Manifest) -> Result<Grant, Refusal> {
        match self.compare(manifest).into_iter().find(|line| !line.fits) {
            Some(line) => Err(Refusal::NotOffered(line)),
            None => Ok(Grant::new(manifest, self.egress(manifest.needs.egress), self.offers.connect.clone())),
        }
    }

    /// Decides whether an install may come from so far: through so many functions on other nodes.
    ///
    /// # Errors
    /// When it comes through more than the policy takes.
    pub fn permits_depth(&self, depth: u32) -> Result<(), Refusal> {
        if depth <= self.offers.depth { Ok(()) } else { Err(Refusal::Depth { depth, limit: self.offers.depth }) }
    }

    pub(crate) fn egress(&self, need: Egress) -> Option<Egress> {
        self.offers.egress.iter().copied().find(|offer| need == Egress::Any || need == *offer)
    }
}

impl PolicyError {
    /// With the line of this text.
    fn within(self, text: &str) -> Self {
        match self {
            Self::Value { key, reason, .. } => Self::Value { line: lines::front(text, &format!("offers.{key}")), key, reason },
            other => other,
        }
    }
}

/// What stands in place of rules where the operator wants those of the relay beside the node.
const RELAY: &str = "relay";

/// A policy file as its operator wrote it. What a node publishes is always a [`Policy`].
#[derive(Clone, Debug, Eq, PartialEq)]
pub enum PolicyFile {
    /// It says everything.
    Whole(Policy),
    /// It says `connect = "relay"`: the rules are to be asked of the relay beside the node.
    Relay(RelayPolicy),
}

/// A policy that lacks the relay's rules.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct RelayPolicy(Policy);

impl PolicyFile {
    /// Reads a policy file.
    ///
    /// # Errors
    /// With the line, when it is not TOML, has an unknown key, or a value that cannot be.
    pub fn parse(text: &str) -> Result<Self, PolicyError> {
        if text.len() > POLICY_BYTES_MAX {
            return Err(PolicyError::TooLong(text.len()));
        }
        match lines::value(text, Some("offers"), "connect") {
            Some((value, span)) if value.as_str() == Some(RELAY) => {
                // An empty list in as many bytes, so that errors tell the lines and columns of the file.
                let mut list = text.to_owned();
                list.replace_range(span.clone(), &format!("{:<width$}", "[]", width = span.len()));
                Policy::parse(&list).map(|policy| Self::Relay(RelayPolicy(policy)))
            }
            _ => Policy::parse(text).map(Self::Whole),
        }
    }

    /// The policy, without the rules of a relay if it wants them.
    pub fn without_relay(&self) -> &Policy {
        match self {
            Self::Whole(policy) | Self::Relay(RelayPolicy(policy)) => policy,
        }
    }
}

impl RelayPolicy {
    /// The policy with the relay's rules.
    ///
    /// # Errors
    /// When they are more than a policy takes.
    pub fn with(mut self, rules: ExitPolicy) -> Result<Policy, PolicyError> {
        self.0.offers.connect = rules;
        self.0.check()?;
        Ok(self.0)
    }
}

pub(crate) fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() { "nothing".into() } else { items.iter().map(T::to_string).collect::<Vec<_>>().join(", ") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_policy_that_is_none_is_told_with_its_line() {
        for (text, says) in [
            ("[offers]\n\nimage = []\n", "line 3: offers.image"),
            ("[offers]\nmemory = \"1 GiB\"\negress = [\"any\"]\n", "line 3: offers.egress"),
            ("[offers]\nsyscalls = [\n  \"default\",\n  \"-frobnicate\",\n]\n", "line 4"),
            ("[offers]\nsyscalls = [\n  \"default\",\n  \"-frobnicate\",\n]\n", "no system call `frobnicate`"),
            ("[offers]\nsyscalls = [\"default\", \"+ptrace\"]\n", "line 2"),
            ("[offers]\nsyscalls = [\"default\", \"+ptrace\"]\n", "never open"),
            ("[offers]\nsyscalls = []\n", "line 2"),
            ("[offers]\n\nshare = \"6401 %\"\n", "line 3"),
            ("[offers]\nrate = \"1 MiB\"\n", "line 2"),
            ("[offers]\nconnect = \"relays\"\n", "line 2"),
            ("[offers]\nconnect = \"relay\"\n\nmemmory = \"1 B\"\n", "line 4"),
            ("[offers]\nconnect = \"relay\"\negress = [\"any\"]\n", "line 3: offers.egress"),
        ] {
            let error = PolicyFile::parse(text).unwrap_err().to_string();
            assert!(error.contains(says), "{text}: {error}");
        }
    }

    #[test]
    fn the_keys_that_changed_are_named_and_no_others() {
        let policy = |text: &str| Policy::parse(&format!("[offers]\n{text}")).unwrap();
        let changed = policy("memory = '1 GiB'\nconnect = ['accept *:80']\ncpu = '1 min'").changed(&policy(""));
        assert_eq!(changed, ["connect", "memory"]);
        assert!(policy("").changed(&policy("syscalls = 'default'")).is_empty());
    }

    #[test]
    fn a_file_may_want_the_rules_of_a_relay_and_a_published_policy_may_not() {
        let text = "[offers]\nmemory = \"1 GiB\"\nconnect = 'relay' # its own\n";
        let PolicyFile::Relay(lacking) = PolicyFile::parse(text).unwrap() else { panic!("it does not want the relay's") };
        let rules: ExitPolicy = ["accept *:22".parse().unwrap()].into_iter().collect();
        let policy = lacking.clone().with(rules.clone()).unwrap();
        assert_eq!((policy.offers.memory, &policy.offers.connect), (Size::mib(1024), &rules));
        assert!(Policy::parse(text).is_err());
        assert!(matches!(PolicyFile::parse(&policy.to_toml()), Ok(PolicyFile::Whole(whole)) if whole == policy));
        let many = std::iter::repeat_n(rules.rules()[0].clone(), POLICY_RULES_MAX + 1).collect();
        assert!(lacking.with(many).unwrap_err().to_string().contains("256"));
    }
}
