//! One source transaction on its way out: its ordinals, who made it, and the last event of each topic, held back until
//! it is known to be the last.

use std::collections::BTreeMap;

use crate::events::draft::{Draft, Stamp, Topic};

/// A transaction between its Begin and its Commit.
#[derive(Debug)]
pub(super) struct Transaction {
    timeline: u32,
    /// Where its commit record starts.
    lsn: u64,
    /// Commit time, microseconds since 2000-01-01.
    time_us: i64,
    xid: u32,
    /// Who makes the changes from here on: JSON, empty while nobody has said so.
    pub(super) context: Vec<u8>,
    changes: u32,
    held: BTreeMap<Topic, Draft>,
}

impl Transaction {
    pub(super) fn begin(timeline: u32, lsn: u64, time_us: i64, xid: u32) -> Self {
        Self { timeline, lsn, time_us, xid, context: Vec::new(), changes: 0, held: BTreeMap::new() }
    }

    /// Returns what its events share.
    pub(super) fn stamp<'a>(&self, source: &'a str) -> Stamp<'a> {
        Stamp { source, timeline: self.timeline, lsn: self.lsn, time_us: self.time_us, xid: Some(self.xid) }
    }

    /// Returns the ordinal of the next change: steps of two, because a change can be a delete here and a create there.
    pub(super) fn next_seq(&mut self) -> u32 {
        let seq = self.changes.saturating_mul(2);
        self.changes += 1;
        seq
    }

    /// Takes an event and returns the one of its topic that is now known not to be the last.
    pub(super) fn push(&mut self, draft: Draft) -> Option<Draft> {
        self.held.insert(draft.topic, draft)
    }

    /// Ends the transaction: returns the last event of each topic, marked as such.
    pub(super) fn end(self) -> impl Iterator<Item = Draft> {
        let total = self.changes;
        self.held.into_values().map(move |mut draft| {
            draft.mark_last(total);
            draft
        })
    }
}
