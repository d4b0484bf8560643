//! The source: a log of commits, and the one slot that reads it.

use rand::Rng;
use rand::rngs::SmallRng;

use super::{HISTORY, PARTITIONS};
use crate::position::{Bound, Position};

/// One event of one partition. Several share a Position: two entries of a table, or a delete and its tombstone.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) partition: usize,
    pub(super) position: Position,
    pub(super) id: &'static str,
    /// Whether marks count it.
    pub(super) live: bool,
}

impl Event {
    /// Returns what the history says of the change, with its first event.
    pub(super) fn in_history(self) -> Option<Self> {
        let first = !["tombstone", "list"].contains(&self.id);
        first.then_some(Self { partition: HISTORY, id: "history", ..self })
    }
}

/// A transaction of the source.
pub(super) struct Commit {
    /// Where its commit record starts.
    pub(super) start: u64,
    /// Where it ends; the next one may start there.
    pub(super) end: u64,
    pub(super) events: Vec<Event>,
}

/// What the server keeps for the reader.
#[derive(Clone, Copy)]
pub(super) struct Slot {
    /// Commits that start below are not sent again.
    pub(super) confirmed: u64,
    /// What a crash of the server leaves of that.
    on_disk: u64,
    /// The connection that reads it.
    pub(super) holder: Option<u32>,
}

pub(super) struct Source {
    pub(super) commits: Vec<Commit>,
    /// The end of the log, which moves without commits, too.
    pub(super) end: u64,
    pub(super) slot: Option<Slot>,
    connections: u32,
}

impl Source {
    pub(super) fn new() -> Self {
        Self { commits: Vec::new(), end: 8, slot: None, connections: 0 }
    }

    /// Commits a transaction of a few rows, some of them of no captured table.
    pub(super) fn commit(&mut self, random: &mut SmallRng) {
        let start = self.end + 8 * random.random_range(0..2);
        let mut events = Vec::new();
        for change in 0..random.random_range(0..4) {
            let partition = random.random_range(0..PARTITIONS);
            let position = Position { timeline: 1, lsn: start, seq: 2 * change };
            let ids: &[_] = match random.random_range(0..6) {
                0 => &[("deleted", true), ("tombstone", false)],
                1 => &[("base", true), ("list", true)],
                _ => &[("stock", true)],
            };
            events.extend(ids.iter().map(|&(id, live)| Event { partition, position, id, live }));
        }
        self.end = start + 8;
        self.commits.push(Commit { start, end: self.end, events });
    }

    /// Writes to the log what nobody captures.
    pub(super) fn other_work(&mut self) {
        self.end += 8;
    }

    /// Makes the slot, as of now.
    pub(super) fn make_slot(&mut self) -> Bound {
        let slot = Slot { confirmed: self.end, on_disk: self.end, holder: None };
        Bound::at_lsn(1, self.slot.get_or_insert(slot).confirmed)
    }

    /// Gives the slot to a new connection, if it is free; returns the connection and the first commit that is sent to it.
    pub(super) fn take_slot(&mut self) -> Option<(u32, usize)> {
        let slot = self.slot.as_mut().filter(|slot| slot.holder.is_none())?;
        self.connections += 1;
        slot.holder = Some(self.connections);
        let first = self.commits.partition_point(|commit| commit.start < slot.confirmed);
        Some((self.connections, first))
    }

    pub(super) fn is_connected(&self, connection: u32) -> bool {
        self.slot.is_some_and(|slot| slot.holder == Some(connection))
    }

    /// Ends a connection, if it still is one.
    pub(super) fn disconnect(&mut self, connection: u32) {
        if let Some(slot) = self.slot.as_mut().filter(|slot| slot.holder == Some(connection)) {
            slot.holder = None;
        }
    }

    /// Takes an acknowledgement from whoever holds the slot.
    pub(super) fn acknowledge(&mut self, connection: u32, lsn: u64) {
        if let Some(slot) = self.slot.as_mut().filter(|slot| slot.holder == Some(connection)) {
            slot.confirmed = slot.confirmed.max(lsn);
        }
    }

    /// Saves the slot, as a checkpoint does.
    pub(super) fn checkpoint(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.on_disk = slot.confirmed;
        }
    }

    /// Dies and starts again: connections are gone, and what was not saved of the slot, too.
    pub(super) fn crash(&mut self) {
        if let Some(slot) = &mut self.slot {
            slot.confirmed = slot.on_disk;
            slot.holder = None;
        }
    }

    /// Returns what a partition must hold in the end, from where the slot was made.
    pub(super) fn expected(&self, from: u64, partition: usize) -> Vec<Event> {
        let commits = self.commits.iter().filter(|commit| commit.start >= from);
        let events = commits.flat_map(|commit| &commit.events).copied();
        if partition == HISTORY {
            return events.filter_map(Event::in_history).collect();
        }
        events.filter(|event| event.partition == partition).collect()
    }
}
