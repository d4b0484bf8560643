//! From the log's messages to events: everything that the stream's content decides, apart from the connection it comes by.

use std::time::Duration;

use highwater_postgres::pgoutput::{self, Begin, Commit, LogicalMessage, Message};
use highwater_postgres::replication::Timelines;
use highwater_postgres::{Connection, Lsn};

use super::error::Error;
use super::feeds::Feeds;
use super::publisher::Publisher;
use super::rows::SentRow;
use super::snapshot::Snapshot;
use super::tables::describe_published;
use super::through::Memory;
use super::transaction::Transaction;
use crate::events::history::{CONTEXT_PREFIX, context_json};
use crate::events::mapping::spec::Family;
use crate::position::Bound;

/// What the stream asks of whoever reads it.
pub(super) enum Step {
    /// Nothing: read on.
    On,
    /// A transaction begins; it may be published once it is visible.
    Begin(Begin),
}

/// The state between two messages of the log.
pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) snapshot: Snapshot,
    /// An ordinary connection to the primary: visibility, bounds, the catalogue.
    pub(super) primary: Connection,
    pub(super) feeds: Feeds,
    pub(super) through: Memory,
    pub(super) timelines: Timelines,
    pub(super) publication: String,
    pub(super) history: bool,
    pub(super) timeout: Duration,
    /// The transaction that is being sent; `None` between transactions, and in one that stands in the topics already.
    pub(super) transaction: Option<Transaction>,
    /// Whether the stream is between a Begin and its Commit.
    pub(super) inside: bool,
}

impl Work {
    /// Whether a transaction stands in the topics already, from before a restart.
    pub(super) fn is_published(&self, begin: &Begin) -> bool {
        let lsn = begin.final_lsn;
        self.publisher.progress.covers(self.timelines.timeline_of(lsn), lsn.0)
    }

    /// Handles one message of the log.
    pub(super) fn message(&mut self, payload: &[u8]) -> Result<Step, Error> {
        let message = pgoutput::decode(payload, false).map_err(|error| Error::Unexpected(error.to_string()))?;
        match message {
            Message::Begin(begin) => return Ok(Step::Begin(begin)),
            Message::Commit(commit) => self.commit(&commit)?,
            Message::Relation(relation) => {
                // Sent once for each table, and again when something of it has changed.
                let described = describe_published(&mut self.primary, &self.publication, self.timeout)?;
                self.feeds.describe(described);
                self.feeds.relation(&relation);
            }
            Message::Insert(insert) => self.row(insert.relation, SentRow::Insert(insert.new))?,
            Message::Update(update) => self.row(update.relation, SentRow::Update(update.old, update.new))?,
            Message::Delete(delete) => self.row(delete.relation, SentRow::Delete(delete.old))?,
            Message::Truncate(truncate) => {
                for relation in truncate.relations.iter() {
                    self.truncation(relation)?;
                }
            }
            Message::Logical(message) => self.context(&message),
            Message::Origin(_) | Message::Type(_) => {}
            Message::StreamStart(_) | Message::StreamStop | Message::StreamCommit(_) | Message::StreamAbort(_) => {
                return Err(Error::Unexpected(
                    "the server streams a transaction in progress, which was not asked for".into(),
                ));
            }
        }
        Ok(Step::On)
    }

    /// Begins a transaction: `publish` is false where it stands in the topics already.
    pub(super) fn begin(&mut self, begin: &Begin, publish: bool) -> Result<(), Error> {
        self.inside = true;
        if !publish {
            return Ok(());
        }
        self.reach(begin.final_lsn)?;
        let timeline = self.timelines.timeline_of(begin.final_lsn);
        self.transaction = Some(Transaction::begin(timeline, begin.final_lsn.0, begin.commit_time.0, begin.xid));
        Ok(())
    }

    fn commit(&mut self, commit: &Commit) -> Result<(), Error> {
        self.inside = false;
        if let Some(transaction) = self.transaction.take() {
            for draft in transaction.end() {
                self.publisher.send(draft, true)?;
            }
            self.reach(commit.end_lsn)?;
        }
        Ok(())
    }

    /// Everything below `lsn` has come: publishes what had to wait for that, then moves the bound.
    pub(super) fn reach(&mut self, lsn: Lsn) -> Result<(), Error> {
        if let Some(chunk) = self.snapshot.due(lsn.0, &self.publisher.progress.snapshot) {
            self.publish_chunk(&chunk)?;
        }
        let timeline = self.timelines.timeline_of(lsn);
        self.publisher.progress.reach(Bound::at_lsn(timeline, lsn.0));
        Ok(())
    }

    /// Tells, per topic, whether the snapshot of all its tables is published.
    pub(super) fn complete(&self) -> [bool; 3] {
        let ledger = &self.publisher.progress.snapshot;
        let done = |table: &str| ledger.tables.get(table).is_some_and(|table| table.complete);
        Family::ALL.map(|family| self.feeds.tables_of(family).all(done))
    }

    fn context(&mut self, message: &LogicalMessage<'_>) {
        if let (true, Some(transaction)) = (message.transactional, &mut self.transaction)
            && message.prefix == CONTEXT_PREFIX
        {
            transaction.context = context_json(message.content);
        }
    }
}
