//! The store against a map: whatever is done in whatever order, both say the same.

use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

const SMALL_LIMIT: u64 = 600_000;

#[derive(Clone, Debug)]
enum Operation {
    Put(u8, u8, usize),
    /// Pieces, and is it committed?
    Write(u8, u8, Mode, Vec<usize>, bool),
    Delete(u8, u8),
    Read(u8, u8, u64, Option<u64>),
    List(u8, Option<u8>, Option<u8>, usize),
    Sleep,
    Restart,
    /// As if the node had been killed: what is on the disk now is all there is.
    Crash,
}

fn operation() -> impl Strategy<Value = Operation> {
    let length = || prop_oneof![0..300usize, Just(CHUNK - 1), Just(CHUNK), Just(CHUNK + 1), Just(2 * CHUNK), 0..200_000usize];
    let place = || (0..3u8, 0..4u8);
    let mode = prop_oneof![Just(Mode::Put), Just(Mode::Append)];
    prop_oneof![
        4 => (place(), length()).prop_map(|((space, name), length)| Operation::Put(space, name, length)),
        5 => (place(), mode, prop::collection::vec(length(), 0..4), prop::bool::weighted(0.8))
            .prop_map(|((space, name), mode, pieces, whole)| Operation::Write(space, name, mode, pieces, whole)),
        2 => place().prop_map(|(space, name)| Operation::Delete(space, name)),
        2 => (place(), 0..150_000u64, prop::option::of(0..150_000u64)).prop_map(|((space, name), from, length)| Operation::Read(space, name, from, length)),
        1 => (0..3u8, prop::option::of(0..4u8), prop::option::of(0..4u8), 0..4usize).prop_map(|(space, prefix, after, most)| Operation::List(space, prefix, after, most)),
        1 => Just(Operation::Sleep),
        1 => Just(Operation::Restart),
        1 => Just(Operation::Crash),
    ]
}

const NAMES: [&str; 4] = ["a", "ab", "b", "ä/long name"];
const SPACES: [Space; 3] = [Space::Function, Space::Outputs, Space::Links];

type Model = BTreeMap<(u8, &'static str), Vec<u8>>;

fn used(model: &Model) -> u64 {
    model.values().map(|value| value.len() as u64 + OBJECT_BYTES).sum()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 20, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn a_store_is_a_map(operations in prop::collection::vec(operation(), 1..40)) {
        let mut state = directory();
        let mut registry = Registry::open(state.path()).unwrap();
        let record = add(&registry, 2);
        let open = |registry: &Registry| registry.vault(record.id, &key(2), SMALL_LIMIT).unwrap();
        let mut vault = Some(open(&registry));
        let mut model = Model::new();
        for (step, operation) in operations.into_iter().enumerate() {
            let space = |space: u8| vault.as_ref().unwrap().space(SPACES[space as usize]);
            match operation {
                Operation::Put(in_space, name, length) => {
                    let (name, value) = (NAMES[name as usize], bytes(step as u64, length));
                    let old = model.get(&(in_space, name)).map_or(0, |old| old.len() as u64 + OBJECT_BYTES);
                    // A long value is beside the old one while it is written.
                    let before = if length < CHUNK { used(&model) - old } else { used(&model) };
                    match space(in_space).put(name, &value) {
                        Ok(there) => {
                            prop_assert_eq!(there, length as u64);
                            model.insert((in_space, name), value);
                            prop_assert!(before + length as u64 + OBJECT_BYTES <= SMALL_LIMIT);
                        }
                        Err(StoreError::Full { .. }) => prop_assert!(before + length as u64 + OBJECT_BYTES > SMALL_LIMIT),
                        Err(other) => panic!("{other:?}"),
                    }
                }
                Operation::Write(in_space, name, mode, pieces, whole) => {
                    let name = NAMES[name as usize];
                    let old = model.get(&(in_space, name)).filter(|_| mode == Mode::Append).cloned();
                    let mut counted = used(&model) + if old.is_some() { 0 } else { OBJECT_BYTES };
                    let mut writer = match space(in_space).writer(name, mode) {
                        Err(StoreError::Full { .. }) => {
                            prop_assert!(counted > SMALL_LIMIT);
                            continue;
                        }
                        writer => writer.unwrap(),
                    };
                    let mut value = old.unwrap_or_default();
                    for (index, length) in pieces.into_iter().enumerate() {
                        let piece = bytes((step * 10 + index) as u64, length);
                        let fits = counted + length as u64 <= SMALL_LIMIT;
                        match writer.write(&piece) {
                            Ok(()) => {
                                prop_assert!(fits);
                                counted += length as u64;
                                value.extend(piece);
                            }
                            Err(StoreError::Full { .. }) => prop_assert!(!fits),
                            Err(other) => panic!("{other:?}"),
                        }
                    }
                    if whole {
                        prop_assert_eq!(writer.commit().unwrap(), value.len() as u64);
                        model.insert((in_space, name), value);
                    }
                }
                Operation::Delete(in_space, name) => {
                    let name = NAMES[name as usize];
                    prop_assert_eq!(space(in_space).delete(name).unwrap(), model.remove(&(in_space, name)).is_some());
                }
                Operation::Read(in_space, name, from, length) => {
                    let name = NAMES[name as usize];
                    match (part(&space(in_space), name, from, length), model.get(&(in_space, name))) {
                        (Ok(there), Some(value)) => {
                            let from = value.len().min(from as usize);
                            let to = length.map_or(value.len(), |length| value.len().min(from + length as usize));
                            prop_assert_eq!(&there, &value[from..to]);
                        }
                        (Err(StoreError::Missing), None) => {}
                        (there, value) => panic!("{:?} and not {:?}", there.map(|there| there.len()), value.map(Vec::len)),
                    }
                }
                Operation::List(in_space, prefix, after, most) => {
                    let (prefix, after) = (prefix.map_or("", |name| NAMES[name as usize]), after.map(|name| NAMES[name as usize]));
                    let mut all: Vec<_> = model
                        .iter()
                        .filter(|((space, name), _)| *space == in_space && name.starts_with(prefix) && after.is_none_or(|after| *name > after))
                        .map(|((_, name), value)| (String::from(*name), value.len() as u64))
                        .collect();
                    let more = all.len() > most;
                    all.truncate(most);
                    prop_assert_eq!(space(in_space).list(prefix, after, most).unwrap(), (all, more));
                }
                Operation::Sleep => {
                    drop(vault.take());
                    vault = Some(open(&registry));
                }
                Operation::Restart => {
                    drop(vault.take());
                    drop(registry);
                    registry = Registry::open(state.path()).unwrap();
                    vault = Some(open(&registry));
                }
                Operation::Crash => {
                    let other = directory();
                    copy(state.path(), other.path());
                    drop(vault.take());
                    drop(registry);
                    state = other;
                    registry = Registry::open(state.path()).unwrap();
                    vault = Some(open(&registry));
                }
            }
            prop_assert_eq!(vault.as_ref().unwrap().space(Space::Function).usage().unwrap().used, used(&model));
        }
        for ((in_space, name), value) in &model {
            prop_assert_eq!(&get(&vault.as_ref().unwrap().space(SPACES[*in_space as usize]), name).unwrap(), value);
        }
    }
}
