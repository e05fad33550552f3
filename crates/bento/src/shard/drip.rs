//! A file that leaves in portions of one size, at random times over a span: when which portion goes, and where to.
//!
//! Times and places depend on nothing but their number and chance, so that they say nothing of the file. What was missed, because the
//! computer was off or a node away, is not caught up with in a burst: what is left gets new times, and takes as long as the pace demands.
//! Decides only: clock and chance are handed in, and sending is others' work.

use std::time::Duration;

use bento_proto::Span;
use serde::{Deserialize, Serialize};

use crate::{ClientError, DropId, FileKey};

/// A portion that is later than this, and than the pace, was missed.
const LATE_MS: u64 = 10_000;

/// Most portions of a file. Each is written down.
const PORTIONS_MAX: u64 = 10_000;

/// A file on its way in portions.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Drip {
    /// Bytes of each portion.
    pub each: u64,
    /// The span that was asked for.
    pub span: Span,
    /// When the first portion may have gone, in milliseconds since 1970,
    pub began: u64,
    /// and when the last one goes.
    pub ends: u64,
    /// All portions, in the file's order.
    pub portions: Vec<Portion>,
}

/// One portion.
#[derive(Clone, Debug, Eq, PartialEq, Serialize, Deserialize)]
pub struct Portion {
    /// The drop that it is.
    pub drop: String,
    /// The place that it goes to, by its number.
    pub place: usize,
    /// When it goes, in milliseconds since 1970.
    pub due: u64,
    /// Its SHA-256 in hexadecimal, once it is there.
    pub sha256: Option<String>,
}

/// What there is to do.
#[derive(Clone, Copy, Debug, Eq, PartialEq)]
pub enum Next {
    /// This portion is to be sent now.
    Send(usize),
    /// Nothing for so long.
    Wait(Duration),
    /// All portions are there.
    Done,
}

impl Drip {
    /// A new one: a file that has so many bytes before it is sealed, in portions of `each` bytes, over a span from now on, to so many places.
    ///
    /// # Errors
    /// When there would be too many portions, or the system has no random numbers.
    pub fn new(plain: u64, each: u64, span: Span, places: usize, now: u64, chance: &mut impl FnMut() -> u64) -> Result<Self, ClientError> {
        let (count, _) = Self::count(plain, each)?;
        let mut portions = Vec::new();
        for index in 0..count {
            portions.push(Portion { drop: DropId::mint()?.to_string(), place: index % places.max(1), due: now, sha256: None });
        }
        let mut drip = Self { each, span, began: now, ends: now + span.as_millis(), portions };
        drip.draw(now, chance);
        Ok(drip)
    }

    /// How many portions a file of so many bytes takes, and to how many bytes it is padded before it is sealed, so that they are full.
    ///
    /// # Errors
    /// When there would be too many.
    pub fn count(plain: u64, each: u64) -> Result<(usize, u64), ClientError> {
        let fits = |count: u64| FileKey::plain_size(count.checked_mul(each)?).filter(|held| *held >= plain);
        let first = (plain / each.max(1)).max(1);
        // Sealing adds 16 bytes to each 64 KiB, less than three portions of the most there are; and a length that no sealed file has is followed
        // by one that some have.
        let found = (first..=first.saturating_add(6)).find_map(|count| Some((count, fits(count)?)));
        match found {
            Some((count, held)) if count <= PORTIONS_MAX => Ok((usize::try_from(count).unwrap_or(usize::MAX), held)),
            _ => Err(ClientError::Request(format!("the file would leave in more than {PORTIONS_MAX} portions; make them larger"))),
        }
    }

    /// What there is to do at this time. What was missed gets another one.
    pub fn next(&mut self, now: u64, chance: &mut impl FnMut() -> u64) -> Next {
        let Some(due) = self.first().map(|(_, due)| due) else { return Next::Done };
        let was_missed = now.saturating_sub(due) > self.pace_ms().max(LATE_MS);
        // A clock that was put back would have it wait for ever.
        let is_far = due.saturating_sub(now) > self.span.as_millis().max(self.window(now)).saturating_add(LATE_MS);
        if was_missed || is_far {
            self.draw(now, chance);
        }
        match self.first() {
            Some((index, due)) if due <= now => Next::Send(index),
            Some((_, due)) => Next::Wait(Duration::from_millis(due - now)),
            None => Next::Done,
        }
    }

    /// This portion is there.
    pub fn sent(&mut self, index: usize, sha256: String) {
        if let Some(portion) = self.portions.get_mut(index) {
            portion.sha256 = Some(sha256);
        }
    }

    /// This portion did not get there: it goes at another time.
    pub fn failed(&mut self, index: usize, now: u64, chance: &mut impl FnMut() -> u64) {
        let window = self.window(now);
        if let Some(portion) = self.portions.get_mut(index) {
            portion.due = now + below(window, chance());
            self.ends = self.ends.max(portion.due);
        }
    }

