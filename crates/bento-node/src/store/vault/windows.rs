//! Parts of lists that were made before. Names lie in no order, so each part that is not here costs a look at all of them.

use super::Meta;

/// Entries of a part: at most some 290 KiB of names.
pub(in super::super) const WINDOW: usize = 512;

/// Parts that are remembered of a store that is open.
const WINDOWS: usize = 4;

/// Some parts of lists, the one that was asked for last first.
#[derive(Default)]
pub(super) struct Windows(Vec<Window>);

/// The first names of a kind.
#[derive(Debug)]
pub(super) struct Window {
    space: u8,
    prefix: String,
    after: Option<String>,
    /// In the order of their bytes.
    entries: Vec<(String, u64)>,
    /// Most that are remembered.
    room: usize,
    /// How many there are behind them.
    behind: u64,
}

impl Windows {
    /// The first names of a kind that come after one, if they are here.
    pub(super) fn page(&mut self, space: u8, prefix: &str, after: Option<&str>, most: usize) -> Option<(Vec<(String, u64)>, bool)> {
        let (index, page) =
            self.0.iter().enumerate().find_map(|(index, window)| Some((index, window.page(space, prefix, after, most)?)))?;
        self.0[..=index].rotate_right(1);
        Some(page)
    }

    pub(super) fn add(&mut self, window: Window) {
        self.0.truncate(WINDOWS - 1);
        self.0.insert(0, window);
    }

    /// An object came, went, or became another.
    pub(super) fn change(&mut self, old: Option<&Meta>, new: Option<&Meta>) {
        self.0.iter_mut().for_each(|window| window.change(old, new));
    }

    /// Forgets all of them.
    pub(super) fn clear(&mut self) {
        self.0.clear();
    }
}

impl Window {
    pub(super) fn new(space: u8, prefix: &str, after: Option<&str>, room: usize) -> Self {
        Self { space, prefix: prefix.into(), after: after.map(Into::into), entries: Vec::new(), room, behind: 0 }
    }

    /// Takes the names of its kind out of many, in any order.
    pub(super) fn fill(&mut self, meta: &Meta) {
        self.change(None, Some(meta));
    }

    pub(super) fn page(&self, space: u8, prefix: &str, after: Option<&str>, most: usize) -> Option<(Vec<(String, u64)>, bool)> {
        if space != self.space || prefix != self.prefix || after < self.after.as_deref() {
            return None;
        }
        let rest = &self.entries[self.entries.partition_point(|(name, _)| after.is_some_and(|after| name.as_str() <= after))..];
        let page = &rest[..rest.len().min(most)];
        // Whether there is anything behind a name that is itself behind these is not known here.
        (rest.len() >= most.max(1) || self.behind == 0).then(|| (page.to_vec(), self.behind > 0 || rest.len() > most))
    }

    fn change(&mut self, old: Option<&Meta>, new: Option<&Meta>) {
        let Some(meta) = new.or(old) else { return };
        let is_its = meta.space == self.space && meta.name.starts_with(&self.prefix) && Some(meta.name.as_str()) > self.after.as_deref();
        if !is_its {
            return;
        }
        match (self.entries.binary_search_by(|(name, _)| name.as_str().cmp(&meta.name)), new) {
            (Ok(at), Some(new)) => self.entries[at].1 = new.bytes(),
            (Ok(at), None) => drop(self.entries.remove(at)),
            // It is behind what is here, and was before.
            (Err(_), Some(_)) if old.is_some() => {}
            (Err(_), None) => self.behind -= 1,
            (Err(at), Some(new)) if at < self.entries.len() || self.behind == 0 => {
                self.entries.insert(at, (new.name.clone(), new.bytes()));
                if self.entries.len() > self.room {
                    self.entries.pop();
                    self.behind += 1;
                }
            }
            (Err(_), Some(_)) => self.behind += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;

    fn meta(space: u8, name: &str, bytes: u32) -> Meta {
        Meta { object: [0; 16], chunks: 0, tail: bytes, tail_tag: [0; 16], space, name: name.into() }
    }

    #[derive(Clone, Debug)]
    enum Operation {
        Put(u8, String, u32),
        Delete(u8, String),
        List(u8, String, Option<String>, usize),
    }

    fn operation() -> impl Strategy<Value = Operation> {
        let name = || "[abc]{1,3}";
        prop_oneof![
            4 => (0..2u8, name(), 0..9u32).prop_map(|(space, name, bytes)| Operation::Put(space, name, bytes)),
            3 => (0..2u8, name()).prop_map(|(space, name)| Operation::Delete(space, name)),
            3 => (0..2u8, "[abc]{0,1}", prop::option::of(name()), 0..5usize).prop_map(|(space, prefix, after, most)| Operation::List(space, prefix, after, most)),
        ]
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn what_is_remembered_is_what_there_is(operations in prop::collection::vec(operation(), 1..120)) {
            let (mut windows, mut model) = (Windows::default(), BTreeMap::new());
            for operation in operations {
                match operation {
                    Operation::Put(space, name, bytes) => {
                        let new = meta(space, &name, bytes);
                        let old = model.insert((space, name), new.clone());
                        windows.change(old.as_ref(), Some(&new));
                    }
                    Operation::Delete(space, name) => {
                        let old = model.remove(&(space, name));
                        windows.change(old.as_ref(), None);
                    }
                    Operation::List(space, prefix, after, most) => {
                        let is_wanted = |meta: &&Meta| meta.space == space && meta.name.starts_with(&prefix) && after.as_ref().is_none_or(|after| meta.name > *after);
                        let mut wanted: Vec<_> = model.values().filter(is_wanted).map(|meta| (meta.name.clone(), meta.bytes())).collect();
                        let more = wanted.len() > most;
                        wanted.truncate(most);
                        let page = windows.page(space, &prefix, after.as_deref(), most).unwrap_or_else(|| {
                            let mut window = Window::new(space, &prefix, after.as_deref(), most.max(3));
                            model.values().rev().for_each(|meta| window.fill(meta));
                            let page = window.page(space, &prefix, after.as_deref(), most).unwrap();
                            windows.add(window);
                            page
                        });
                        prop_assert_eq!(page, (wanted, more));
                    }
                }
            }
            prop_assert!(windows.0.len() <= WINDOWS && windows.0.iter().all(|window| window.entries.len() <= window.room));
        }
    }

    #[test]
    fn a_part_is_looked_for_once_whatever_comes_and_goes_in_it() {
        let (mut windows, mut names) = (Windows::default(), Vec::new());
        for prefix in ["a/", "b/"] {
            let mut window = Window::new(0, prefix, None, WINDOW);
            for n in 0..2 * WINDOW {
                names.push(format!("{prefix}{n:05}"));
                window.fill(&meta(0, names.last().unwrap(), 1));
            }
            windows.add(window);
        }
        // By turns, as a function does that keeps an index beside what it is of.
        for round in 0..200 {
            for prefix in ["a/", "b/"] {
                assert!(windows.page(0, prefix, None, 200).is_some_and(|(page, more)| page.len() == 200 && more));
                let first = format!("{prefix}{round:05}");
                windows.change(Some(&meta(0, &first, 1)), None);
                windows.change(None, Some(&meta(0, &format!("{prefix}1{round:04}"), 1)));
            }
        }
        assert_eq!(windows.page(0, "a/", None, 1).unwrap().0, [("a/00200".into(), 1)]);
        // What was never looked at is not known.
        assert!(windows.page(0, "c/", None, 1).is_none() && windows.page(1, "a/", None, 1).is_none());
        assert!(windows.page(0, "a/", Some("a/00600"), 200).is_none());
    }
}
