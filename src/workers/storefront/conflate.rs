//! The queue of a client: bounded in bytes, it keeps the newest event of each entity.
//!
//! Promise: of one entity never an older event after a newer one, and the newest that was pushed is never lost, unless the
//! queue says that it is full; then its owner must tell the client.

use std::collections::{HashMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;

use super::event::Event;

/// What became of a pushed event.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Pushed {
    /// It waits, beside all that waited before.
    Queued,
    /// It took the place of an older one of its entity.
    Conflated,
    /// A newer one of its entity waits; it is dropped.
    Stale,
    /// There is no room. The queue is as it was.
    Full,
}

/// Topic, partition and record key.
type Entity = (usize, i32, Bytes);

/// Events for one client, newest of each entity.
#[derive(Debug)]
pub(super) struct ConflatingQueue {
    /// `None` where an event was taken out from the middle.
    slots: VecDeque<Option<Arc<Event>>>,
    /// Running number of the first slot.
    first: u64,
    /// The slot of each entity's newest event.
    newest: HashMap<Entity, u64>,
    /// Slots before this one stand before a truncation: nothing newer may take their place.
    barrier: u64,
    bytes: usize,
    limit: usize,
}

impl ConflatingQueue {
    pub(super) fn new(limit: usize) -> Self {
        Self { slots: VecDeque::new(), first: 0, newest: HashMap::new(), barrier: 0, bytes: 0, limit }
    }

    pub(super) fn push(&mut self, event: Arc<Event>) -> Pushed {
        let entity = (event.topic, event.partition, event.key.clone());
        let cost = event.cost();
        let older = self.newest.get(&entity).and_then(|&slot| Some((slot, self.at(slot)?)));
        let replaced = match older {
            Some((_, waiting)) if waiting.position > event.position => return Pushed::Stale,
            // One without all values adds to what waits; and two events may share a Position.
            Some((slot, waiting)) if event.whole && waiting.position < event.position => Some((slot, waiting.cost())),
            _ => None,
        };
        let freed = replaced.map_or(0, |(_, cost)| cost);
        if self.bytes - freed + cost > self.limit {
            return Pushed::Full;
        }
        self.bytes = self.bytes - freed + cost;
        match replaced {
            Some((slot, _)) if slot >= self.barrier => {
                *self.slot_mut(slot) = Some(event);
                return Pushed::Conflated;
            }
            Some((slot, _)) => *self.slot_mut(slot) = None,
            None => {}
        }
        let slot = self.first + self.slots.len() as u64;
        if event.truncation {
            self.barrier = slot + 1;
        }
        self.slots.push_back(Some(event));
        self.newest.insert(entity, slot);
        if replaced.is_some() { Pushed::Conflated } else { Pushed::Queued }
    }

    pub(super) fn pop(&mut self) -> Option<Arc<Event>> {
        while let Some(slot) = self.slots.pop_front() {
            let number = self.first;
            self.first += 1;
            let Some(event) = slot else { continue };
            let entity = (event.topic, event.partition, event.key.clone());
            if self.newest.get(&entity) == Some(&number) {
                self.newest.remove(&entity);
            }
            self.bytes -= event.cost();
            return Some(event);
        }
        None
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new(self.limit);
    }

    fn at(&self, slot: u64) -> Option<&Event> {
        self.slots.get(usize::try_from(slot - self.first).ok()?)?.as_deref()
    }

