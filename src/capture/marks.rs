//! When each partition gets its next mark: spread over time, because a round over all partitions at once makes the events
//! behind it wait.

use std::time::{Duration, Instant};

use crate::position::Bound;

/// How often a partition gets a mark though nothing has moved.
pub(super) const IDLE: Duration = Duration::from_secs(1);

/// The marks sent so far. Pure: it is told the time.
#[derive(Debug)]
pub(super) struct Schedule {
    /// Per partition of all state topics: the bound of its newest mark, and when that was sent.
    sent: Vec<(Bound, Instant)>,
    cursor: usize,
    /// Least time between two marks of a partition while changes come.
    pause: Duration,
    /// Time between two marks of any partitions.
    gap: Duration,
    last: Instant,
}

impl Schedule {
    /// Every partition is due at once.
    pub(super) fn new(partitions: u32, pause: Duration, now: Instant) -> Self {
        let long_ago = now.checked_sub(IDLE).unwrap_or(now);
        let gap = pause / partitions.max(1);
        let sent = vec![(Bound::ZERO, long_ago); partitions as usize];
        Self { sent, cursor: 0, pause, gap, last: long_ago }
    }

    /// Returns the partition that gets a mark with this bound now, if one is due. Call it again: several may be.
    pub(super) fn next(&mut self, bound: Bound, now: Instant) -> Option<usize> {
        if now < self.last + self.gap {
            return None;
        }
        let count = self.sent.len();
        let partition =
            (0..count).map(|step| (self.cursor + step) % count).find(|at| self.due_at(*at, bound) <= now)?;
        self.sent[partition] = (bound, now);
        self.cursor = (partition + 1) % count;
        // After a standstill the marks catch up, but a quarter of a round at most goes out at once.
        let floor = now.checked_sub(self.pause / 4).unwrap_or(now);
        self.last = (self.last + self.gap).max(floor);
        Some(partition)
    }

    /// Returns when the next mark is due.
    pub(super) fn next_at(&self, bound: Bound) -> Instant {
        let due = (0..self.sent.len()).map(|at| self.due_at(at, bound)).min();
        due.map_or(self.last + IDLE, |due| due.max(self.last + self.gap))
    }

    fn due_at(&self, partition: usize, bound: Bound) -> Instant {
        let (marked, sent) = self.sent[partition];
        sent + if marked < bound { self.pause } else { IDLE }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAUSE: Duration = Duration::from_millis(48);

    fn bound(lsn: u64) -> Bound {
        Bound::at_lsn(1, lsn)
    }

    /// Lets `time` pass in steps of 1 ms and returns how many marks each partition got.
    fn run(schedule: &mut Schedule, start: Instant, time: Duration, bound_at: impl Fn(u64) -> Bound) -> Vec<u32> {
        let mut marks = vec![0; schedule.sent.len()];
        for ms in 0..u64::try_from(time.as_millis()).unwrap() {
            let now = start + Duration::from_millis(ms);
            while let Some(partition) = schedule.next(bound_at(ms), now) {
                marks[partition] += 1;
            }
        }
        marks
    }

    #[test]
    fn every_partition_gets_its_mark_within_two_pauses_and_no_burst() {
        let start = Instant::now();
        let mut schedule = Schedule::new(24, PAUSE, start);
        run(&mut schedule, start, PAUSE * 3, |_| bound(1));
        let later = start + PAUSE * 3;
        let mut most = 0;
        let mut marked = [false; 24];
        for ms in 0..u64::try_from(PAUSE.as_millis()).unwrap() * 2 {
            let mut now_sent = 0;
            while let Some(partition) = schedule.next(bound(2), later + Duration::from_millis(ms)) {
                marked[partition] = true;
                now_sent += 1;
            }
            most = most.max(now_sent);
        }
        assert!(marked.iter().all(|marked| *marked));
        assert!(most <= 24 / 4 + 1, "{most} marks at once");
    }

    #[test]
    fn while_nothing_moves_each_partition_gets_one_mark_a_second() {
        let start = Instant::now();
        let mut schedule = Schedule::new(4, PAUSE, start);
        let marks = run(&mut schedule, start, Duration::from_millis(3500), |_| bound(1));
        assert!(marks.iter().all(|count| (3..=5).contains(count)), "{marks:?}");
    }

    #[test]
    fn while_changes_come_no_partition_gets_more_than_one_mark_a_pause() {
        let start = Instant::now();
        let mut schedule = Schedule::new(8, PAUSE, start);
        let marks = run(&mut schedule, start, PAUSE * 10, bound);
        assert!(marks.iter().all(|count| (8..=11).contains(count)), "{marks:?}");
    }
}
