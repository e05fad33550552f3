//! The middlebox node policy: what an operator allows, `policy.toml`.

use serde::{Deserialize, Serialize};

use crate::{
    call::CallPattern,
    exit_policy::ExitPolicy,
    grant::{Grant, Line},
    limits::{POLICY_BYTES_MAX, POLICY_RULES_MAX},
    manifest::{Egress, Manifest, is_name},
    refusal::Refusal,
    unit::{Size, Span},
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
    /// CPU time over its whole life. 60 s.
    pub cpu: Span,
    /// Bytes of all its streams, both ways, over its whole life. 256 MiB.
    pub traffic: Size,
    /// From install to the end. 24 h.
    pub lifetime: Span,
    /// Threads at the same time. 32.
    pub processes: u32,
    /// Open descriptors at the same time. 256.
    pub descriptors: u32,
    /// Invocations of one function at the same time. 8.
    pub invocations: u32,
    /// Calls of the function API. `["net.connect"]`.
    pub calls: Vec<CallPattern>,
    /// Where connections may leave. `["tor"]`.
    pub egress: Vec<Egress>,
    /// Where functions may connect. Public addresses at ports 80 and 443.
    pub connect: ExitPolicy,
    /// Functions at the same time, all together. 50.
    pub functions: u32,
}

impl Default for Offers {
    fn default() -> Self {
        let web = ["accept *:80", "accept *:443"];
        Self {
            image: vec!["python3".into()],
            memory: Size::mib(256),
            scratch: Size::mib(64),
            cpu: Span::seconds(60),
            traffic: Size::mib(256),
            lifetime: Span::seconds(24 * 3600),
            processes: 32,
            descriptors: 256,
            invocations: 8,
            calls: ["net.connect"].iter().filter_map(|call| call.parse().ok()).collect(),
            egress: vec![Egress::Tor],
            connect: web.iter().filter_map(|rule| rule.parse().ok()).collect(),
            functions: 50,
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
    #[error("offers.{key}: {reason}")]
    Value {
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
        policy.check()?;
        Ok(policy)
    }

    /// Checks what the types do not: a policy that came over the network passes here as well.
    ///
    /// # Errors
    /// When a value cannot be.
    pub fn check(&self) -> Result<(), PolicyError> {
        let offers = &self.offers;
        let value = |key, reason: String| Err(PolicyError::Value { key, reason });
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

    /// Compares a manifest with this policy, line by line, in the order in which both are written.
    pub fn compare(&self, manifest: &Manifest) -> Vec<Line> {
        let (needs, offers) = (&manifest.needs, &self.offers);
        let amount = |key, needs: String, offers: String, fits| Line { key, needs, offers, fits };
        let upto = |key, need: u32, offer: u32| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let size = |key, need: Size, offer: Size| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let span = |key, need: Span, offer: Span| amount(key, need.to_string(), offer.to_string(), need <= offer);
        let calls_fit = needs.calls.iter().all(|need| offers.calls.iter().any(|offer| offer.covers(need)));
        let egress_fits = needs.connect.rules().is_empty() || self.egress(needs.egress).is_some();
        let uncovered = offers.connect.first_uncovered(&needs.connect);
        let connect_offer = match uncovered {
            Some((address, port)) => format!("{} (not {} port {port})", offers.connect, address),
            None => offers.connect.to_string(),
        };
        vec![
            amount("image", needs.image.clone(), list(&offers.image), offers.image.contains(&needs.image)),
            size("memory", needs.memory, offers.memory),
            size("scratch", needs.scratch, offers.scratch),
            span("cpu", needs.cpu, offers.cpu),
            size("traffic", needs.traffic, offers.traffic),
            span("lifetime", needs.lifetime, offers.lifetime),
            upto("processes", needs.processes, offers.processes),
            upto("descriptors", needs.descriptors, offers.descriptors),
            upto("invocations", needs.invocations, offers.invocations),
            amount("calls", list(&needs.calls), list(&offers.calls), calls_fit),
            amount("egress", needs.egress.to_string(), list(&offers.egress), egress_fits),
            amount("connect", needs.connect.to_string(), connect_offer, uncovered.is_none()),
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

    fn egress(&self, need: Egress) -> Option<Egress> {
        self.offers.egress.iter().copied().find(|offer| need == Egress::Any || need == *offer)
    }
}

fn list<T: ToString>(items: &[T]) -> String {
    if items.is_empty() { "nothing".into() } else { items.iter().map(T::to_string).collect::<Vec<_>>().join(", ") }
}
