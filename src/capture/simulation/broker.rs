//! Kafka: partitions, transactions of two transactional ids, epochs (KIP-98).

use std::rc::Rc;

use super::source::Event;
use super::{ALL, PROGRESS};
use crate::capture::progress::Progress;
use crate::position::Bound;

/// What a record says.
#[derive(Clone, Debug)]
pub(super) enum Content {
    Event(Event),
    Mark {
        bound: Bound,
        count: u64,
    },
    /// The partition is enlisted ahead of its first event.
    Enlist,
    Progress(Rc<Progress>),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Status {
    /// Its transaction has no marker in this partition yet.
    Open,
    Committed,
    Aborted,
}

#[derive(Clone, Debug)]
pub(super) struct Record {
    pub(super) content: Content,
    id: usize,
    pub(super) status: Status,
}

/// A producer that took a transactional id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Ticket {
    pub(super) id: usize,
    pub(super) epoch: u32,
}

/// Why a request is refused.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Refused {
    /// Another producer has taken the transactional id.
    Fenced,
    /// The markers of the transaction before are still being written (`CONCURRENT_TRANSACTIONS`); ask again.
    Busy,
}

/// One transactional id at its coordinator.
#[derive(Clone, Copy, Default)]
struct Coordinator {
    epoch: u32,
    /// The transaction is decided; its markers are written one by one.
    committing: bool,
}

#[derive(Default)]
pub(super) struct Broker {
    /// One for each partition.
    pub(super) logs: [Vec<Record>; ALL],
    /// Nothing below is open (the last stable offset), by partition.
    stable: [usize; ALL],
    ids: [Coordinator; 2],
}

impl Broker {
    /// Takes a transactional id (`init_transactions`): completes what was decided, aborts what was left open.
    pub(super) fn init(&mut self, id: usize) -> Ticket {
        let status = if self.ids[id].committing { Status::Committed } else { Status::Aborted };
        for partition in 0..self.logs.len() {
            self.resolve(id, partition, status);
        }
        self.ids[id] = Coordinator { epoch: self.ids[id].epoch + 1, committing: false };
        Ticket { id, epoch: self.ids[id].epoch }
    }

    /// Returns what the present holder of a transactional id has.
    pub(super) fn ticket(&self, id: usize) -> Ticket {
        Ticket { id, epoch: self.ids[id].epoch }
    }

    pub(super) fn append(&mut self, who: Ticket, partition: usize, content: Content) -> Result<(), Refused> {
        self.check(who)?;
        if self.ids[who.id].committing {
            return Err(Refused::Busy);
        }
        self.logs[partition].push(Record { content, id: who.id, status: Status::Open });
        Ok(())
    }

    /// Decides the producer's transaction (`EndTxn`): from here on it will be committed, whoever dies.
    pub(super) fn commit(&mut self, who: Ticket) -> Result<(), Refused> {
        self.check(who)?;
        // One that is committed already is asked for again where the answer was lost.
        self.ids[who.id].committing = self.is_open(who.id);
        Ok(())
    }

    /// Writes the marker of a decided transaction to one partition.
    pub(super) fn write_marker(&mut self, id: usize, partition: usize) {
        if self.ids[id].committing {
            self.resolve(id, partition, Status::Committed);
            self.ids[id].committing = self.is_open(id);
        }
    }

    /// Returns the newest progress that a `read_committed` reader sees: nothing behind the first open record.
    pub(super) fn committed_progress(&self) -> Option<Rc<Progress>> {
        let mut stable = self.logs[PROGRESS][..self.stable[PROGRESS]].iter().rev();
        stable.find(|record| record.status == Status::Committed).and_then(|record| match &record.content {
            Content::Progress(progress) => Some(Rc::clone(progress)),
            Content::Event(_) | Content::Mark { .. } | Content::Enlist => None,
        })
    }

    /// Returns the newest bound that is committed for certain, seen by readers or not.
    pub(super) fn durable(&self) -> Bound {
        let durable = |record: &&Record| {
            record.status == Status::Committed || (record.status == Status::Open && self.ids[record.id].committing)
        };
        let newest = self.logs[PROGRESS].iter().rev().find(durable);
        newest.map_or(Bound::ZERO, |record| match &record.content {
            Content::Progress(progress) => progress.bound,
            Content::Event(_) | Content::Mark { .. } | Content::Enlist => Bound::ZERO,
        })
    }

    /// Tells whether every event and all progress has its marker. A transaction that only enlists and marks is always open.
    pub(super) fn is_settled(&self) -> bool {
        let says_something = |record: &Record| matches!(record.content, Content::Event(_) | Content::Progress(_));
        let waits = |record: &Record| record.status == Status::Open && says_something(record);
        let mut unstable = self.logs.iter().zip(self.stable).flat_map(|(log, stable)| &log[stable..]);
        !self.ids.iter().any(|id| id.committing) && !unstable.any(waits)
    }

    fn check(&self, who: Ticket) -> Result<(), Refused> {
        if who.epoch == self.ids[who.id].epoch { Ok(()) } else { Err(Refused::Fenced) }
    }

    /// Tells whether a transaction of this id has records without a marker.
    fn is_open(&self, id: usize) -> bool {
        let unstable = self.logs.iter().zip(self.stable).flat_map(|(log, stable)| &log[stable..]);
        unstable.into_iter().any(|record| record.id == id && record.status == Status::Open)
    }

    fn resolve(&mut self, id: usize, partition: usize, status: Status) {
        let (log, stable) = (&mut self.logs[partition], &mut self.stable[partition]);
        for record in log[*stable..].iter_mut().filter(|record| record.id == id && record.status == Status::Open) {
            record.status = status;
        }
        *stable += log[*stable..].iter().take_while(|record| record.status != Status::Open).count();
    }
}
