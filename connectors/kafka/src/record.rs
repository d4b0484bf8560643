//! What a reader is told and what it gives back, and what writers have in common.

use std::sync::Arc;
use std::time::Duration;

use bytes::Bytes;
use rdkafka::message::{BorrowedMessage, Header, Headers, Message, OwnedHeaders};

use crate::connection::Isolation;

/// How a reader fetches.
#[derive(Clone, Debug)]
pub struct ConsumerSettings {
    /// The name under which offsets are shown; no group protocol is spoken.
    pub group: String,
    /// What it sees of transactions.
    pub isolation: Isolation,
    /// How long a broker may hold a fetch that finds nothing; new records end the wait at once.
    pub fetch_wait: Duration,
    /// Limit of the records fetched ahead, per partition.
    pub ahead_records: usize,
    /// Limit of their bytes, per partition.
    pub ahead_bytes: usize,
    /// A batch ends at this many bytes of keys and values; one larger record still passes.
    pub batch_bytes: usize,
}

impl ConsumerSettings {
    /// Returns settings for low latency with bounded memory.
    pub fn new(group: impl Into<String>, isolation: Isolation) -> Self {
        Self {
            group: group.into(),
            isolation,
            fetch_wait: Duration::from_millis(500),
            ahead_records: 20_000,
            ahead_bytes: 16 * 1024 * 1024,
            batch_bytes: 8 * 1024 * 1024,
        }
    }
}

/// Where to start reading one partition.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Start {
    /// The topic.
    pub topic: String,
    /// The partition.
    pub partition: i32,
    /// The first offset wanted; need not hold a record.
    pub offset: i64,
}

/// The first offset a partition holds and the one after its last (after its last stable one under `ReadCommitted`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Watermarks {
    /// The first offset that is still there.
    pub low: i64,
    /// The next offset to be written, or the last stable one.
    pub high: i64,
}

/// One record, with its bytes as they stand on the broker.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Record {
    /// The topic, shared between its records.
    pub topic: Arc<str>,
    /// The partition.
    pub partition: i32,
    /// The offset.
    pub offset: i64,
    /// The append or creation time in milliseconds since 1970.
    pub timestamp_ms: Option<i64>,
    /// The key; empty where there is none.
    pub key: Bytes,
    /// The value; `None` is a tombstone.
    pub value: Option<Bytes>,
    /// The headers, in their order.
    pub headers: Vec<(String, Bytes)>,
}

impl Record {
    /// Returns the first header called `name`.
    #[must_use]
    pub fn header(&self, name: &str) -> Option<&[u8]> {
        self.headers.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_ref())
    }

    pub(crate) fn of(topic: &Arc<str>, message: &BorrowedMessage<'_>) -> Self {
        let headers = message.headers().map_or_else(Vec::new, |headers| {
            let value = |v: Option<&[u8]>| v.map_or_else(Bytes::new, Bytes::copy_from_slice);
            headers.iter().map(|header| (header.key.to_owned(), value(header.value))).collect()
        });
        Self {
            topic: Arc::clone(topic),
            partition: message.partition(),
            offset: message.offset(),
            timestamp_ms: message.timestamp().to_millis(),
            key: message.key().map_or_else(Bytes::new, Bytes::copy_from_slice),
            value: message.payload().map(Bytes::copy_from_slice),
            headers,
        }
    }

    /// Key and value.
    pub(crate) fn bytes(&self) -> usize {
        self.key.len() + self.value.as_ref().map_or(0, Bytes::len)
    }
}

/// Returns headers as the client takes them along.
pub(crate) fn owned(headers: &[(&str, &[u8])]) -> OwnedHeaders {
    headers.iter().fold(OwnedHeaders::new_with_capacity(headers.len()), |all, &(key, value)| {
        all.insert(Header { key, value: Some(value) })
    })
}
