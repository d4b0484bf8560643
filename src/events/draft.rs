//! An event's bytes while they are still in our hands, and the attributes that all events share.

use highwater_kafka::connection::MAX_RECORD_BYTES;
use highwater_kafka::murmur2;

use super::json::{TimeText, write_escaped, write_number, write_string};
use super::mapping::spec::Family;
use crate::position::Position;

/// Largest event, in bytes. Beside it a record has a key and headers, and its transaction's end adds a little.
pub const LARGEST_EVENT: usize = MAX_RECORD_BYTES - 64 * 1024;
/// Values with more bytes of text are left out of an event that would be too large: the longest first, and no more than need be.
const LEFT_OUT: [usize; 3] = [1024 * 1024, 64 * 1024, 4 * 1024];

/// A kind of topic that events go to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Topic {
    /// The newest typed state of every entity.
    State(Family),
    /// Every change of every captured table, in commit order.
    History,
}

impl Topic {
    /// Every one.
    pub const ALL: [Self; 4] =
        [Self::State(Family::Stock), Self::State(Family::Price), Self::State(Family::Content), Self::History];

    /// Returns the end of its name, behind the source's prefix.
    #[must_use]
    pub fn suffix(self) -> &'static str {
        match self {
            Self::State(family) => family.topic_suffix(),
            Self::History => "history",
        }
    }
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
    /// The commit's time.
    pub time: TimeText,
    /// The transaction's id; `None` for snapshot rows.
    pub xid: Option<u32>,
    /// Whether the primary may not show it yet, or anything before it.
    pub ahead: bool,
}

impl Stamp<'_> {
    /// Returns the Position of the transaction's change with this ordinal.
    #[must_use]
    pub fn position(&self, seq: u32) -> Position {
        Position { timeline: self.timeline, lsn: self.lsn, seq }
    }
}

/// What chooses the partition of a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum PartitionBy {
    /// The murmur2 hash of the part's id, or of the entity where there is no part.
    Hash(u32),
    /// The event goes to every partition; this copy to this one.
    Exactly(u32),
}

impl PartitionBy {
    /// Chooses by a key, as Kafka's own partitioner does.
    #[must_use]
    pub fn key(key: &[u8]) -> Self {
        Self::Hash(murmur2(key))
    }
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
    /// Whether it is a change of the log, which marks count, and no row that a snapshot read.
    pub live: bool,
    /// Whether values were left out, since it would have been too large with them.
    pub shortened: bool,
    /// Where `"last":true,` belongs in `value`.
    last_at: usize,
}

impl Draft {
    /// Writes an event; without its longest values where it would be too large with them. `write` is given the length above which
    /// values are left out, if any are.
    #[must_use]
    pub fn within_limit(mut write: impl FnMut(Option<usize>) -> Self) -> Self {
        let mut draft = write(None);
        for longest in LEFT_OUT {
            if draft.value.len() <= LARGEST_EVENT {
                break;
            }
            draft = write(Some(longest));
            // One that is too large even so will not be sent.
            draft.shortened = draft.value.len() <= LARGEST_EVENT;
        }
        draft
    }

    /// Whether it tells readers to look at the row themselves. A deletion lacks nothing that anybody needs.
    #[must_use]
    pub fn lacks_values(&self) -> bool {
        self.shortened && !self.deletes
    }

    /// Begins an event: everything up to `entity`, from which on the event's own attributes follow.
    ///
    /// `id_tail` is what follows the position in the id, `/stock` for example.
    #[must_use]
    pub fn begin(
        drafts: &mut Drafts,
        topic: Topic,
        stamp: &Stamp<'_>,
        position: Position,
        kind: &[&str],
        heading: Heading<'_>,
    ) -> Self {
        let mut draft = drafts.take(topic, position);
        let out = &mut draft.value;
        let position = position.text();
        out.extend_from_slice(b"{\"specversion\":\"1.0\",\"id\":\"");
        out.extend_from_slice(&position);
        for tail in heading.id_tail {
            out.push(b'/');
            write_escaped(out, tail);
        }
        out.extend_from_slice(b"\",\"source\":");
        write_string(out, stamp.source.as_bytes());
        out.extend_from_slice(b",\"type\":\"");
        for piece in kind {
            out.extend_from_slice(piece.as_bytes());
        }
        out.extend_from_slice(b"\",\"subject\":\"");
        for piece in heading.subject {
            write_escaped(out, piece);
        }
        out.extend_from_slice(b"\",\"time\":\"");
        out.extend_from_slice(&stamp.time);
        out.extend_from_slice(b"\",\"position\":\"");
        out.extend_from_slice(&position);
        out.push(b'"');
        if let Some(xid) = stamp.xid {
            out.extend_from_slice(b",\"xid\":\"");
            write_number(out, xid);
            out.push(b'"');
        }
        out.extend_from_slice(b",\"entity\":");
        write_string(out, heading.entity);
        if stamp.ahead {
            out.extend_from_slice(b",\"ahead\":true");
        }
        draft.last_at = out.len();
        draft.live = stamp.xid.is_some();
        draft.key.extend_from_slice(heading.entity);
        draft
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
    /// What the event is about, in pieces.
    pub subject: &'a [&'a [u8]],
    /// The record's key.
    pub entity: &'a [u8],
}

/// Drafts that were sent, to be written again: once the stream runs, no event allocates.
#[derive(Debug, Default)]
pub struct Drafts {
    spare: Vec<Draft>,
}

impl Drafts {
    /// As many as are gathered at once, and more.
    const MOST: usize = 4096;
    /// A larger one is not kept, so that one huge row does not hold its memory for good.
    const LARGEST: usize = 8 * 1024;

    /// Takes back a draft that was sent.
    pub fn recycle(&mut self, draft: Draft) {
        if self.spare.len() < Self::MOST && draft.value.capacity() <= Self::LARGEST {
            self.spare.push(draft);
        }
    }

    fn take(&mut self, topic: Topic, position: Position) -> Draft {
        let (mut key, mut value) = match self.spare.pop() {
            Some(draft) => (draft.key, draft.value),
            None => (Vec::new(), Vec::with_capacity(1024)),
        };
        key.clear();
        value.clear();
        Draft {
            topic,
            position,
            key,
            value,
            partition_by: PartitionBy::Exactly(0),
            deletes: false,
            live: false,
            shortened: false,
            last_at: 0,
        }
    }
}
