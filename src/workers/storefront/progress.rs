//! How far each partition is: what was sent on from it, and what its marks say.

use std::sync::Arc;

use super::event::Topics;
use crate::position::{Bound, Position};

/// A bound that holds for several partitions, and when capture said so.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Marked {
    pub(super) bound: Bound,
    /// The `time` of the mark with the least bound.
    pub(super) time: Arc<str>,
}

#[derive(Debug, Clone)]
struct Partition {
    topic: usize,
    index: i32,
    mark: Option<Marked>,
    /// Every event at or above is still to come.
    next: Bound,
}

/// The progress of all partitions.
#[derive(Debug, Clone, Default)]
pub(super) struct Progress {
    partitions: Vec<Partition>,
}

impl Progress {
    pub(super) fn add(&mut self, topic: usize, index: i32) {
        self.partitions.push(Partition { topic, index, mark: None, next: Bound::ZERO });
    }

    /// Notes an event that was sent on.
    pub(super) fn event(&mut self, topic: usize, index: i32, position: Position) {
        if let Some(partition) = self.find(topic, index) {
            partition.next = partition.next.max(position.after());
        }
    }

    /// Notes a mark, behind all the events before it.
    pub(super) fn mark(&mut self, topic: usize, index: i32, marked: Marked) {
        if let Some(partition) = self.find(topic, index) {
            partition.next = partition.next.max(marked.bound);
            if partition.mark.as_ref().is_none_or(|mark| mark.bound <= marked.bound) {
                partition.mark = Some(marked);
            }
        }
    }

    /// Returns the bound below which everything in these topics was sent on: the resume token of who follows them.
    pub(super) fn least(&self, topics: Topics) -> Option<Marked> {
        let marks = self.of(topics).map(|partition| partition.mark.as_ref());
        // One partition without a mark says nothing, and so neither do all.
        let marks: Option<Vec<&Marked>> = marks.collect();
        marks?.into_iter().min_by_key(|marked| marked.bound).cloned()
    }

    /// Returns the bound from which every event in these topics is still to come.
    pub(super) fn next(&self, topics: Topics) -> Bound {
        self.of(topics).map(|partition| partition.next).max().unwrap_or(Bound::ZERO)
    }

    fn of(&self, topics: Topics) -> impl Iterator<Item = &Partition> {
        self.partitions.iter().filter(move |partition| topics.contains(partition.topic))
    }

    fn find(&mut self, topic: usize, index: i32) -> Option<&mut Partition> {
        self.partitions.iter_mut().find(|partition| partition.topic == topic && partition.index == index)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(lsn: u64) -> Marked {
        Marked { bound: Bound::at_lsn(1, lsn), time: Arc::from("t") }
    }

    fn two() -> (Progress, Topics) {
        let mut progress = Progress::default();
        progress.add(0, 0);
        progress.add(0, 1);
        progress.add(1, 0);
        (progress, Topics::only(0))
    }

    #[test]
    fn the_token_is_the_least_mark_of_all_partitions_followed() {
        let (mut progress, stock) = two();
        progress.mark(0, 0, marked(9));
        assert_eq!(progress.least(stock), None);
        progress.mark(0, 1, marked(4));
        progress.mark(1, 0, marked(2));
        assert_eq!(progress.least(stock), Some(marked(4)));
        assert_eq!(progress.least(stock.and(Topics::only(1))), Some(marked(2)));
    }

    #[test]
    fn an_event_is_no_token() {
        let (mut progress, stock) = two();
        progress.mark(0, 0, marked(4));
        progress.mark(0, 1, marked(4));
        progress.event(0, 0, Position { timeline: 1, lsn: 8, seq: 0 });
        assert_eq!(progress.least(stock), Some(marked(4)));
    }

    #[test]
    fn events_are_complete_from_the_greatest_bound_on() {
        let (mut progress, stock) = two();
        progress.mark(0, 0, marked(4));
        let position = Position { timeline: 1, lsn: 8, seq: 2 };
        progress.event(0, 1, position);
        assert_eq!(progress.next(stock), position.after());
        assert_eq!(progress.next(Topics::only(1)), Bound::ZERO);
    }
}
