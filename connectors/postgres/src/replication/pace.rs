//! When to let the system gather before it is asked again.
//!
//! A walsender sends each change by itself, and a reader that is as quick as it makes a system call for every few of them. While
//! much comes, the stream therefore waits for a moment before it reads: a moment's worth in one call, instead of dozens of calls.
//! While little comes, nothing waits.
//!
//! On one machine, TCP costs the walsender more than that: each change that finds the window open is a packet by itself, and half
//! of its time. Where the window is closed, changes gather in its own queue, and leave it together when the reader opens it. So
//! there the window is small enough to fill while the reader is away. Over a network that would only make the reader wait for
//! the way there and back. `SO_RCVLOWAT` would spare the reader's calls alone, and no safe interface sets it.

use std::time::{Duration, Instant};

use crate::socket::Distance;

/// Over this time the rate is measured.
const WINDOW: Duration = Duration::from_millis(10);
/// At this many bytes in a window or more, much comes: 5 MB/s, some 20,000 changes a second.
const MUCH: u64 = 50_000;
/// Least and greatest length of a nap, and the first.
const SHORTEST: Duration = Duration::from_micros(100);
const LONGEST: Duration = Duration::from_millis(1);
const FIRST: Duration = Duration::from_micros(500);

/// What a read is to find. The figures are those with which backlogs were read quickest.
#[derive(Copy, Clone, Debug)]
pub(super) struct Gathering {
    /// The bytes for which the reader stays away.
    goal: u64,
    /// The bytes that it lets the system receive ahead, where they are bounded.
    pub(super) receive_buffer: Option<usize>,
}

impl Gathering {
    pub(super) fn over(distance: Distance) -> Self {
        match distance {
            // The sender waits as soon as some 70 KB of small messages are there.
            Distance::None => Self { goal: 24 * 1024, receive_buffer: None },
            Distance::Loopback => Self { goal: 56 * 1024, receive_buffer: Some(80 * 1024) },
            Distance::Network => Self { goal: 32 * 1024, receive_buffer: None },
        }
    }
}

/// The rate at which bytes come, and how long to stay away for a good read. Pure: it is told the time.
#[derive(Debug)]
pub(super) struct Pace {
    goal: u64,
    nap: Duration,
    since: Instant,
    received: u64,
    reads: u64,
    much: bool,
}

impl Pace {
    pub(super) fn new(now: Instant, gathering: Gathering) -> Self {
        Self { goal: gathering.goal, nap: FIRST, since: now, received: 0, reads: 0, much: false }
    }

    /// Takes note of a read, and of all bytes received since the connection began.
    pub(super) fn note(&mut self, received: u64, now: Instant) {
        self.reads += 1;
        let passed = now.saturating_duration_since(self.since);
        if passed < WINDOW {
            return;
        }
        let bytes = received.saturating_sub(self.received);
        self.much = u128::from(bytes) * WINDOW.as_micros() >= u128::from(MUCH) * passed.as_micros();
        if self.much {
            // Longer at once, shorter little by little: where reads are too small, the server has more to do for the same.
            let nap = if bytes / self.reads < self.goal { self.nap * 5 / 4 } else { self.nap * 49 / 50 };
            self.nap = nap.clamp(SHORTEST, LONGEST);
        }
        (self.since, self.received, self.reads) = (now, received, 0);
    }

    /// Returns how long the system should gather, if much comes.
    pub(super) fn nap(&self) -> Option<Duration> {
        self.much.then_some(self.nap)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_system_gathers_while_much_comes_and_not_a_window_longer() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Gathering::over(Distance::Loopback));
        let at = |ms| start + Duration::from_millis(ms);
        pace.note(1_000_000, at(5));
        assert!(pace.nap().is_none(), "a window is not over");
        pace.note(1_000_000, at(10));
        assert!(pace.nap().is_some());
        pace.note(1_049_000, at(20));
        assert!(pace.nap().is_none(), "less than 5 MB/s");
        pace.note(1_100_000, at(30));
        assert!(pace.nap().is_some());
        pace.note(1_100_500, at(1000));
        assert!(pace.nap().is_none(), "little over a long time");
    }

    #[test]
    fn a_reader_stays_away_longer_while_it_finds_little_and_shorter_while_it_finds_enough() {
        let start = Instant::now();
        let mut pace = Pace::new(start, Gathering { goal: 10_000, receive_buffer: None });
        let mut received = 0;
        let mut windows = 0..;
        let mut naps_with = |bytes: u64| {
            for _ in 0..200 {
                received += bytes;
                let window = windows.next().unwrap();
                // Ten reads for each window.
                (1..=10).for_each(|read| pace.note(received, start + Duration::from_millis(10 * window + read)));
            }
            pace.nap()
        };
        assert_eq!(naps_with(90_000), Some(LONGEST));
        assert_eq!(naps_with(110_000), Some(SHORTEST));
        assert_eq!(naps_with(1000), None);
    }
}
