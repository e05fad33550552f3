//! Rules of exit policies: as texts of anybody, and as rules made at random that a second reading judges.

use arbitrary::{Arbitrary, Unstructured};
use bento_proto::{ExitPolicy, address, exit_policy};

use crate::{rules, text};

#[derive(Arbitrary, Debug)]
struct Case {
    rules: Vec<rules::Rule>,
    places: Vec<(u128, u32, u16)>,
}

pub fn run(data: &[u8]) {
    if let Ok(written) = std::str::from_utf8(data) {
        match written.parse::<exit_policy::Rule>() {
            Ok(rule) => assert_eq!(rule.to_string().parse(), Ok(rule)),
            Err(error) => text::is_short(&error.to_string()),
        }
    }
    let Ok(case) = Case::arbitrary(&mut Unstructured::new(data)) else { return };
    let made: Vec<_> = case.rules.into_iter().take(12).collect();
    let policy: ExitPolicy = made
        .iter()
        .map(|rule| rule.text().parse::<exit_policy::Rule>().unwrap_or_else(|error| panic!("{}: {error}", rule.text())))
        .collect();
    // What a policy covers, it covers itself.
    assert_eq!(policy.first_uncovered(&policy), None);
    let random = case.places.iter().flat_map(|(wide, narrow, port)| {
        let port = (*port).max(1);
        [(address::address(*wide), port), (std::net::Ipv4Addr::from_bits(*narrow).into(), port)]
    });
    let borders = rules::borders().map(|address| (address, 80));
    for (address, port) in made.iter().flat_map(rules::Rule::places).chain(borders).chain(random) {
        assert_eq!(address::is_private(address), rules::is_private(address), "{address}");
        assert_eq!(policy.accepts(address, port), rules::accepts(&made, address, port), "{address} {port} {policy}");
        assert!(!policy.accepts(address, port) || policy.may_accept_port(port));
    }
}
