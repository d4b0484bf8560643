//! `highwater status`: how a pipeline stands, asked once of every server.
//!
//! A server that does not answer leaves its part empty and its reason in `errors`; the rest is shown.

mod ask;
mod show;

use serde::Serialize;

pub use ask::status;

/// How a pipeline stands.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Status {
    /// The replication slot; `None` where the source did not answer.
    pub slot: Option<Slot>,
    /// What capture has published; `None` where there is no progress yet.
    pub published: Option<Published>,
    /// Every topic that exists.
    pub topics: Vec<Topic>,
    /// How far each worker is that keeps its progress beside its data.
    pub workers: Vec<Worker>,
    /// What did not answer, and why.
    pub errors: Vec<String>,
}

/// The replication slot, as its server tells it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Slot {
    /// Its name.
    pub name: String,
    /// `missing`, `free`, or `held` by a capture.
    pub state: &'static str,
    /// Up to where capture has acknowledged the log: PostgreSQL's text of an LSN.
    pub confirmed: Option<String>,
    /// Bytes of WAL between that and the primary's newest.
    pub behind_bytes: Option<i64>,
    /// Bytes of WAL that are kept for the slot.
    pub retained_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost` (PostgreSQL manual, `pg_replication_slots`).
    pub wal: Option<String>,
}

/// The newest committed progress record of capture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Published {
    /// Everything below this bound stands in the topics.
    pub bound: String,
    /// Tables whose snapshot is complete.
    pub tables_complete: usize,
    /// Tables whose snapshot has begun.
    pub tables: usize,
    /// Rows that snapshots have published.
    pub snapshot_rows: u64,
}

/// A topic.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Topic {
    /// Its name.
    pub name: String,
    /// Its partitions.
    pub partitions: i32,
    /// Offsets from the first that is kept to the end, over all partitions: records, marks, tombstones and Kafka's own.
    pub offsets: i64,
}

/// A worker's progress over all partitions that it reads.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Worker {
    /// The role.
    pub name: &'static str,
    /// Partitions of which it has progress.
    pub partitions: usize,
    /// Partitions that it reads.
    pub partitions_read: usize,
    /// Offsets between its progress and the ends of the topics.
    pub behind_offsets: i64,
    /// The least bound over its partitions: its copy contains every change below. `None` while one has none.
    pub bound: Option<String>,
}
