//! Records of one partition → calls of the connector. A plain function over values.
//!
//! Promise: a call's progress says exactly what its changes did. The mark moves with the changes below it, never before,
//! and only by marks that are *complete*: before the snapshot of a topic's tables stands in it, a change below the mark may
//! still be missing, and a reader's token would be met by a value without it.

use highwater_redis::{Change, Progress, Stamp};

use super::plan::{Plan, Unplannable, coalesce};
use crate::events::envelope::Envelope;

/// Redis serves nobody else during a call: at 3 to 9 µs a change, as measured, this keeps it below 10 ms.
const MOST_CHANGES: usize = 1_000;
/// Bytes of values in one call, for the same reason.
const MOST_BYTES: usize = 4 << 20;

/// A record, as far as the cache looks at it.
#[derive(Debug, Clone, Copy)]
pub struct Incoming<'a> {
    /// Its place in the partition.
    pub offset: u64,
    /// The event; `None` is a tombstone, whose delete stands before it.
    pub event: Option<&'a Envelope<'a>>,
}

/// One call.
#[derive(Debug, PartialEq)]
pub(super) struct Call<'a> {
    /// What it changes, coalesced.
    pub changes: Vec<Change<'a>>,
    /// How far the partition is with it.
    pub to: Progress,
    /// How many events are in it.
    pub events: u64,
    /// How many records, marks and tombstones included.
    pub records: usize,
    /// Commit times of its changes, as they stand in the events; without those of snapshot rows, which were read and not
    /// committed then.
    pub times: Vec<&'a str>,
}

/// A record that cannot be applied, ever.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Poison {
    /// Which one.
    pub offset: u64,
    /// Why.
    pub reason: String,
}

/// Divides records into calls, in their order, up to the first that cannot be applied.
///
/// `from` is the partition's progress before them, `next_offset` that behind all of them and behind records that nobody
/// needs. Marks that stand below the offset `marks_from` are ignored.
#[must_use]
pub(super) fn divide<'a>(
    plan: &Plan,
    from: Option<Progress>,
    marks_from: u64,
    records: &[Incoming<'a>],
    next_offset: u64,
) -> (Vec<Call<'a>>, Option<Poison>) {
    let mut calls = Vec::new();
    let mut open = Open::after(from.unwrap_or(Progress { offset: 0, mark: None, newest: None, ahead: false }));
    for record in records {
        if let Err(refused) = open.add(plan, marks_from, record) {
            calls.extend(open.close());
            return (calls, Some(Poison { offset: record.offset, reason: refused.to_string() }));
        }
        if open.changes.len() >= MOST_CHANGES || open.bytes >= MOST_BYTES {
            let next = Open::after(open.to);
            calls.extend(open.close());
            open = next;
        }
    }
    open.reach(next_offset);
    calls.extend(open.close());
    (calls, None)
}

/// What records change, without progress.
#[derive(Debug)]
pub struct Changes<'a> {
    /// Coalesced, one list for each call.
    pub calls: Vec<Vec<Change<'a>>>,
    /// How many events are in them.
    pub events: u64,
    /// How many records are done with, that which cannot be applied included.
    pub passed: usize,
    /// The first that cannot be applied.
    pub poison: Option<Poison>,
}

/// Returns what records of any partitions change, up to the first that cannot be applied.
#[must_use]
pub fn changes_of<'a>(plan: &Plan, records: &[Incoming<'a>]) -> Changes<'a> {
    let (calls, poison) = divide(plan, None, u64::MAX, records, 0);
    let events = calls.iter().map(|call| call.events).sum();
    let done = calls.iter().map(|call| call.records).sum::<usize>();
    let passed = done + usize::from(poison.is_some());
    Changes { calls: calls.into_iter().map(|call| call.changes).collect(), events, passed, poison }
}

/// A call that still takes records.
struct Open<'a> {
    changes: Vec<Change<'a>>,
    to: Progress,
    events: u64,
    times: Vec<&'a str>,
    bytes: usize,
    records: usize,
    /// Whether there is anything to say to Redis.
    moved: bool,
}

impl<'a> Open<'a> {
    fn after(to: Progress) -> Self {
        Self { changes: Vec::new(), to, events: 0, times: Vec::new(), bytes: 0, records: 0, moved: false }
    }

    fn add(&mut self, plan: &Plan, marks_from: u64, record: &Incoming<'a>) -> Result<(), Unplannable> {
        if let Some(event) = record.event {
            let position = Stamp::new(event.position.text());
            if event.is_mark() {
                self.to.ahead = event.ahead;
                if event.complete && record.offset >= marks_from {
                    self.to.mark = self.to.mark.max(Some(position));
                }
            } else {
                plan.add(event, &mut self.changes)?;
                self.to.ahead |= event.ahead;
                self.to.newest = self.to.newest.max(Some(position));
                self.events += 1;
                self.bytes += event.data.map_or(0, |data| data.get().len());
                if event.family_and_verb().1 != "snapshot" {
                    self.times.push(&event.time);
                }
            }
        }
        self.reach(record.offset + 1);
        self.records += 1;
        // Also where the offset does not grow: a replay reads several partitions at once.
        self.moved = true;
        Ok(())
    }

    fn reach(&mut self, offset: u64) {
        if offset > self.to.offset {
            self.to.offset = offset;
            self.moved = true;
        }
    }

    fn close(self) -> Option<Call<'a>> {
        let Self { changes, to, events, times, records, moved, .. } = self;
        moved.then(|| Call { changes: coalesce(changes), to, events, records, times })
    }
}

#[cfg(test)]
#[path = "batch_tests.rs"]
mod tests;