    /// These are not where they were left: they go again, from now on, to other places if these are bad.
    pub fn lost(&mut self, lost: &[usize], now: u64, chance: &mut impl FnMut() -> u64) {
        for index in lost {
            if let Some(portion) = self.portions.get_mut(*index) {
                portion.sha256 = None;
            }
        }
        self.draw(now, chance);
    }

    /// What was to go to a place goes to the others, so that each has about as much. Nothing changes if there are none.
    pub fn leave_out(&mut self, bad: &[usize], places: usize) {
        let mut loads: Vec<(usize, usize)> = (0..places)
            .filter(|place| !bad.contains(place))
            .map(|place| (self.portions.iter().filter(|portion| portion.place == place).count(), place))
            .collect();
        for portion in self.portions.iter_mut().filter(|portion| portion.sha256.is_none() && bad.contains(&portion.place)) {
            let Some(least) = loads.iter_mut().min() else { return };
            least.0 += 1;
            portion.place = least.1;
            // Nobody shall see by its name that the old place was to have it.
            if let Ok(drop) = DropId::mint() {
                portion.drop = drop.to_string();
            }
        }
    }

    /// How many portions are there.
    pub fn done(&self) -> usize {
        self.portions.iter().filter(|portion| portion.sha256.is_some()).count()
    }

    /// The time between two portions, on average.
    pub fn pace(&self) -> Duration {
        Duration::from_millis(self.pace_ms())
    }

    fn pace_ms(&self) -> u64 {
        self.span.as_millis() / (self.portions.len() as u64).max(1)
    }

    /// The next portion, and when it goes.
    fn first(&self) -> Option<(usize, u64)> {
        let open = self.portions.iter().enumerate().filter(|(_, portion)| portion.sha256.is_none());
        open.map(|(index, portion)| (index, portion.due)).min_by_key(|(_, due)| *due)
    }

    /// How long what is left takes: what is left of the span, and at the pace that was asked for at least.
    fn window(&self, now: u64) -> u64 {
        let left = (self.portions.len() - self.done()) as u64;
        self.ends.saturating_sub(now).min(self.span.as_millis()).max(self.pace_ms() * left)
    }

    /// Gives every portion that is left a time.
    fn draw(&mut self, now: u64, chance: &mut impl FnMut() -> u64) {
        let window = self.window(now);
        for portion in self.portions.iter_mut().filter(|portion| portion.sha256.is_none()) {
            portion.due = now + below(window, chance());
        }
        self.ends = now + window;
    }
}

