//! Which relays a circuit goes through, when the function leaves it to the node.
//!
//! As Tor does it where nothing special is asked for: by weight and place, no two relays of one family or one /16. The first relay is always a guard that
//! the node's Tor uses anyway, so that a function that chooses others never learns where the node is.

use bento_tor::{Consensus, Fingerprint, Relay};

/// What a function asks of the relays.
#[derive(Clone, Debug, Eq, PartialEq)]
pub struct Wish {
    /// How many.
    pub length: usize,
    /// What all but the first have.
    pub flags: Vec<String>,
    /// The country of the last.
    pub country: Option<String>,
    /// A port that the last one's exit policy accepts.
    pub exit_port: Option<u16>,
    /// Those that are not taken.
    pub exclude: Vec<Fingerprint>,
}

impl Default for Wish {
    fn default() -> Self {
        Self { length: 3, flags: Vec::new(), country: None, exit_port: None, exclude: Vec::new() }
    }
}

/// A place on the path.
#[derive(Clone, Copy, Eq, PartialEq)]
enum Place {
    Middle,
    Exit,
}

/// How consensus weights are written: of ten thousand.
const WHOLE: i64 = 10_000;

/// Chooses a path; none if no relays fit. `random` gives any number below the one that it is given.
pub(super) fn choose(
    consensus: &Consensus,
    guards: &[Fingerprint],
    wish: &Wish,
    mut random: impl FnMut(u64) -> u64,
) -> Option<Vec<Fingerprint>> {
    let usable = |relay: &&Relay| relay.is("Running") && relay.is("Valid") && !wish.exclude.contains(&relay.fingerprint);
    let usable: Vec<&Relay> = consensus.relays.iter().filter(usable).collect();
    let fits = |relay: &Relay| wish.flags.iter().all(|flag| relay.is(flag));
    let is_last = |relay: &Relay| {
        fits(relay)
            && wish.country.as_ref().is_none_or(|country| relay.country.as_ref() == Some(country))
            && wish.exit_port.is_none_or(|port| relay.exits_to(port) && !relay.is("BadExit"))
    };
    // Guards in their order: the node's Tor uses the first that it can.
    let guards = guards.iter().filter_map(|guard| usable.iter().find(|relay| relay.fingerprint == *guard));
    // A guard may be the only one, or be a relative of all that fit; then the next one is tried.
    for guard in guards {
        let mut path = vec![*guard];
        let place = if wish.exit_port.is_some() { Place::Exit } else { Place::Middle };
        // The last one next, since it is the hardest to find.
        let last = usable.iter().copied().filter(|relay| is_last(relay) && apart(relay, &path));
        let Some(last) = pick(consensus, last, place, &mut random) else { continue };
        path.push(last);
        while path.len() < wish.length {
            let between = usable.iter().copied().filter(|relay| fits(relay) && apart(relay, &path));
            let Some(relay) = pick(consensus, between, Place::Middle, &mut random) else { break };
            path.insert(path.len() - 1, relay);
        }
        if path.len() == wish.length {
            return Some(path.iter().map(|relay| relay.fingerprint).collect());
        }
    }
    None
}

/// Is it no relative or neighbour of any of these?
fn apart(relay: &Relay, path: &[&Relay]) -> bool {
    let neighbours = |one: &Relay, other: &Relay| one.address.octets()[..2] == other.address.octets()[..2];
    path.iter().all(|other| other.fingerprint != relay.fingerprint && !neighbours(relay, other) && !relay.is_family_of(other))
}

/// One of these by weight.
fn pick<'a>(
    consensus: &Consensus,
    relays: impl Iterator<Item = &'a Relay>,
    place: Place,
    random: &mut impl FnMut(u64) -> u64,
) -> Option<&'a Relay> {
    let weighted: Vec<(&Relay, u64)> = relays.map(|relay| (relay, weight(consensus, relay, place))).collect();
    let all: u64 = weighted.iter().map(|(_, weight)| weight).sum();
    // Where all of them weigh nothing, one is as good as another.
    let by_weight = all > 0;
    let mut left = random(if by_weight { all } else { weighted.len() as u64 });
    for (relay, weight) in weighted {
        let weight = if by_weight { weight } else { 1 };
        if left < weight {
            return Some(relay);
        }
        left -= weight;
    }
    None
}

