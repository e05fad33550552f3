//! How much of something there was within the last 24 hours. It is kept in memory alone, so a restart begins it anew.

use std::{
    collections::VecDeque,
    time::{Duration, Instant},
};

/// How long something counts.
const DAY: Duration = Duration::from_secs(24 * 3600);

/// It is counted in steps of this, so that a day takes at most 1,441 numbers, however much comes. Each counts for up to one step longer
/// than a day, and never for less.
const STEP: Duration = Duration::from_secs(60);

/// The last day.
#[derive(Debug)]
pub(crate) struct Day {
    born: Instant,
    /// How much came in which step, oldest first.
    steps: VecDeque<(u32, u64)>,
    total: u64,
}

impl Day {
    pub(crate) fn new(born: Instant) -> Self {
        Self { born, steps: VecDeque::new(), total: 0 }
    }

    /// How much there was.
    pub(crate) fn total(&mut self, now: Instant) -> u64 {
        self.forget(now);
        self.total
    }

    fn step(&self, at: Instant) -> u32 {
        u32::try_from(at.saturating_duration_since(self.born).as_secs() / STEP.as_secs()).unwrap_or(u32::MAX)
    }

    /// When what came in a step no longer counts.
    fn end(&self, step: u32) -> Instant {
        self.born + STEP * (step + 1) + DAY
    }

    fn forget(&mut self, now: Instant) {
        while let Some((step, amount)) = self.steps.front().copied().filter(|(step, _)| self.end(*step) <= now) {
            debug_assert!(self.step(now) > step);
            self.total -= amount;
            self.steps.pop_front();
        }
    }

    /// Is there room for so much more? If not, how long until there is: never, where more is asked for than there ever is.
    pub(crate) fn room(&mut self, amount: u64, per_day: u64, now: Instant) -> Result<(), Option<Duration>> {
        self.forget(now);
        let fits = |total: u64| total.checked_add(amount).is_some_and(|total| total <= per_day);
        if fits(self.total) {
            return Ok(());
        }
        let mut left = self.total;
        let free = self.steps.iter().find(|(_, amount)| {
            left -= amount;
            fits(left)
        });
        Err(free.map(|(step, _)| self.end(*step).saturating_duration_since(now)))
    }

    /// So much more came.
    pub(crate) fn count(&mut self, amount: u64, now: Instant) {
        let step = self.step(now);
        match self.steps.back_mut() {
            Some((last, before)) if *last == step => *before += amount,
            _ => self.steps.push_back((step, amount)),
        }
        self.total += amount;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn never_more_comes_within_any_day_and_the_memory_is_bounded() {
        let mut day = Day::new(Instant::now());
        let (begin, mut came) = (day.born, Vec::new());
        // Every 7 seconds for three days something comes, in bursts of two.
        for second in (0..3 * 86_400).step_by(7) {
            let now = begin + Duration::from_secs(second);
            for _ in 0..2 {
                if day.room(1, 500, now).is_ok() {
                    day.count(1, now);
                    came.push(now);
                }
            }
            assert!(day.steps.len() <= 1442);
        }
        assert!(came.len() > 1000);
        assert!(came.windows(501).all(|window| window[500] - window[0] >= DAY));
    }

    #[test]
    fn what_is_left_fits_and_one_more_does_not() {
        let mut day = Day::new(Instant::now());
        let now = day.born;
        day.count(60, now);
        day.count(30, now + STEP);
        assert_eq!((day.room(10, 100, now + STEP), day.total(now + STEP)), (Ok(()), 90));
        // What came first has to be forgotten for eleven, both for eighty, and never is there room for more than all.
        assert_eq!(day.room(11, 100, now + STEP), Err(Some(DAY)));
        assert_eq!(day.room(80, 100, now + STEP), Err(Some(DAY + STEP)));
        assert_eq!(day.room(101, 100, now + STEP), Err(None));
        assert_eq!(day.total(now + STEP + DAY), 30);
    }
}
