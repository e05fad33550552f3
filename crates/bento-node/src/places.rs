//! Room for functions: so many at the same time, and so many within any 24 hours.
//!
//! Both numbers may change while functions are there. Nobody is turned out: where more are there than may be, none comes in until enough
//! have gone. The count of a day is kept in memory alone, so a restart begins it anew.

use std::{
    sync::{Arc, Mutex, PoisonError},
    time::Instant,
};

use bento_proto::{Refusal, Span};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::day::Day;

/// A node's room for functions.
#[derive(Debug)]
pub struct Places {
    free: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    most: u32,
    /// Places that are to vanish as soon as those who have them go.
    owed: usize,
    per_day: u32,
    day: Day,
}

impl Places {
    /// Room for so many at the same time, and so many in a day.
    pub fn new(most: u32, per_day: u32) -> Self {
        let state = State { most, owed: 0, per_day, day: Day::new(Instant::now()) };
        Self { free: Arc::new(Semaphore::new(most as usize)), state: Mutex::new(state) }
    }

    /// Makes more or less room.
    pub fn set(&self, most: u32, per_day: u32) {
        let mut state = self.state();
        let (before, most_now) = (state.most as usize, most as usize);
        if most_now >= before {
            // What is still owed is forgiven first.
            let forgiven = state.owed.min(most_now - before);
            state.owed -= forgiven;
            self.free.add_permits(most_now - before - forgiven);
        } else {
            state.owed += before - most_now;
            state.settle(&self.free);
        }
        (state.most, state.per_day) = (most, per_day);
    }

    /// A place for one more.
    ///
    /// # Errors
    /// When as many are there as may be, or as many came as may come in a day.
    pub fn take(&self) -> Result<OwnedSemaphorePermit, Refusal> {
        self.take_at(Instant::now())
    }

    /// A place for one that was here before the node was started, also where there are fewer places now.
    pub fn take_again(&self) -> Option<OwnedSemaphorePermit> {
        let mut state = self.state();
        if self.free.available_permits() == 0 {
            state.owed += 1;
            self.free.add_permits(1);
        }
        Arc::clone(&self.free).try_acquire_owned().ok()
    }

    fn take_at(&self, now: Instant) -> Result<OwnedSemaphorePermit, Refusal> {
        let mut state = self.state();
        let busy = Refusal::Busy { what: "functions", limit: state.most.into() };
        state.settle(&self.free);
        if state.owed > 0 {
            return Err(busy);
        }
        let place = Arc::clone(&self.free).try_acquire_owned().map_err(|_| busy)?;
        let limit = state.per_day.into();
        if let Err(wait) = state.day.room(1, limit, now) {
            // Rounded up, so that who comes again then finds it.
            let free_in = wait.map(|wait| Span::millis(u64::try_from(wait.as_millis()).unwrap_or(u64::MAX).saturating_add(1)));
            return Err(Refusal::BusyToday { limit, free_in });
        }
        state.day.count(1, now);
        Ok(place)
    }

    /// How many came within the last day.
    pub fn today(&self) -> u64 {
        self.state().day.total(Instant::now())
    }

    fn state(&self) -> std::sync::MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl State {
    /// Takes away what is owed, as far as it has come back.
    fn settle(&mut self, free: &Semaphore) {
        self.owed -= free.forget_permits(self.owed);
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn is_full(places: &Places) -> bool {
        matches!(places.take(), Err(Refusal::Busy { .. }))
    }

    #[test]
    fn room_grows_and_shrinks_and_nobody_is_turned_out() {
        let places = Places::new(3, 1000);
        let mut taken: Vec<_> = (0..3).map(|_| places.take().unwrap()).collect();
        assert!(is_full(&places));
        places.set(1, 1000);
        for _ in 0..2 {
            assert!(is_full(&places));
            taken.pop();
        }
        assert!(is_full(&places), "one is there, and one may be");
        taken.pop();
        taken.push(places.take().unwrap());
        assert!(is_full(&places));
        places.set(2, 1000);
        taken.push(places.take().unwrap());
        assert!(is_full(&places));
        // To less and back to more before anybody has gone.
        places.set(0, 1000);
        places.set(3, 1000);
        taken.push(places.take().unwrap());
        assert!(is_full(&places));
        places.set(0, 1000);
        taken.clear();
        assert!(is_full(&places));
        places.set(1, 1000);
        let _one = places.take().unwrap();
        assert!(is_full(&places));
    }

    #[test]
    fn who_was_here_before_a_restart_stays_though_there_are_fewer_places() {
        let places = Places::new(1, 1000);
        let (first, second) = (places.take_again().unwrap(), places.take_again().unwrap());
        assert!(is_full(&places));
        drop(second);
        assert!(is_full(&places));
        drop(first);
        let _one = places.take().unwrap();
        assert!(is_full(&places));
    }

    #[test]
    fn a_day_slides() {
        let places = Places::new(1000, 3);
        let begin = Instant::now();
        let hours = |hours: u64| begin + Duration::from_secs(hours * 3600);
        for hour in [0, 10, 20] {
            drop(places.take_at(hours(hour)).unwrap());
        }
        let Err(Refusal::BusyToday { limit: 3, free_in: Some(wait) }) = places.take_at(hours(21)) else { panic!("there is room") };
        // Three hours, and at most one step more.
        assert!((3 * 3600..=3 * 3600 + 61).contains(&wait.as_seconds_up()), "{wait}");
        assert!(places.take_at(hours(24) - Duration::from_secs(1)).is_err());
        assert!(places.take_at(hours(21) + wait.duration()).is_ok());
        assert!(places.take_at(hours(25)).is_err());
        assert!(places.take_at(hours(35)).is_ok());
        // Fewer in a day: more must be forgotten before the next.
        places.set(1000, 1);
        let Err(Refusal::BusyToday { free_in: Some(wait), .. }) = places.take_at(hours(36)) else { panic!("there is room") };
        assert!((23 * 3600..=23 * 3600 + 61).contains(&wait.as_seconds_up()), "{wait}");
        places.set(1000, 0);
        assert_eq!(places.take_at(hours(100)).unwrap_err(), Refusal::BusyToday { limit: 0, free_in: None });
    }

    #[test]
    fn who_is_refused_for_lack_of_room_does_not_count_for_the_day() {
        let places = Places::new(1, 2);
        let first = places.take().unwrap();
        assert!(is_full(&places) && is_full(&places));
        drop(first);
        assert_eq!(places.today(), 1);
        drop(places.take().unwrap());
        assert!(matches!(places.take(), Err(Refusal::BusyToday { .. })));
        // The place that was not given is still there.
        places.set(1, 3);
        assert!(places.take().is_ok());
    }
}
