//! From the log's messages to events: everything that the stream's content decides, apart from the connection it comes by.

use std::time::Duration;

use highwater_postgres::pgoutput::{self, Begin, LogicalMessage, Message, Relation, StreamCommit};
use highwater_postgres::{Connection, Lsn};
use metrics::histogram;
use tracing::warn;

use super::branch::Branch;
use super::error::Error;
use super::feeds::Feeds;
use super::progress::TableSnapshot;
use super::publisher::Publisher;
use super::request::SNAPSHOT_PREFIX;
use super::rows::SentRow;
use super::snapshot::Snapshot;
use super::spill::Spill;
use super::tables::{describe_published, describe_some, plain_name, shape};
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
    /// A streamed transaction has committed; it may be published once it is visible.
    Replay(StreamCommit),
    /// A table is announced, in this message, as of here in the log.
    Announce(Vec<u8>),
}

/// The state between two messages of the log.
pub(super) struct Work {
    pub(super) publisher: Publisher,
    pub(super) snapshot: Snapshot,
    /// An ordinary connection to the primary: visibility, bounds, the catalogue.
    pub(super) primary: Connection,
    pub(super) feeds: Feeds,
    pub(super) through: Memory,
    pub(super) branch: Branch,
    pub(super) publication: String,
    pub(super) history: bool,
    pub(super) timeout: Duration,
    /// The transaction that is being sent; `None` between transactions, and in one that stands in the topics already.
    pub(super) transaction: Option<Transaction>,
    /// Whether the stream is between a Begin and its Commit, or a streamed transaction is being replayed.
    pub(super) inside: bool,
    /// Transactions in progress; `None` where the server is not asked for them.
    pub(super) spill: Option<Spill>,
    /// The number of the ordinary transaction, or piece of a streamed one, that came last.
    pub(super) piece: u64,
}

impl Work {
    /// Whether a transaction stands in the topics already, from before a restart.
    pub(super) fn is_published(&mut self, begin: &Begin) -> Result<bool, Error> {
        let lsn = begin.final_lsn;
        let timeline = self.branch.timeline_of(lsn)?;
        Ok(self.publisher.progress.covers(timeline, lsn.0))
    }

    /// Handles one message of the log.
    pub(super) fn message(&mut self, payload: &[u8]) -> Result<Step, Error> {
        if self.in_piece() {
            return self.streamed(payload).map(|()| Step::On);
        }
        match decode(payload, false)? {
            Message::Begin(begin) => {
                self.piece += 1;
                return Ok(Step::Begin(begin));
            }
            Message::Commit(commit) => self.commit(commit.end_lsn)?,
            Message::StreamStart(start) => {
                self.piece += 1;
                let piece = self.piece;
                self.spill()?.start(start, piece)?;
            }
            Message::StreamAbort(abort) => self.spill()?.abort(abort)?,
            Message::StreamCommit(commit) => return Ok(Step::Replay(commit)),
            Message::Relation(_) => return Ok(Step::Announce(payload.to_vec())),
            message => self.apply(&message)?,
        }
        Ok(Step::On)
    }

    /// Whether the stream is inside of a piece of a transaction in progress.
    pub(super) fn in_piece(&self) -> bool {
        self.spill.as_ref().is_some_and(Spill::in_piece)
    }

    pub(super) fn spill(&mut self) -> Result<&mut Spill, Error> {
        let unasked = "the server streams a transaction in progress, which was not asked for";
        self.spill.as_mut().ok_or_else(|| Error::Unexpected(unasked.to_owned()))
    }

    /// Handles a message inside of a piece of a transaction in progress: keeps what its replay needs.
    fn streamed(&mut self, payload: &[u8]) -> Result<(), Error> {
        match payload.first() {
            Some(b'I' | b'U' | b'D' | b'T' | b'R') => self.spill()?.keep(payload),
            _ => match decode(payload, true)? {
                Message::Logical(message) if is_ours(&message) => self.spill()?.keep(payload),
                Message::Logical(_) | Message::Origin(_) | Message::Type(_) => Ok(()),
                Message::StreamStop => self.spill()?.stop(),
                message => Err(Error::Unexpected(format!("{message:?} inside of a transaction in progress"))),
            },
        }
    }

    /// Handles a message of a committed transaction.
    pub(super) fn apply(&mut self, message: &Message<'_>) -> Result<(), Error> {
        match *message {
            Message::Insert(insert) => self.row(self.known(insert.relation)?, SentRow::Insert(insert.new)),
            Message::Update(update) => self.row(self.known(update.relation)?, SentRow::Update(update.old, update.new)),
            Message::Delete(delete) => self.row(self.known(delete.relation)?, SentRow::Delete(delete.old)),
            Message::Truncate(truncate) => {
                truncate.relations.iter().try_for_each(|relation| self.truncation(self.known(relation)?))
            }
            Message::Logical(message) => self.told(&message),
            Message::Origin(_) | Message::Type(_) => Ok(()),
            message => Err(Error::Unexpected(format!("{message:?} where a change was expected"))),
        }
    }

