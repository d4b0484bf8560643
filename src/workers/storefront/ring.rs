//! Recent events of one partition, for clients that come back. Promise: from its bound on it holds every event.

use std::collections::VecDeque;
use std::sync::Arc;

use super::event::Event;
use crate::position::Bound;

#[derive(Debug)]
pub(super) struct Ring {
    events: VecDeque<Arc<Event>>,
    bytes: usize,
    limit: usize,
    /// Every event at or above is here; `None` before the first record was read.
    from: Option<Bound>,
}

impl Ring {
    pub(super) fn new(limit: usize) -> Self {
        Self { events: VecDeque::new(), bytes: 0, limit, from: None }
    }

    /// Adds the partition's next event.
    pub(super) fn push(&mut self, event: &Arc<Event>) {
        // The first record read is a bound for its partition: another event at the same Position may stand before it, an
        // event above may not.
        self.from.get_or_insert(event.position.after());
        self.bytes += event.cost();
        self.events.push_back(Arc::clone(event));
        while self.bytes > self.limit
            && let Some(oldest) = self.events.pop_front()
        {
            self.bytes -= oldest.cost();
            self.from = self.from.max(Some(oldest.position.after()));
        }
    }

    /// Notes a mark: every event below its bound was read before it or is older than the ring.
    pub(super) fn mark(&mut self, bound: Bound) {
        self.from.get_or_insert(bound);
    }

    /// Tells whether every event at `token` and above is here.
    pub(super) fn reaches(&self, token: Bound) -> bool {
        self.from.is_some_and(|from| from <= token)
    }

    /// Returns the events at `token` and above, in order.
    pub(super) fn since(&self, token: Bound) -> impl Iterator<Item = &Arc<Event>> {
        let first = self.events.partition_point(|event| token.contains(event.position));
        self.events.range(first..)
    }
}

#[cfg(test)]
mod tests {
    use bytes::Bytes;
    use proptest::prelude::*;

    use super::*;
    use crate::position::Position;

    fn event(lsn: u64, size: usize) -> Arc<Event> {
        Arc::new(Event {
            position: Position { timeline: 1, lsn, seq: 0 },
            topic: 0,
            partition: 0,
            key: Bytes::new(),
            part: None,
            text: "x".repeat(size).into(),
            whole: true,
            truncation: false,
        })
    }

    proptest! {
        /// Positions may repeat (two entries of one table); reading starts anywhere in the log.
        #[test]
        fn a_resume_gets_every_event_from_its_token_on_or_is_refused(
            steps in prop::collection::vec((0_u64..3, 0_usize..300, any::<bool>()), 1..60),
            skipped in 0_usize..30, limit in 0_usize..5_000, token in 0_u64..120,
        ) {
            let mut ring = Ring::new(limit);
            let mut log = Vec::new();
            let mut lsn = 1;
            for (i, (advance, size, mark)) in steps.into_iter().enumerate() {
                if mark {
                    // All below the next commit stands before.
                    lsn += 1;
                    if i >= skipped {
                        ring.mark(Bound::at_lsn(1, lsn));
                    }
                } else {
                    lsn += advance;
                    let event = event(lsn, size);
                    if i >= skipped {
                        ring.push(&event);
                    }
                    log.push(event);
                }
                prop_assert!(ring.bytes <= limit);
            }
            let token = Bound::at_lsn(1, token);
            if ring.reaches(token) {
                let missed: Vec<_> = log.iter().filter(|event| !token.contains(event.position)).collect();
                prop_assert_eq!(ring.since(token).collect::<Vec<_>>(), missed);
            }
        }
    }

    #[test]
    fn a_ring_that_read_nothing_refuses_and_one_that_read_a_mark_reaches_back_to_it() {
        let mut ring = Ring::new(1_000);
        assert!(!ring.reaches(Bound::at_lsn(1, 5)));
        ring.mark(Bound::at_lsn(1, 5));
        assert!(ring.reaches(Bound::at_lsn(1, 5)) && !ring.reaches(Bound::at_lsn(1, 4)));
    }
}
