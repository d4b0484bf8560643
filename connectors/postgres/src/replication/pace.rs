//! When to let the system gather before it is asked again.
//!
//! A walsender sends each change by itself, and a reader that is as quick as it makes a system call for every few of them. While
//! much comes, the stream therefore waits for a moment before it reads: half a millisecond's worth in one call, instead of dozens of
//! calls. `SO_RCVLOWAT` would say the same to the system, but no safe interface sets it. While little comes, nothing waits.

use std::time::{Duration, Instant};

/// How long the system gathers.
pub(super) const NAP: Duration = Duration::from_micros(500);
/// Over this time the rate is measured.
const WINDOW: Duration = Duration::from_millis(10);
/// At this many bytes in a window or more, much comes: 5 MB/s, some 20,000 changes a second.
const MUCH: u64 = 50_000;

/// The rate at which bytes come. Pure: it is told the time.
#[derive(Debug)]
pub(super) struct Pace {
    since: Instant,
    received: u64,
    much: bool,
}

impl Pace {
    pub(super) fn new(now: Instant) -> Self {
        Self { since: now, received: 0, much: false }
    }

    /// Takes note of all bytes received since the connection began.
    pub(super) fn note(&mut self, received: u64, now: Instant) {
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        let bytes = received.saturating_sub(self.received);
        self.much = u128::from(bytes) * WINDOW.as_micros() >= u128::from(MUCH) * passed.as_micros();
        (self.since, self.received) = (now, received);
    }

    /// Whether the system should gather for [`NAP`].
    pub(super) fn gathers(&self) -> bool {
        self.much
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_gathers_while_much_comes_and_not_a_window_longer() {
        let start = Instant::now();
        let mut pace = Pace::new(start);
        let at = |ms| start + Duration::from_millis(ms);
        pace.note(1_000_000, at(5));
        assert!(!pace.gathers(), "a window is not over");
        pace.note(1_000_000, at(10));
        assert!(pace.gathers());
        pace.note(1_049_000, at(20));
        assert!(!pace.gathers(), "less than 5 MB/s");
        pace.note(1_100_000, at(30));
        assert!(pace.gathers());
        pace.note(1_100_500, at(1000));
        assert!(!pace.gathers(), "little over a long time");
    }
}
