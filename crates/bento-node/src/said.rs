//! Lines of the log that clients, functions or a failing disk can bring about again and again: said at once, then ever more rarely while it
//! goes on, so that nobody fills a disk by them.

use std::{
    sync::{Mutex, PoisonError},
    time::{Duration, Instant},
};

/// Shortest and longest pause between two lines of one kind. It doubles as long as they come.
const PAUSE: (Duration, Duration) = (Duration::from_secs(1), Duration::from_secs(60));

/// What was said of one kind.
#[derive(Debug)]
pub(crate) struct Said(Mutex<Before>);

#[derive(Debug)]
struct Before {
    last: Option<Instant>,
    pause: Duration,
    /// Passed over since then.
    unsaid: u64,
}

impl Said {
    /// Nothing yet.
    pub(crate) const fn new() -> Self {
        Self(Mutex::new(Before { last: None, pause: PAUSE.0, unsaid: 0 }))
    }

    /// May it be said now? Then how many were passed over since the last time.
    pub(crate) fn may(&self, now: Instant) -> Option<u64> {
        let mut before = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let quiet = before.last.map(|last| now.saturating_duration_since(last));
        if quiet.is_some_and(|quiet| quiet < before.pause) {
            before.unsaid += 1;
            return None;
        }
        let goes_on = quiet.is_some_and(|quiet| quiet < before.pause * 2);
        before.pause = if goes_on { (before.pause * 2).min(PAUSE.1) } else { PAUSE.0 };
        before.last = Some(now);
        Some(std::mem::take(&mut before.unsaid))
    }
}

/// Logs a line, each place in the code for itself: `say!(error, %error, "a store failed")`. `unsaid` says how many were passed over before it.
macro_rules! say {
    ($level:ident, $($line:tt)+) => {{
        static SAID: $crate::said::Said = $crate::said::Said::new();
        if let Some(unsaid) = SAID.may(std::time::Instant::now()) {
            tracing::$level!(unsaid, $($line)+);
        }
    }};
}

pub(crate) use say;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_goes_on_is_said_ever_more_rarely_and_what_comes_anew_at_once() {
        let (said, begin) = (Said::new(), Instant::now());
        let at = |millis| said.may(begin + Duration::from_millis(millis));
        assert_eq!(at(0), Some(0));
        assert_eq!((at(1), at(999)), (None, None));
        assert_eq!(at(1000), Some(2));
        // An hour of one each tenth of a second.
        let lines: Vec<u64> = (11..36_000).filter_map(|tenth| at(tenth * 100)).collect();
        assert!((60..70).contains(&lines.len()), "{}", lines.len());
        assert!((599..=600).contains(lines.last().unwrap()), "{lines:?}");
        // After a quiet time it begins anew.
        assert!(at(3_600_000 + 120_000).is_some());
        assert_eq!((at(3_720_500), at(3_721_000)), (None, Some(1)));
    }
}
