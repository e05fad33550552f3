//! A relay's own exit policy in our grammar, from what tor tells of it.
//!
//! tor's answer to `GETINFO exit-policy/full` (control-spec, "GETINFO") has a line for each rule, and one more with a `6` at its verb where IPv6
//! addresses are meant:
//! ```text
//! accept *:80
//! accept6 *:80
//! accept6 [2001:db8::]/32:99
//! reject *:*
//! reject6 *:*
//! ```
//! Where it is said in one line (`reject *:*`), `*` means both families. Private ranges are as everywhere in our grammar: the relay's `*` does
//! not reach them, a range that it names does.

use std::iter::Peekable;

use crate::{
    address::{ALL, ALL_V4, Block},
    exit_policy::{ExitPolicy, Rule, RuleError},
    limits::POLICY_RULES_MAX,
};

/// Why a relay's exit policy cannot be taken over.
#[derive(Clone, Debug, Eq, PartialEq, thiserror::Error)]
pub enum RelayError {
    /// It has no rule.
    #[error("it has no rules")]
    Empty,
    /// It is longer than a policy may be.
    #[error("it has {0} rules, and a policy takes at most {POLICY_RULES_MAX}")]
    TooMany(usize),
    /// One of its rules is none.
    #[error("its rule `{line}` cannot be read: {error}")]
    Rule {
        /// The rule, as the relay has it.
        line: String,
        /// What is wrong.
        error: RuleError,
    },
    /// One of its rules means what ours cannot.
    #[error("its rule `{0}` is for IPv6 addresses that lie around the IPv4-mapped ones, which a policy cannot tell apart")]
    Unsayable(String),
}

/// Reads a relay's exit policy, one rule a line.
///
/// # Errors
/// When it is longer than a policy may be, or has a rule that ours cannot have. Nothing is left out silently.
pub fn parse(text: &str) -> Result<ExitPolicy, RelayError> {
    let lines = || text.split(['\n', ',']).map(str::trim).filter(|line| !line.is_empty());
    let in_families = lines().any(|line| line.starts_with("accept6 ") || line.starts_with("reject6 "));
    let mut left = lines().peekable();
    let mut rules = Vec::new();
    while let Some(line) = left.next() {
        rules.push(rule(line, &mut left, in_families)?);
    }
    match rules.len() {
        0 => Err(RelayError::Empty),
        count if count > POLICY_RULES_MAX => Err(RelayError::TooMany(count)),
        _ => Ok(ExitPolicy::new(rules)),
    }
}

fn rule<'t>(line: &str, left: &mut Peekable<impl Iterator<Item = &'t str>>, in_families: bool) -> Result<Rule, RelayError> {
    let cut = || line.chars().take(80).collect::<String>();
    let read = |text: &str| text.parse::<Rule>().map_err(|error| RelayError::Rule { line: cut(), error });
    let Some((verb, rest)) = line.split_once("6 ").filter(|(verb, _)| matches!(*verb, "accept" | "reject")) else {
        let Some((verb, ports)) = line.split_once(" *:").filter(|_| in_families) else { return read(line) };
        // The same for IPv6 right behind it: one rule for both.
        if left.next_if(|next| *next == format!("{verb}6 *:{ports}")).is_some() {
            return read(line);
        }
        return read(&format!("{verb} *4:{ports}"));
    };
    if let Some(ports) = rest.strip_prefix("*:") {
        return read(&format!("{verb} *6:{ports}"));
    }
    let rule = read(&format!("{verb} {rest}"))?;
    let ports = rest.rsplit(':').next().unwrap_or("*");
    match rule.block() {
        block if block.last < ALL_V4.first || ALL_V4.last < block.first => Ok(rule),
        ALL => read(&format!("{verb} *6:{ports}")),
        // All that is in ::/8 besides the mapped addresses is private, and tor names it so as to reject what is.
        block if verb == "reject" && within_first_eight_bits(block) && !ALL_V4.holds(block.first) => {
            read(&format!("reject private:{ports}"))
        }
        _ => Err(RelayError::Unsayable(cut())),
    }
}

