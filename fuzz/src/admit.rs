//! The decision itself: what is admitted never exceeds the offer, and what is refused does exceed it.
//!
//! Manifest and policy are made of numbers, written as TOML, read by the crate, and compared here once more as plain numbers. Destinations
//! are tried one by one at every edge of every rule, and at random.

use std::net::IpAddr;

use arbitrary::{Arbitrary, Unstructured};
use bento_proto::{Egress, Manifest, Policy, Refusal, address};

use crate::rules::{self, Rule, accepts};

#[derive(Arbitrary, Debug)]
struct Case {
    needs: [Amount; AMOUNTS.len()],
    offers: [Amount; AMOUNTS.len()],
    needs_image: u8,
    offers_image: Vec<u8>,
    needs_calls: Vec<u8>,
    offers_calls: Vec<u8>,
    needs_egress: Option<u8>,
    offers_egress: Vec<bool>,
    needs_rules: Vec<Rule>,
    offers_rules: Vec<Rule>,
    /// Begin the offer's rules with those of the needs, so that more is admitted.
    shared: bool,
    places: Vec<(u128, u32, u16)>,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
struct Amount {
    value: Value,
    unit: u8,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    LeftOut,
    Small(u8),
    Near(i8),
    Any(u32),
}

enum Kind {
    Count,
    Size,
    Span,
}

/// Key, kind, the least that a manifest may ask for, what it asks when the key is left out, and what is offered then.
const AMOUNTS: &[(&str, Kind, u64, u64, u64)] = &[
    ("memory", Kind::Size, 16 << 20, 64 << 20, 256 << 20),
    ("scratch", Kind::Size, 4096, 8 << 20, 64 << 20),
    ("storage", Kind::Size, 0, 0, 64 << 20),
    ("cpu", Kind::Span, 1, 10_000, 60_000),
    ("traffic", Kind::Size, 1, 16 << 20, 256 << 20),
    ("lifetime", Kind::Span, 1, 600_000, 86_400_000),
    ("processes", Kind::Count, 1, 8, 32),
    ("descriptors", Kind::Count, 8, 64, 256),
    ("invocations", Kind::Count, 1, 1, 8),
    ("installs", Kind::Count, 0, 0, 4),
    ("circuits", Kind::Count, 0, 0, 8),
    ("onion_services", Kind::Count, 0, 0, 1),
];

const IMAGES: &[&str] = &["python3", "web", "a-1"];
const CALLS: &[&str] = &["net.connect", "net.*", "*"];

impl Amount {
    /// Its number in the smallest unit, and its text; nothing when the key is left out.
    fn written(self, kind: &Kind, least: u64) -> Option<(u64, String)> {
        let number = match self.value {
            Value::LeftOut => return None,
            Value::Small(more) => least + u64::from(more),
            Value::Near(by) => 1000u64.saturating_add_signed(by.into()).max(least),
            Value::Any(any) => u64::from(any).max(least),
        };
        Some(match kind {
            Kind::Count => (number, number.to_string()),
            Kind::Size => {
                let (name, factor) = [("B", 1), ("KiB", 1 << 10), ("MiB", 1 << 20)][usize::from(self.unit % 3)];
                (number * factor, format!("\"{number} {name}\""))
            }
            Kind::Span => {
                let (name, factor) = [("ms", 1), ("s", 1000), ("min", 60_000)][usize::from(self.unit % 3)];
                (number * factor, format!("\"{number}{name}\""))
            }
        })
    }
}

fn strings<T: ToString>(items: impl IntoIterator<Item = T>) -> String {
    let quoted: Vec<String> = items.into_iter().map(|item| format!("\"{}\"", item.to_string())).collect();
    format!("[{}]", quoted.join(", "))
}

fn pick<'a>(from: &'a [&'a str], which: u8) -> &'a str {
    from[usize::from(which) % from.len()]
}

pub fn run(data: &[u8]) {
    let Ok(mut case) = Case::arbitrary(&mut Unstructured::new(data)) else { return };
    case.needs_rules.truncate(6);
    case.offers_rules.truncate(8);
    if case.shared {
        let own = std::mem::take(&mut case.offers_rules);
        case.offers_rules = case.needs_rules.iter().cloned().chain(own).collect();
    }
    case.offers_image.truncate(4);
    case.needs_calls.truncate(3);
    case.offers_calls.truncate(3);
    case.offers_egress.truncate(3);

    let mut too_much = Vec::new();
    let (mut needs, mut offers) = (String::new(), String::new());
    let mut numbers = Vec::new();
    for (index, (key, kind, least, asked, offered)) in AMOUNTS.iter().enumerate() {
        let need = case.needs[index].written(kind, *least);
        let offer = case.offers[index].written(kind, 0);
        need.iter().for_each(|(_, text)| needs += &format!("{key} = {text}\n"));
        offer.iter().for_each(|(_, text)| offers += &format!("{key} = {text}\n"));
        let (need, offer) = (need.map_or(*asked, |(number, _)| number), offer.map_or(*offered, |(number, _)| number));
        numbers.push((*key, need, offer));
        if need > offer {
            too_much.push(*key);
        }
    }
    let image = pick(IMAGES, case.needs_image);
    let mut images: Vec<&str> = case.offers_image.iter().map(|which| pick(IMAGES, *which)).collect();
    if images.is_empty() {
        images.push("python3");
    }
    if !images.contains(&image) {
        too_much.push("image");
    }
    // The family has one call, so that each of the two covers the other; `*` has more, and covers both.
    let (needs_calls, offers_calls): (Vec<_>, Vec<_>) = (
        case.needs_calls.iter().map(|which| pick(CALLS, *which)).collect(),
        case.offers_calls.iter().map(|which| pick(CALLS, *which)).collect(),
    );
    let all = offers_calls.contains(&"*");
    if !all && (needs_calls.contains(&"*") || (offers_calls.is_empty() && !needs_calls.is_empty())) {
        too_much.push("calls");
    }
    let egresses: Vec<&str> = case.offers_egress.iter().map(|tor| if *tor { "tor" } else { "direct" }).collect();
    let egress = match case.needs_egress.map(|which| which % 3) {
        None | Some(0) => "any",
        Some(1) => "tor",
        _ => "direct",
    };
    let leaves = egresses.iter().copied().find(|offered| egress == "any" || egress == *offered);
    if leaves.is_none() && !case.needs_rules.is_empty() {
        too_much.push("egress");
    }
    needs += &format!(
        "image = \"{image}\"\ncalls = {}\nconnect = {}\n",
        strings(&needs_calls),
        strings(case.needs_rules.iter().map(Rule::text))
    );
    if case.needs_egress.is_some() {
        needs += &format!("egress = \"{egress}\"\n");
    }
    offers += &format!(
        "image = {}\ncalls = {}\negress = {}\nconnect = {}\n",
        strings(images),
        strings(&offers_calls),
        strings(egresses),
        strings(case.offers_rules.iter().map(Rule::text))
    );
    let (manifest, policy) = (format!("name = \"n\"\nmethods = [\"m\"]\n[needs]\n{needs}"), format!("[offers]\n{offers}"));
    let manifest = Manifest::parse(&manifest).unwrap_or_else(|error| panic!("{error}\n{manifest}"));
    let policy = Policy::parse(&policy).unwrap_or_else(|error| panic!("{error}\n{policy}"));
    crate::manifest::holds(&manifest);

    let places: Vec<(IpAddr, u16)> = case
        .needs_rules
        .iter()
        .chain(&case.offers_rules)
        .flat_map(Rule::places)
        .chain(rules::borders().map(|address| (address, 80)))
        .chain(case.places.iter().take(8).flat_map(|(wide, narrow, port)| {
            [(address::address(*wide), *port), (std::net::Ipv4Addr::from_bits(*narrow).into(), (*port).max(1))]
        }))
        .collect();
    let needs_it = |address, port| accepts(&case.needs_rules, address, port);
    let offers_it = |address, port| accepts(&case.offers_rules, address, port);
    let uncovered = places.iter().find(|(address, port)| *port > 0 && needs_it(*address, *port) && !offers_it(*address, *port));

    match policy.admit(&manifest) {
        Ok(grant) => {
            assert!(too_much.is_empty(), "admitted with too much of {too_much:?}: {numbers:?}");
            assert_eq!(
                uncovered, None,
                "admitted though it may not connect there: {} under {}",
                manifest.needs.connect, policy.offers.connect
            );
            let granted = [
                grant.memory().as_bytes(),
                grant.scratch().as_bytes(),
                grant.storage().as_bytes(),
                grant.cpu().as_millis(),
                grant.traffic().as_bytes(),
                grant.lifetime().as_millis(),
                grant.processes().into(),
                grant.descriptors().into(),
                grant.invocations().into(),
                grant.installs().into(),
                grant.circuits().into(),
                grant.onion_services().into(),
            ];
            for ((key, need, offer), granted) in numbers.iter().zip(granted) {
                assert!(granted <= *offer && granted == *need, "{key}: granted {granted} of {offer} for {need}");
            }
            assert_eq!(grant.image(), image);
            // It may pass on all that it has.
            assert_eq!(grant.covers(&manifest), Ok(()));
            assert_eq!(grant.egress().map(|egress| egress.to_string()).as_deref(), leaves);
            assert!(grant.egress() != Some(Egress::Any));
            assert_eq!(grant.permits_call("net.connect").is_ok(), !needs_calls.is_empty());
            assert!(grant.permits_call("store.put").is_err() || needs_calls.contains(&"*"));
            for (address, port) in places {
                let may = needs_it(address, port) && offers_it(address, port);
                assert_eq!(grant.permits_destination(address, port).is_ok(), may, "{address} {port}");
                assert!(!may || grant.permits_port(port).is_ok(), "{address} {port}");
            }
        }
        Err(Refusal::NotOffered(line)) => {
            if line.key == "connect" {
                // It names a place. That one must really be asked for and not offered.
                let place = line.offers.rsplit_once("(not ").and_then(|(_, rest)| rest.strip_suffix(')')?.split_once(" port "));
                let (address, port) = place.expect("a refusal that names a place");
                let (address, port) = (address.parse().expect("an address"), port.parse().expect("a port"));
                assert!(
                    needs_it(address, port) && !offers_it(address, port),
                    "refused for {address} {port}, which is offered or not asked for"
                );
            } else {
                assert!(too_much.contains(&line.key), "refused for {}, which is offered: {numbers:?}", line.key);
            }
        }
        Err(other) => panic!("refused in other words: {other}"),
    }
}
