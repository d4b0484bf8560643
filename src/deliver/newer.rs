//! Which records of a partition are new to a reader that also sees what aborted transactions left behind.

use std::collections::HashSet;

use crate::position::{Bound, Position};

/// Lets each event of a partition through once, in order, however often a restarted capture sends it again.
///
/// Right because records are appended in Position order per partition, and whoever starts again sends everything from some
/// Position on (see the models `TransactionalReadUncommitted` and `FilterBehindZombie` in the design's explorations).
#[derive(Clone, Debug, Default)]
pub struct NewerOnly {
    newest: Option<Position>,
    /// Ids seen at `newest`: two entries of one table share a Position.
    at_newest: HashSet<Box<str>>,
    mark: Option<Bound>,
}

impl NewerOnly {
    /// Starts behind `newest`. What stands exactly there passes once more, because its ids are not known.
    #[must_use]
    pub fn behind(newest: Option<Position>) -> Self {
        Self { newest, ..Self::default() }
    }

    /// Tells whether this event or tombstone is new, and remembers it.
    pub fn event(&mut self, position: Position, id: &str) -> bool {
        // A mark is seen like any record: all that it contains stood before it.
        if self.newest.is_some_and(|newest| position < newest) || self.mark.is_some_and(|mark| mark.contains(position))
        {
            return false;
        }
        if self.newest != Some(position) {
            self.newest = Some(position);
            self.at_newest.clear();
        }
        self.at_newest.insert(id.into())
    }

    /// Tells whether this mark says at least as much as any record before, and remembers it. One that does not contain
    /// the newest event is a repetition of a restarted capture, and its count speaks of less than was seen.
    pub fn mark(&mut self, bound: Bound) -> bool {
        if self.mark.is_some_and(|mark| bound < mark) || self.newest.is_some_and(|newest| !bound.contains(newest)) {
            return false;
        }
        self.mark = Some(bound);
        true
    }

    /// The newest Position seen.
    #[must_use]
    pub fn newest(&self) -> Option<Position> {
        self.newest
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use proptest::sample::Index;

    use super::*;

    fn at(lsn: u64) -> Position {
        Position { timeline: 1, lsn, seq: 0 }
    }

    #[test]
    fn a_mark_that_was_overtaken_says_nothing_and_what_a_mark_contains_does_not_come_again() {
        let mut newer = NewerOnly::behind(Some(at(5)));
        assert!(!newer.mark(Bound::at_lsn(1, 5)), "it does not contain the newest event");
        assert!(newer.mark(Bound::at_lsn(1, 8)));
        assert!(!newer.event(at(7), "again"), "below the mark, from before this reader began");
        assert!(newer.event(at(8), "new"));
    }

    proptest! {
        /// `sizes[i]` events share Position i; after each start the sender goes back to some earlier Position.
        #[test]
        fn each_event_passes_once_and_in_order_however_often_it_is_sent_again(
            sizes in prop::collection::vec(1_usize..4, 1..20),
            starts in prop::collection::vec((any::<Index>(), any::<Index>()), 0..6),
        ) {
            let events: Vec<(u64, String)> = (0..).zip(&sizes)
                .flat_map(|(lsn, &size)| (0..size).map(move |n| (lsn, format!("{lsn}/{n}"))))
                .collect();
            // A sender stops anywhere; its successor begins with the first event of a Position that was reached.
            let mut sent: Vec<&(u64, String)> = Vec::new();
            let mut begin = 0;
            for (stop, back) in starts {
                let reached = begin + stop.index(events.len() - begin);
                sent.extend(&events[begin..reached]);
                let from = events[back.index(reached.max(1))].0;
                begin = events.iter().position(|event| event.0 == from).unwrap_or(0);
            }
            sent.extend(&events[begin..]);

            let mut filter = NewerOnly::default();
            let passed: Vec<_> = sent.into_iter().filter(|(lsn, id)| filter.event(at(*lsn), id)).collect();
            prop_assert_eq!(passed, events.iter().collect::<Vec<_>>());
        }

        #[test]
        fn marks_never_go_back(bounds in prop::collection::vec(0_u64..50, 0..50)) {
            let mut filter = NewerOnly::default();
            let passed: Vec<u64> = bounds.into_iter().filter(|&lsn| filter.mark(Bound::at_lsn(1, lsn))).collect();
            prop_assert!(passed.is_sorted());
        }
    }

    #[test]
    fn what_stands_at_the_resumed_position_passes_once_more() {
        let mut filter = NewerOnly::behind(Some(at(5)));
        assert!(!filter.event(at(4), "a"));
        assert!(filter.event(at(5), "b"));
        assert!(!filter.event(at(5), "b"));
        assert!(filter.event(at(6), "c"));
        assert_eq!(filter.newest(), Some(at(6)));
    }
}