    fn slot_mut(&mut self, slot: u64) -> &mut Option<Arc<Event>> {
        let index = usize::try_from(slot - self.first).unwrap_or(usize::MAX);
        &mut self.slots[index]
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::position::Position;

    /// A push of the n-th event of a random entity, or a pop.
    #[derive(Debug, Clone)]
    enum Step {
        Push { entity: u8, whole: bool, truncation: bool, size: usize },
        Pop,
    }

    fn step() -> impl Strategy<Value = Step> {
        let push = (0_u8..5, prop::bool::weighted(0.9), prop::bool::weighted(0.05), 0_usize..200);
        prop_oneof![
            3 => push.prop_map(|(entity, whole, truncation, size)| Step::Push { entity, whole, truncation, size }),
            2 => Just(Step::Pop),
        ]
    }

    fn event(lsn: u64, entity: u8, whole: bool, truncation: bool, size: usize) -> Arc<Event> {
        Arc::new(Event {
            position: Position { timeline: 1, lsn, seq: 0 },
            topic: 0,
            partition: i32::from(entity % 2),
            key: if truncation { Bytes::from_static(b"truncate/t") } else { Bytes::from(vec![entity]) },
            part: None,
            text: "x".repeat(size).into(),
            whole,
            truncation,
        })
    }

    fn run(steps: Vec<Step>, limit: usize) -> (Vec<Arc<Event>>, Vec<Arc<Event>>, bool) {
        let mut queue = ConflatingQueue::new(limit);
        let (mut pushed, mut popped, mut full) = (Vec::new(), Vec::new(), false);
        for (lsn, step) in (1..).zip(steps) {
            match step {
                Step::Push { entity, whole, truncation, size } => {
                    let event = event(lsn, entity, whole, truncation, size);
                    let outcome = queue.push(Arc::clone(&event));
                    assert!(queue.bytes <= limit, "{} bytes of {limit}", queue.bytes);
                    if outcome == Pushed::Full {
                        full = true;
                    } else {
                        pushed.push(event);
                    }
                }
                Step::Pop => popped.extend(queue.pop()),
            }
        }
        popped.extend(std::iter::from_fn(|| queue.pop()));
        assert!(queue.slots.is_empty() && queue.bytes == 0 && queue.newest.is_empty());
        (pushed, popped, full)
    }

    fn entity(event: &Event) -> (i32, Bytes) {
        (event.partition, event.key.clone())
    }

    proptest! {
        #[test]
        fn of_one_entity_positions_only_grow(steps in prop::collection::vec(step(), 0..80)) {
            let (_, popped, _) = run(steps, 1_000);
            let mut last = BTreeMap::new();
            for event in &popped {
                if let Some(before) = last.insert(entity(event), event.position) {
                    prop_assert!(before < event.position);
                }
            }
        }

        #[test]
        fn the_newest_of_each_entity_arrives(steps in prop::collection::vec(step(), 0..80)) {
            let (pushed, popped, full) = run(steps, 100_000);
            prop_assert!(!full);
            let newest = |events: &[Arc<Event>]| -> BTreeMap<_, _> { events.iter().map(|e| (entity(e), e.position)).collect() };
            prop_assert_eq!(newest(&pushed), newest(&popped));
        }

        /// An event that lacks values adds to an older one; both arrive, or a newer one that has all.
        #[test]
        fn nothing_is_conflated_into_an_event_that_lacks_values(steps in prop::collection::vec(step(), 0..80)) {
            let (pushed, popped, _) = run(steps, 100_000);
            for lost in pushed.iter().filter(|event| !popped.contains(event)) {
                let newer_whole = |event: &&Arc<Event>| event.whole && entity(event) == entity(lost) && event.position > lost.position;
                prop_assert!(popped.iter().any(|event| newer_whole(&event)), "{:?} is lost", lost);
            }
        }

        #[test]
        fn nothing_newer_than_a_truncation_of_its_partition_overtakes_it(steps in prop::collection::vec(step(), 0..80)) {
            let (_, popped, _) = run(steps, 100_000);
            for (i, truncation) in popped.iter().enumerate().filter(|(_, event)| event.truncation) {
                prop_assert!(popped[..i].iter().all(|event| event.position < truncation.position));
            }
        }
    }

    #[test]
    fn an_entity_that_changes_all_the_time_keeps_its_turn() {
        let mut queue = ConflatingQueue::new(100_000);
        queue.push(event(1, 0, true, false, 10));
        queue.push(event(2, 2, true, false, 10));
        assert_eq!(queue.push(event(3, 0, true, false, 10)), Pushed::Conflated);
        assert_eq!(queue.pop().map(|event| event.position.lsn), Some(3));
    }

    #[test]
    fn an_event_larger_than_the_queue_finds_it_full() {
        assert_eq!(ConflatingQueue::new(1_000).push(event(1, 0, true, false, 1_000)), Pushed::Full);
    }
}