fn within_first_eight_bits(block: Block) -> bool {
    block.last >> 120 == 0
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &str) -> String {
        parse(text).unwrap().to_string()
    }

    #[test]
    fn what_a_real_relay_told_is_read_with_the_same_meaning() {
        let told = "accept *:80\naccept6 *:80\naccept6 [2001:db8::]/32:99\nreject *:*\nreject6 *:*\n";
        assert_eq!(read(told), "accept *:80, accept [2001:db8::]/32:99, reject *:*");
        assert_eq!(
            read("reject6 *:*\naccept *:80\naccept 10.0.0.0/8:1-2\nreject *:*\n"),
            "reject *6:*, accept *4:80, accept 10.0.0.0/8:1-2, reject *4:*"
        );
        assert_eq!(read("reject *:*"), "reject *:*");
        assert_eq!(read("reject *:25,accept *:*"), "reject *:25, accept *:*");
        let private = "reject 10.0.0.0/8:*\nreject6 [::]/8:*\nreject6 [fc00::]/7:*\naccept *:443\naccept6 *:443\n";
        assert_eq!(read(private), "reject 10.0.0.0/8:*, reject private:*, reject [fc00::]/7:*, accept *:443");
    }

    #[test]
    fn an_ipv6_rule_never_becomes_one_for_ipv4() {
        assert_eq!(read("accept6 [::]/0:80\nreject *:*"), "accept *6:80, reject *4:*");
        for unsayable in
            ["accept6 [::]/8:80", "accept6 [::]/1:80", "reject6 [::]/1:80", "accept6 [::ffff:1.2.3.4]:80", "reject6 [::ffff:0:0]/96:80"]
        {
            assert_eq!(parse(unsayable), Err(RelayError::Unsayable(unsayable.into())));
        }
        assert_eq!(read("accept6 [::1]:80"), "accept [::1]/128:80");
    }

    #[test]
    fn what_is_no_policy_or_too_long_is_told() {
        assert_eq!(parse(" \n"), Err(RelayError::Empty));
        assert!(parse("accept *:80\naccept7 *:80").unwrap_err().to_string().contains("accept7 *:80"));
        let rules = |count: u32| (1..=count).map(|port| format!("accept 192.0.2.1:{port}\n")).collect::<String>();
        assert!(parse(&rules(256)).is_ok());
        assert_eq!(parse(&rules(257)), Err(RelayError::TooMany(257)));
        // Two lines that are one rule count once.
        let pairs: String = (1..=256).map(|port| format!("accept *:{port}\naccept6 *:{port}\n")).collect();
        assert!(parse(&pairs).is_ok());
    }

    proptest! {
        #[test]
        fn a_private_address_stays_shut_unless_named(
            rules in prop::collection::vec((any::<bool>(), any::<bool>(), 1u16..500), 1..20), place in any::<u128>(), port in 1u16..600
        ) {
            let word = |yes: bool| if yes { "accept" } else { "reject" };
            let lines: Vec<String> = rules.iter().map(|(yes, six, port)| format!("{}{} *:{port}", word(*yes), if *six { "6" } else { "" })).collect();
            let policy = parse(&lines.join("\n")).unwrap();
            let address = crate::address::address(place);
            prop_assert!(!crate::address::is_private(address) || !policy.accepts(address, port));
        }

        #[test]
        fn families_are_kept_apart(rules in prop::collection::vec((any::<bool>(), any::<bool>(), 1u16..6), 1..12), port in 1u16..7) {
            let mut lines: Vec<String> = Vec::new();
            for (yes, six, port) in &rules {
                lines.push(format!("{}{} *:{port}", if *yes { "accept" } else { "reject" }, if *six { "6" } else { "" }));
            }
            // At least one of each, so that `*` means one family.
            lines.push("reject6 *:*".into());
            let policy = parse(&lines.join("\n")).unwrap();
            for (address, is_six) in [("8.8.8.8", false), ("2a00::1", true)] {
                let first = rules.iter().find(|(_, six, at)| *six == is_six && *at == port);
                prop_assert_eq!(policy.accepts(address.parse().unwrap(), port), first.is_some_and(|(yes, ..)| *yes), "{}", lines.join(", "));
            }
        }

        #[test]
        fn no_text_panics(text in "[ac6ejprt:*/0-9\\[\\]., \n]{0,80}") {
            let _ = parse(&text);
        }
    }
}
