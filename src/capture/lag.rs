//! How far behind the end of the server's log a place is, in bytes and in time. A place of the log says nothing of time, so it
//! is remembered when the log's end was seen where.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use highwater_postgres::Lsn;

/// Most ends that are remembered: 24 kB.
const REMEMBERED: usize = 1000;
/// Two of them are at least this part of the whole time apart, so that days fit and no lag is told wrong by more than that.
const PARTS: u32 = 500;

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Seen {
    end: Lsn,
    /// When it was first seen.
    at: Instant,
}

/// Where the log ended when. Pure: it is told the time.
#[derive(Debug, Default)]
pub(super) struct Ends {
    newest: Option<Seen>,
    /// Ends rise from one to the next.
    past: VecDeque<Seen>,
}

impl Ends {
    /// The log ends here now.
    pub(super) fn see(&mut self, end: Lsn, now: Instant) {
        match self.newest {
            Some(newest) if newest.end == end => return,
            // A standby that had less was promoted: what the other log had behind this says nothing any more.
            Some(newest) if newest.end > end => self.past.clear(),
            _ => {}
        }
        let seen = Seen { end, at: now };
        self.newest = Some(seen);
        let least = |first: &Seen| now.saturating_duration_since(first.at) / PARTS;
        let gap = self.past.front().map_or(Duration::ZERO, least);
        if self.past.back().is_some_and(|last| now.saturating_duration_since(last.at) < gap) {
            return;
        }
        if self.past.len() >= REMEMBERED {
            self.thin();
        }
        self.past.push_back(seen);
    }

    /// Forgets every second one. The first stays: it tells since when the slowest stage stands still.
    fn thin(&mut self) {
        let mut stays = false;
        self.past.retain(|_| {
            stays = !stays;
            stays
        });
    }

    /// Everything up to here has passed every stage: nobody asks for it any more.
    pub(super) fn forget(&mut self, passed: Lsn) {
        self.past.drain(..self.past.partition_point(|seen| seen.end <= passed));
    }

    /// Returns the bytes of log from `position` to the end; none while no end was seen.
    pub(super) fn bytes_behind(&self, position: Lsn) -> Option<u64> {
        self.newest.map(|newest| newest.end.0.saturating_sub(position.0))
    }

    /// Returns since when the log is known to have gone past `position`, nothing if it has not; none while no end was seen.
    pub(super) fn time_behind(&self, position: Lsn, now: Instant) -> Option<Duration> {
        let newest = self.newest?;
        if newest.end <= position {
            return Some(Duration::ZERO);
        }
        let first_beyond = self.past.get(self.past.partition_point(|seen| seen.end <= position)).unwrap_or(&newest);
        Some(now.saturating_duration_since(first_beyond.at))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// A log that grows by 10 bytes a second, seen each second until `seconds` have passed.
    fn growing(start: Instant, seconds: u32) -> Ends {
        let mut ends = Ends::default();
        (1..=seconds).for_each(|n| ends.see(Lsn(u64::from(n) * 10), start + SECOND * n));
        ends
    }

    #[test]
    fn a_place_is_behind_since_the_first_end_beyond_it_was_seen() {
        let start = Instant::now();
        assert_eq!(Ends::default().time_behind(Lsn(5), start), None);
        assert_eq!(Ends::default().bytes_behind(Lsn(5)), None);
        let ends = growing(start, 20);
        let now = start + SECOND * 30;
        let told = |position| (ends.bytes_behind(Lsn(position)), ends.time_behind(Lsn(position), now));
        assert_eq!(told(0), (Some(200), Some(SECOND * 29)));
        assert_eq!(told(54), (Some(146), Some(SECOND * 24)));
        assert_eq!(told(199), (Some(1), Some(SECOND * 10)));
        assert_eq!(told(200), (Some(0), Some(Duration::ZERO)));
        assert_eq!(told(999), (Some(0), Some(Duration::ZERO)), "it moved since the end was asked for");
    }

    #[test]
    fn a_quiet_log_ages_nothing_that_stands_at_its_end_and_all_that_stands_before_it() {
        let start = Instant::now();
        let mut ends = growing(start, 3);
        (4..100).for_each(|n| ends.see(Lsn(30), start + SECOND * n));
        let now = start + SECOND * 100;
        assert_eq!(ends.time_behind(Lsn(30), now), Some(Duration::ZERO));
        assert_eq!(ends.time_behind(Lsn(29), now), Some(SECOND * 97));
    }

    #[test]
    fn what_every_stage_has_passed_is_forgotten_and_the_rest_told_as_before() {
        let start = Instant::now();
        let mut ends = growing(start, 20);
        ends.forget(Lsn(100));
        assert_eq!(ends.past.len(), 10);
        let now = start + SECOND * 20;
        assert_eq!(ends.time_behind(Lsn(100), now), Some(SECOND * 9));
        ends.forget(Lsn(500));
        assert_eq!(ends.past.len(), 0);
        assert_eq!(ends.time_behind(Lsn(199), now), Some(Duration::ZERO), "the newest is not forgotten");
    }

    #[test]
    fn days_behind_are_told_to_a_hundredth_and_in_bounded_memory() {
        let (start, seconds) = (Instant::now(), 3 * 86_400);
        let ends = growing(start, seconds);
        assert!(ends.past.len() <= REMEMBERED, "{}", ends.past.len());
        let now = start + SECOND * seconds;
        assert_eq!(ends.time_behind(Lsn(5), now), Some(SECOND * (seconds - 1)), "since when it stands still");
        for behind in [86_400_u32 * 2, 86_400, 3600 * 2] {
            let told = ends.time_behind(Lsn(u64::from(seconds - behind) * 10), now).expect("an end was seen");
            let off = (SECOND * behind).saturating_sub(told);
            assert!(told <= SECOND * behind && off <= SECOND * seconds / 100, "{told:?} instead of {behind} s");
        }
    }

    #[test]
    fn a_log_that_went_back_begins_anew() {
        let start = Instant::now();
        let mut ends = growing(start, 20);
        ends.see(Lsn(150), start + SECOND * 21);
        let now = start + SECOND * 25;
        assert_eq!(ends.bytes_behind(Lsn(140)), Some(10));
        assert_eq!(ends.time_behind(Lsn(140), now), Some(SECOND * 4));
        assert_eq!(ends.time_behind(Lsn(160), now), Some(Duration::ZERO));
    }
}
