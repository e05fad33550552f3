//! Policies: one that is taken is the same after it was written as TOML and as JSON, as it travels to clients.

use bento_proto::{Policy, policy::PolicyError};

use crate::text;

pub fn run(data: &[u8]) {
    let Ok(written) = std::str::from_utf8(data) else { return };
    let parsed = text::is_quick("a policy", || Policy::parse(written));
    match parsed {
        Ok(policy) => {
            assert!(policy.check().is_ok());
            let toml = policy.to_toml();
            assert_eq!(Policy::parse(&toml).as_ref(), Ok(&policy), "{toml}");
            let json = serde_json::to_string(&policy).expect("a policy is JSON");
            assert_eq!(serde_json::from_str::<Policy>(&json).ok().as_ref(), Some(&policy), "{json}");
            // Even a node that refuses all functions must be able to say so.
            assert!(!policy.offers.image.is_empty());
        }
        Err(PolicyError::Toml(error)) => assert!(error.len() <= 2048 + 2 * written.len()),
        Err(error) => text::is_short(&error.to_string()),
    }
}
