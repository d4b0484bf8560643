//! Joins what Redis was seen to hold with when it was committed.
//!
//! A notification of Redis tells which key was written, and the entry read after it tells up to which Position it is
//! current. The commit's time stands in the event, which this process reads from Kafka on its own. Either may be first. A
//! change counts as arrived with the first entry that was read at its Position or later: an entry may skip a change that
//! the next one overtook.

use std::collections::{HashMap, VecDeque};
use std::sync::{Mutex, PoisonError};

/// Changes and entries of one part that wait for their other half.
const WAITING: usize = 64;

#[derive(Default)]
pub(super) struct Sightings {
    parts: Mutex<HashMap<i64, Part>>,
}

#[derive(Default)]
struct Part {
    /// Position and commit of changes that no entry showed yet.
    committed: VecDeque<(String, i64)>,
    /// Bound and arrival of the entries read so far, oldest first.
    entries: VecDeque<(String, i64)>,
}

impl Sightings {
    /// Notes a change; returns its arrival if an entry has shown it already.
    pub(super) fn committed(&self, part: i64, position: &str, committed_us: i64) -> Option<i64> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(part).or_default();
        let shown = part.entries.iter().find(|(bound, _)| bound.as_str() >= position).map(|(_, at)| *at);
        if shown.is_none() {
            push(&mut part.committed, position, committed_us);
        }
        shown
    }

    /// Notes an entry that was read; returns the commits that it is the first to show.
    pub(super) fn read(&self, part: i64, bound: &str, arrived_us: i64) -> Vec<i64> {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let part = parts.entry(part).or_default();
        push(&mut part.entries, bound, arrived_us);
        let (shown, waiting): (VecDeque<_>, VecDeque<_>) =
            part.committed.drain(..).partition(|(position, _)| position.as_str() <= bound);
        part.committed = waiting;
        shown.into_iter().map(|(_, committed_us)| committed_us).collect()
    }
}

fn push(list: &mut VecDeque<(String, i64)>, position: &str, at_us: i64) {
    if list.len() == WAITING {
        list.pop_front();
    }
    list.push_back((position.to_owned(), at_us));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_change_arrives_with_the_first_entry_at_or_after_it_whichever_is_seen_first() {
        let sightings = Sightings::default();
        assert_eq!(sightings.committed(1, "10", 100), None);
        assert_eq!(sightings.read(1, "05", 110), Vec::<i64>::new());
        assert_eq!(sightings.committed(1, "20", 120), None);
        assert_eq!(sightings.read(1, "20", 130), vec![100, 120]);
        assert_eq!(sightings.read(1, "30", 140), Vec::<i64>::new());
        assert_eq!(sightings.read(1, "40", 150), Vec::<i64>::new());
        assert_eq!(sightings.committed(1, "25", 135), Some(140));
        assert_eq!(sightings.committed(2, "25", 135), None, "another part's entry");
    }
}
