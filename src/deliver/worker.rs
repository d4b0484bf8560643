//! What a worker is, and what the loop and it say to each other.

use std::fmt;
use std::future::Future;
use std::sync::Arc;
use std::time::Duration;

use highwater_kafka::Record;

use crate::events::envelope::Envelope;
use crate::position::Position;

/// A copy that is kept up to date from topics.
pub trait Worker: Send {
    /// Names it in logs, metrics and dead letters.
    fn name(&self) -> &'static str;

    /// Says where to read a partition from. `end` is the offset at which it ends now.
    ///
    /// Asked for every partition at the start, and again after it answered [`Fault::Rewind`].
    fn resume(&mut self, partition: &Partition, end: i64) -> impl Future<Output = Result<Resume, Fault>> + Send;

    /// Applies batches of different partitions and returns one outcome for each, in their order.
    ///
    /// A batch can come again after any fault, and after a restart from wherever [`Self::resume`] says.
    fn apply(&mut self, batches: &[Batch<'_>]) -> impl Future<Output = Vec<Result<(), Fault>>> + Send;

    /// Says what an operator does with a copy for which compaction may have taken changes before they were applied; it is
    /// not fed then. `None` where the topic is not compacted, or the copy can do without. Asked after [`Self::resume`].
    fn after_compaction(&self, _partition: &Partition) -> Option<&'static str> {
        None
    }

    /// Told once, when every partition has been read to its end and applied.
    fn caught_up(&mut self) {}
}

/// One partition of one topic.
#[derive(Clone, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Partition {
    /// The topic's full name.
    pub topic: Arc<str>,
    /// The partition's number.
    pub index: i32,
}

impl fmt::Display for Partition {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.topic, self.index)
    }
}

/// Where a worker goes on.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Resume {
    /// Where to read from.
    pub whence: Whence,
    /// The newest event applied; what is older is not given to the worker. `None` where it does not know.
    pub newest: Option<Position>,
}

/// Where to read from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Whence {
    /// The first record that is still there.
    Beginning,
    /// The next offset to read.
    Offset(i64),
    /// The first record appended no longer ago than this.
    Back(Duration),
}

/// Records of one partition, in offset order.
#[derive(Debug)]
pub struct Batch<'a> {
    /// Which partition.
    pub partition: &'a Partition,
    /// Events that are newer than what came before, marks, and tombstones. Can be empty.
    pub items: &'a [Item<'a>],
    /// Where to resume once this batch is applied; covers records that are not in `items`.
    pub next_offset: i64,
}

/// One record.
#[derive(Debug)]
pub struct Item<'a> {
    /// Its bytes and place.
    pub record: &'a Record,
    /// What it says; `None` is a tombstone, which follows its delete event.
    pub event: Option<Envelope<'a>>,
}

/// Why a batch is not applied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Fault {
    /// It can work later: the partition waits, however long it takes, and its next attempt is announced.
    Transient(String),
    /// This record never will: it goes to the dead letters, and the batch comes again without it.
    Poison {
        /// The record's offset.
        offset: i64,
        /// What is wrong with it, without row data.
        reason: String,
    },
    /// The copy stands elsewhere than the worker thought, as after a restored backup: ask [`Worker::resume`].
    Rewind,
    /// Nothing helps but an operator.
    Fatal(String),
}