/// A number below this, every one as likely.
fn below(bound: u64, chance: u64) -> u64 {
    u64::try_from((u128::from(chance) * u128::from(bound)) >> 64).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const HOUR: u64 = 3_600_000;

    /// Chance that is the same in every run: SplitMix64.
    fn chance(mut seed: u64) -> impl FnMut() -> u64 {
        move || {
            seed = seed.wrapping_add(0x9e37_79b9_7f4a_7c15);
            let mixed = (seed ^ (seed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
            let mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
            mixed ^ (mixed >> 31)
        }
    }

    fn drip(count: u64, hours: u64) -> Drip {
        let plain = FileKey::plain_size(count * 1_000_000).unwrap();
        Drip::new(plain, 1_000_000, Span::seconds(hours * 3600), 4, 0, &mut chance(count)).unwrap()
    }

    /// Runs it from `now` on, each portion taking `each` milliseconds; the times at which portions left.
    fn run(drip: &mut Drip, now: &mut u64, each: u64, until: u64, chance: &mut impl FnMut() -> u64) -> Vec<u64> {
        let mut times = Vec::new();
        while *now < until {
            match drip.next(*now, chance) {
                Next::Done => break,
                Next::Wait(time) => *now += u64::try_from(time.as_millis()).unwrap(),
                Next::Send(index) => {
                    times.push(*now);
                    *now += each;
                    drip.sent(index, "aa".into());
                }
            }
        }
        times
    }

    #[test]
    fn portions_leave_at_random_times_over_all_of_the_span_and_to_all_places_alike() {
        let (mut drip, mut now) = (drip(200, 6), 0);
        assert_eq!(drip.portions.len(), 200);
        for place in 0..4 {
            assert_eq!(drip.portions.iter().filter(|portion| portion.place == place).count(), 50);
        }
        let times = run(&mut drip, &mut now, 1000, u64::MAX, &mut chance(1));
        assert_eq!((times.len(), drip.done()), (200, 200));
        assert!(times[199] <= 6 * HOUR + 60_000);
        // Each of the six hours has its share, and gaps are neither alike nor all short.
        for hour in 0..6 {
            let count = times.iter().filter(|time| **time / HOUR == hour).count();
            assert!((15..=55).contains(&count), "{count} in hour {hour}");
        }
        let gaps: Vec<u64> = times.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.iter().any(|gap| *gap > 250_000) && gaps.iter().any(|gap| *gap < 30_000));
    }

    #[test]
    fn what_was_missed_is_not_caught_up_with_in_a_burst() {
        let mut chance = chance(5);
        for away in [HOUR, 5 * HOUR, 40 * HOUR] {
            let (mut drip, mut now) = (drip(60, 6), 0);
            let before = run(&mut drip, &mut now, 1000, 2 * HOUR, &mut chance).len();
            now += away;
            let begin = now;
            let after = run(&mut drip, &mut now, 1000, u64::MAX, &mut chance);
            assert_eq!(before + after.len(), 60);
            // At the pace that was asked for, on average: one in six minutes, or less often as long as the span lasts.
            let took = after.last().unwrap() - begin;
            assert!(took > after.len() as u64 * 6 * 60_000 * 8 / 10, "{} in {took} ms after {away}", after.len());
            assert!(after.windows(10).all(|ten| ten[9] - ten[0] > 8 * 60_000), "{after:?}");
        }
    }

    #[test]
    fn a_portion_that_fails_goes_at_another_time_and_from_a_bad_place_to_another() {
        let (mut drip, mut chance) = (drip(40, 1), chance(9));
        let mut now = 0;
        run(&mut drip, &mut now, 100, HOUR / 2, &mut chance);
        let done = drip.done();
        let index = drip.portions.iter().position(|portion| portion.sha256.is_none()).unwrap();
        let (before, drop) = (drip.portions[index].due, drip.portions[index].drop.clone());
        drip.failed(index, now, &mut chance);
        assert!(drip.portions[index].due > now && drip.portions[index].due != before && drip.portions[index].drop == drop);
        let bad = drip.portions[index].place;
        drip.leave_out(&[bad], 4);
        assert!(drip.portions.iter().all(|portion| portion.sha256.is_some() || portion.place != bad));
        assert_ne!(drip.portions[index].drop, drop);
        let loads: Vec<usize> = (0..4)
            .filter(|place| *place != bad)
            .map(|place| drip.portions.iter().filter(|portion| portion.place == place).count())
            .collect();
        assert!(loads.iter().max().unwrap() - loads.iter().min().unwrap() <= 1, "{loads:?}");
        // Where no place is left nothing changes.
        let same = drip.clone();
        drip.leave_out(&[0, 1, 2, 3], 4);
        assert_eq!(drip, same);
        assert_eq!(drip.done(), done);
    }

    #[test]
    fn lost_portions_go_again_at_the_pace() {
        let (mut drip, mut chance, mut now) = (drip(40, 1), chance(3), 0);
        run(&mut drip, &mut now, 100, u64::MAX, &mut chance);
        drip.lost(&[3, 30], now, &mut chance);
        assert_eq!(drip.done(), 38);
        let begin = now;
        let times = run(&mut drip, &mut now, 100, u64::MAX, &mut chance);
        assert_eq!((times.len(), drip.done()), (2, 40));
        assert!(times[1] - begin <= 2 * 90_000 + 1000);
    }

    #[test]
    fn a_clock_that_was_put_back_holds_nothing_up() {
        let (mut drip, mut chance) = (drip(10, 1), chance(2));
        for portion in &mut drip.portions {
            portion.due += 1000 * HOUR;
        }
        let Next::Wait(time) = drip.next(0, &mut chance) else { panic!() };
        assert!(time <= Duration::from_secs(3600));
    }

    proptest! {
        #[test]
        fn portions_are_full_and_hold_the_file(plain in 0u64..3_000_000_000, each in 10_000u64..5_000_000) {
            let Ok((count, held)) = Drip::count(plain, each) else {
                prop_assert!(plain / each > 9_990);
                return Ok(());
            };
            prop_assert!(held >= plain);
            prop_assert_eq!(FileKey::sealed_size(held), Some(count as u64 * each));
            // No more than needed, but for one where a length cannot be.
            prop_assert!(count as u64 <= 2 + (plain + plain / 4000) / each);
        }

        #[test]
        fn it_ends_whatever_happens(seed: u64, count in 1u64..30, events in prop::collection::vec(0u8..4, 0..60)) {
            let (mut drip, mut chance, mut now) = (drip(count, 1), chance(seed), 0u64);
            for event in events {
                match drip.next(now, &mut chance) {
                    Next::Done => break,
                    Next::Wait(time) => now += u64::try_from(time.as_millis()).unwrap() * u64::from(event),
                    Next::Send(index) if event == 0 => drip.failed(index, now, &mut chance),
                    Next::Send(index) if event == 1 => {
                        let bad = drip.portions[index].place;
                        drip.leave_out(&[bad], 4);
                        now += HOUR;
                    }
                    Next::Send(index) => drip.sent(index, "aa".into()),
                }
            }
            let begin = now;
            run(&mut drip, &mut now, 1, u64::MAX, &mut chance);
            prop_assert_eq!(drip.done(), drip.portions.len());
            prop_assert!(now - begin <= 2 * HOUR);
        }
    }
}
