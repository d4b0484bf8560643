//! An event's bytes while they are still in our hands, and the attributes that all events share.

use super::json::{write_commit_time, write_number, write_string};
use super::mapping::spec::Family;
use crate::position::Position;

/// A kind of topic that events go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// The newest typed state of every entity.
    State(Family),
    /// Every change of every captured table, in commit order.
    History,
}

/// What all events of one transaction, or of one snapshot chunk, share.
#[derive(Debug, Clone, Copy)]
pub struct Stamp<'a> {
    /// CloudEvents `source`: `/highwater/<source name>`.
    pub source: &'a str,
    /// The timeline that owns `lsn`.
    pub timeline: u32,
    /// Where the commit record starts.
    pub lsn: u64,
    /// The commit's time, microseconds since 2000-01-01 UTC.
    pub time_us: i64,
    /// The transaction's id; `None` for snapshot rows.
    pub xid: Option<u32>,
}

impl Stamp<'_> {
    /// Returns the Position of the transaction's change with this ordinal.
    #[must_use]
    pub fn position(&self, seq: u32) -> Position {
        Position { timeline: self.timeline, lsn: self.lsn, seq }
    }
}

/// What chooses the partition of a record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum PartitionBy {
    /// The hash of the part's id, or of the entity where there is no part.
    Key(Vec<u8>),
    /// The event goes to every partition; this copy to this one.
    Exactly(u32),
}

/// An event that is written but for what only its transaction's end tells.
#[derive(Debug, Clone)]
pub struct Draft {
    /// Where it goes.
    pub topic: Topic,
    /// Its point.
    pub position: Position,
    /// The record's key: the entity.
    pub key: Vec<u8>,
    /// The record's value: one CloudEvent.
    pub value: Vec<u8>,
    /// What chooses the partition.
    pub partition_by: PartitionBy,
    /// Whether a tombstone follows.
    pub deletes: bool,
    /// Where `"last":true,` belongs in `value`.
    last_at: usize,
}

impl Draft {
    /// Begins an event: everything up to `entity`, from which on the event's own attributes follow.
    ///
    /// `id_tail` is what follows the position in the id, `/stock` for example.
    #[must_use]
    pub fn begin(topic: Topic, stamp: &Stamp<'_>, position: Position, kind: &str, heading: Heading<'_>) -> Self {
        let mut out = Vec::with_capacity(640);
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":");
        let mut id = Vec::with_capacity(64);
        id.extend_from_slice(&position.text());
        for tail in heading.id_tail {
            id.push(b'/');
            id.extend_from_slice(tail);
        }
        write_string(&mut out, &id);
        out.extend_from_slice(b",\"source\":");
        write_string(&mut out, stamp.source.as_bytes());
        out.extend_from_slice(b",\"type\":\"");
        out.extend_from_slice(kind.as_bytes());
        out.extend_from_slice(b"\",\"subject\":");
        write_string(&mut out, heading.subject);
        out.extend_from_slice(b",\"time\":\"");
        write_commit_time(&mut out, stamp.time_us);
        out.extend_from_slice(b"\",\"position\":\"");
        out.extend_from_slice(&position.text());
        out.push(b'"');
        if let Some(xid) = stamp.xid {
            out.extend_from_slice(b",\"xid\":\"");
            write_number(&mut out, xid);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"entity\":");
        write_string(&mut out, heading.entity);
        let last_at = out.len();
        let key = heading.entity.to_vec();
        Self { topic, position, key, value: out, partition_by: PartitionBy::Exactly(0), deletes: false, last_at }
    }

    /// Appends an attribute whose value is a string, unless that is empty.
    pub fn attribute(&mut self, name: &str, value: &[u8]) {
        if value.is_empty() {
            return;
        }
        self.value.extend_from_slice(b",\"");
        self.value.extend_from_slice(name.as_bytes());
        self.value.extend_from_slice(b"\":");
        write_string(&mut self.value, value);
    }

    /// Appends `data` and the end of the event; `write` appends one JSON object.
    pub fn finish(&mut self, write: impl FnOnce(&mut Vec<u8>)) {
        self.value.extend_from_slice(b",\"data\":");
        write(&mut self.value);
        self.value.push(b'}');
    }

    /// Says that this is its transaction's last event in its topic. `total`, the transaction's changes, stands in the
    /// data of history alone.
    pub fn mark_last(&mut self, total: u32) {
        if self.topic == Topic::History {
            self.value.truncate(self.value.len() - 2);
            self.value.extend_from_slice(b",\"total\":");
            write_number(&mut self.value, total);
            self.value.extend_from_slice(b"}}");
        }
        self.value.splice(self.last_at..self.last_at, *b",\"last\":true");
    }
}

/// The parts of an event's beginning that differ from event to event.
#[derive(Debug, Clone, Copy)]
pub struct Heading<'a> {
    /// What follows the position in the id.
    pub id_tail: &'a [&'a [u8]],
    /// What the event is about.
    pub subject: &'a [u8],
    /// The record's key.
    pub entity: &'a [u8],
}