/// A relay's weight at a place (dir-spec, "Computing consensus weights"): exits are spared where others do, and guards as well.
fn weight(consensus: &Consensus, relay: &Relay, place: Place) -> u64 {
    let is_exit = relay.is("Exit") && !relay.is("BadExit");
    let name = match (place, relay.is("Guard"), is_exit) {
        (Place::Middle, true, true) => "Wmd",
        (Place::Middle, true, false) => "Wmg",
        (Place::Middle, false, true) => "Wme",
        (Place::Middle, false, false) => "Wmm",
        (Place::Exit, true, true) => "Wed",
        (Place::Exit, true, false) => "Weg",
        (Place::Exit, false, true) => "Wee",
        (Place::Exit, false, false) => "Wem",
    };
    let part = consensus.weights.get(name).copied().unwrap_or(WHOLE).clamp(0, WHOLE) as u64;
    // A relay's weight is in kilobytes a second, far below what would overflow; the sum over all relays too.
    relay.bandwidth.min(u64::from(u32::MAX)).saturating_mul(part)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A network of relays in networks of their own, each an exit and a guard.
    fn network(count: u8) -> (Consensus, Vec<Fingerprint>) {
        let mut text = "network-status-version 3 microdesc\nvalid-after 2026-11-28 00:59:15\n".to_owned();
        for number in 0..count {
            let identity = data_encoding::BASE64_NOPAD.encode(&[number + 1; 20]);
            text += &format!(
                "r relay{number} {identity} 2038-01-01 00:00:00 10.{number}.0.1 5001 0\ns Exit Fast Guard Running Valid\nw Bandwidth=100\n"
            );
        }
        let mut consensus = Consensus::parse(&text).unwrap();
        for relay in &mut consensus.relays {
            relay.exit = Some("accept 80,443".into());
        }
        let fingerprints = consensus.relays.iter().map(|relay| relay.fingerprint).collect();
        (consensus, fingerprints)
    }

    /// Numbers that are different each time, and the same in each run.
    fn random() -> impl FnMut(u64) -> u64 {
        let mut state = 88_172_645_463_325_252_u64;
        move |below| {
            state ^= state << 13;
            state ^= state >> 7;
            state ^= state << 17;
            state % below.max(1)
        }
    }

    #[test]
    fn a_path_begins_with_a_guard_and_has_no_relay_twice() {
        let (consensus, all) = network(9);
        let mut random = random();
        for length in 2..=8 {
            for _ in 0..50 {
                let path = choose(&consensus, &all[3..5], &Wish { length, ..Wish::default() }, &mut random).unwrap();
                assert_eq!((path.len(), path[0]), (length, all[3]));
                let mut once = path.clone();
                once.sort_unstable();
                once.dedup();
                assert_eq!(once.len(), length);
            }
        }
        assert_eq!(choose(&consensus, &[], &Wish::default(), &mut random), None);
        assert_eq!(choose(&consensus, &all[..1], &Wish { length: 10, ..Wish::default() }, &mut random), None);
    }

    #[test]
    fn what_is_asked_of_relays_they_have_and_what_is_excluded_is_not_there() {
        let (mut consensus, all) = network(9);
        consensus.relays[5].country = Some("de".into());
        consensus.relays[6].exit = Some("accept 22".into());
        for number in [0, 4, 5, 6, 7] {
            consensus.relays[number].flags.push("Stable".into());
        }
        let mut random = random();
        let mut chosen = |wish: Wish| choose(&consensus, &all[..2], &wish, &mut random);
        for _ in 0..50 {
            assert_eq!(chosen(Wish { country: Some("de".into()), ..Wish::default() }).unwrap()[2], all[5]);
            assert_eq!(chosen(Wish { exit_port: Some(22), ..Wish::default() }).unwrap()[2], all[6]);
            let stable = chosen(Wish { flags: vec!["Stable".into()], ..Wish::default() }).unwrap();
            assert!(stable[1..].iter().all(|relay| [all[4], all[5], all[6], all[7]].contains(relay)), "{stable:?}");
            let without = chosen(Wish { exclude: vec![all[0], all[4], all[5]], length: 5, ..Wish::default() }).unwrap();
            assert!(without[0] == all[1] && without.iter().all(|relay| ![all[0], all[4], all[5]].contains(relay)));
        }
        for nowhere in [
            Wish { country: Some("fr".into()), ..Wish::default() },
            Wish { exit_port: Some(25), ..Wish::default() },
            Wish { flags: vec!["Authority".into()], ..Wish::default() },
            Wish { exclude: vec![all[0], all[1]], ..Wish::default() },
        ] {
            assert_eq!(chosen(nowhere), None);
        }
    }

    #[test]
    fn relatives_and_neighbours_are_not_on_one_path() {
        let (mut consensus, all) = network(6);
        consensus.relays[1].address = [10, 0, 77, 1].into();
        (consensus.relays[2].family, consensus.relays[0].family) = (vec![all[0]], vec![all[2]]);
        let mut random = random();
        for _ in 0..100 {
            let path = choose(&consensus, &all[..1], &Wish::default(), &mut random).unwrap();
            assert!(!path.contains(&all[1]) && !path.contains(&all[2]), "{path:?}");
        }
        // Of the others there are too few.
        assert_eq!(choose(&consensus, &all[..1], &Wish { length: 5, ..Wish::default() }, &mut random), None);
    }

    #[test]
    fn heavy_relays_are_taken_more_often_and_exits_are_spared() {
        let (mut consensus, all) = network(7);
        consensus.relays[3].bandwidth = 900;
        consensus.relays[4].flags.retain(|flag| flag != "Exit");
        consensus.weights.insert("Wmd".into(), 0);
        let mut random = random();
        let (mut heavy, mut middle) = (0, 0);
        for _ in 0..400 {
            let path = choose(&consensus, &all[..1], &Wish { exit_port: Some(80), ..Wish::default() }, &mut random).unwrap();
            heavy += usize::from(path[2] == all[3]);
            middle += usize::from(path[1] == all[4]);
        }
        assert!((200..360).contains(&heavy), "{heavy}");
        // The one that is no exit has all the weight between, unless it is the last itself.
        assert!(middle > 300, "{middle}");
    }
}