    /// A change of a table that was not announced would be lost without a word.
    fn known(&self, relation: u32) -> Result<u32, Error> {
        if self.feeds.knows(relation) {
            return Ok(relation);
        }
        Err(Error::Unexpected(format!("a change of table {relation}, which the server did not announce")))
    }

    /// Asks the catalogue for the published tables.
    pub(super) fn describe(&mut self) -> Result<(), Error> {
        let described = describe_published(&mut self.primary, &self.publication, self.timeout)?;
        self.feeds.describe(described);
        Ok(())
    }

    /// Asks the catalogue for a table that the log announces, and for those that its mapping reads besides. Asking for all of them would
    /// take more than a second where a thousand are published, at the first change of each.
    pub(super) fn describe_announced(&mut self, relation: &Relation<'_>) -> Result<(), Error> {
        // By its name, too: one that was dropped and made anew has another OID, and the old one is not to be found by the name any more.
        let names = self.feeds.with_steps(&plain_name(relation.namespace, relation.name));
        let oid = Some(relation.oid);
        let described = describe_some(&mut self.primary, &self.publication, &names, oid, self.timeout)?;
        self.feeds.describe_some(&names, oid, described);
        Ok(())
    }

    /// Begins a transaction: `publish` is false where it stands in the topics already.
    pub(super) fn begin(&mut self, begin: &Begin, publish: bool) -> Result<(), Error> {
        self.inside = true;
        if !publish {
            return Ok(());
        }
        self.reach(begin.final_lsn)?;
        let timeline = self.branch.timeline_of(begin.final_lsn)?;
        let ahead = self.publisher.progress.ahead;
        self.transaction = Some(Transaction::begin(timeline, begin, ahead));
        Ok(())
    }

    /// Ends a transaction whose commit record ends at `end_lsn`.
    pub(super) fn commit(&mut self, end_lsn: Lsn) -> Result<(), Error> {
        self.inside = false;
        if let Some(transaction) = self.transaction.take() {
            histogram!("highwater_capture_source_transaction_changes").record(transaction.changes());
            for draft in transaction.end() {
                self.publisher.send(draft)?;
            }
            self.reach(end_lsn)?;
        }
        Ok(())
    }

    /// Everything below `lsn` has come: publishes what had to wait for that, then moves the bound.
    pub(super) fn reach(&mut self, lsn: Lsn) -> Result<(), Error> {
        self.publish_due(lsn)?;
        let timeline = self.branch.timeline_of(lsn)?;
        self.publisher.progress.reach(Bound::at_lsn(timeline, lsn.0));
        Ok(())
    }

    /// Tells, per topic, whether the snapshot of all its tables is published.
    pub(super) fn complete(&self) -> [bool; 3] {
        let ledger = &self.publisher.progress.snapshot;
        let done = |table: &str| ledger.tables.get(table).is_some_and(TableSnapshot::stands);
        Family::ALL.map(|family| self.feeds.tables_of(family).all(done))
    }

    /// Returns the transaction, by number and commit record, that is being published and announces a table of which the catalogue
    /// has other columns.
    pub(super) fn ahead_of_the_catalogue(&self, relation: &Relation<'_>) -> Option<(u32, Lsn)> {
        self.transaction.as_ref().filter(|_| self.feeds.differs(relation)).map(Transaction::number_and_commit)
    }

    /// Takes note of a table as of here in the log, which said so in the piece of this number.
    pub(super) fn announced(&mut self, relation: &Relation<'_>, piece: u64) {
        self.feeds.relation(relation, piece);
        let columns = relation.columns.into_iter().map(|column| (column.name, column.type_oid));
        let (shape, name) = (shape(columns), plain_name(relation.namespace, relation.name));
        let table = self.publisher.progress.snapshot.tables.get_mut(&name);
        // What stands in the topics already was announced before, and may be older than what is known.
        let Some(table) = table.filter(|_| self.transaction.is_some()) else { return };
        if table.shape.replace(shape).is_some_and(|known| known != shape) {
            warn!(
                table = name,
                mend = format!("highwater snapshot {name}"),
                "a table has other columns than before: if its rows were rewritten, as by ADD COLUMN with a default or by ALTER TYPE, the log \
                 does not have that, and the copies get it when the table is read again"
            );
        }
    }

    /// Handles what an application or an operator wrote into the log.
    fn told(&mut self, message: &LogicalMessage<'_>) -> Result<(), Error> {
        let Some(transaction) = self.transaction.as_mut().filter(|_| message.transactional) else { return Ok(()) };
        match message.prefix {
            CONTEXT_PREFIX => transaction.context = context_json(message.content),
            SNAPSHOT_PREFIX => {
                let since = transaction.bound();
                // As they are now, also where the log has not said so yet.
                self.describe()?;
                self.read_again(message.content, since);
            }
            _ => {}
        }
        Ok(())
    }
}

pub(super) fn decode(payload: &[u8], in_stream: bool) -> Result<Message<'_>, Error> {
    pgoutput::decode(payload, in_stream).map_err(|error| Error::Unexpected(error.to_string()))
}

/// Whether a message in the log is for us.
fn is_ours(message: &LogicalMessage<'_>) -> bool {
    message.transactional && [CONTEXT_PREFIX, SNAPSHOT_PREFIX].contains(&message.prefix)
}
