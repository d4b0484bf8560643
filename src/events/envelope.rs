//! The reading side of an event: the attributes that workers act on, borrowed from the record's bytes.

use std::borrow::Cow;

use serde::Deserialize;
use serde_json::value::RawValue;

use crate::position::Position;

/// Header of every tombstone: the Position of the delete that it follows; of [`ENLIST_KEY`], one below every other.
pub const POSITION_HEADER: &str = "position";
/// Header of every event.
pub const CONTENT_TYPE_HEADER: &str = "content-type";
/// Value of [`CONTENT_TYPE_HEADER`]: CloudEvents 1.0, JSON format, structured mode.
pub const CONTENT_TYPE: &str = "application/cloudevents+json; charset=UTF-8";
/// Record key of a truncation, before the table's name.
pub const TRUNCATE_KEY_PREFIX: &str = "truncate/";
/// Record key of marks.
pub const MARK_KEY: &str = "mark";
/// Record key of the tombstone with which a Kafka transaction enlists a partition before events need it. It deletes nothing.
pub const ENLIST_KEY: &str = "enlist";

/// A CloudEvent as read from a topic. Attributes that an event type does not have are `None` or empty.
#[derive(Debug, Deserialize)]
pub struct Envelope<'a> {
    /// Unique within the source.
    #[serde(borrow)]
    pub id: Cow<'a, str>,
    /// `/highwater/<source name>`.
    #[serde(borrow)]
    pub source: Cow<'a, str>,
    /// `stock.updated`, `history.insert`, `catalog.truncated`, `mark`, …
    #[serde(borrow, rename = "type")]
    pub kind: Cow<'a, str>,
    /// `part/<part id>`; the entity where the event is of no part; `<table>/<key>` for history, the table for truncations.
    #[serde(borrow, default)]
    pub subject: Option<Cow<'a, str>>,
    /// Commit time, RFC 3339 with six digits and Z.
    #[serde(borrow)]
    pub time: Cow<'a, str>,
    /// The change's point; for marks the text of an exclusive bound.
    pub position: Position,
    /// Transaction id, 32 bits, as decimal text; absent for snapshot rows and marks.
    #[serde(borrow, default)]
    pub xid: Option<Cow<'a, str>>,
    /// Key of the record.
    #[serde(borrow, default)]
    pub entity: Option<Cow<'a, str>>,
    /// Whether this is the last event of its transaction in its topic.
    #[serde(default)]
    pub last: bool,
    /// Comma-separated fields whose text differs from the old row's; `None` when not known.
    #[serde(borrow, default)]
    pub changed: Option<Cow<'a, str>>,
    /// Comma-separated groups whose lists and pages the change moves.
    #[serde(borrow, default)]
    pub groups: Option<Cow<'a, str>>,
    /// Comma-separated fields whose unchanged TOASTed value PostgreSQL did not send.
    #[serde(borrow, default)]
    pub unavailable: Option<Cow<'a, str>>,
    /// Live events of the partition so far; marks only.
    #[serde(borrow, default)]
    pub count: Option<Cow<'a, str>>,
    /// Whether the snapshot of the topic's tables stands before this mark; marks only.
    #[serde(default)]
    pub complete: bool,
    /// Whether the primary may not show yet what stands here or before: capture does not wait for that.
    #[serde(default)]
    pub ahead: bool,
    /// The row in the event's own terms, byte for byte as published.
    #[serde(borrow, default)]
    pub data: Option<&'a RawValue>,
}

impl<'a> Envelope<'a> {
    /// Reads an event.
    ///
    /// # Errors
    /// What serde says of bytes that are not such an event.
    pub fn parse(bytes: &'a [u8]) -> Result<Self, serde_json::Error> {
        serde_json::from_slice(bytes)
    }

    /// Whether this record is a mark, which carries a bound and no change.
    #[must_use]
    pub fn is_mark(&self) -> bool {
        self.kind == "mark"
    }

    /// Returns the event family and the verb: `stock.updated` gives (`stock`, `updated`).
    #[must_use]
    pub fn family_and_verb(&self) -> (&str, &str) {
        self.kind.split_once('.').unwrap_or((&self.kind, ""))
    }

    /// Returns what fed the event, as its id names it: `stock`, `price`, or the kind of content (`part`, `image`, …).
    #[must_use]
    pub fn entry(&self) -> &str {
        self.id.split('/').nth(1).unwrap_or("")
    }

    /// Returns the emptied table if this is a truncation: a reader drops what that table fed so far.
    #[must_use]
    pub fn truncated_table(&self) -> Option<&str> {
        if self.kind != "catalog.truncated" {
            return None;
        }
        self.entity.as_deref()?.strip_prefix(TRUNCATE_KEY_PREFIX)
    }

    /// Returns the groups that the change moves.
    pub fn groups(&self) -> impl Iterator<Item = &str> {
        split(self.groups.as_deref())
    }

    /// Returns the fields that differ, or `None` when that is not known.
    #[must_use]
    pub fn changed(&self) -> Option<impl Iterator<Item = &str>> {
        self.changed.as_deref().map(|list| split(Some(list)))
    }

    /// Returns the fields whose value PostgreSQL did not send.
    pub fn unavailable(&self) -> impl Iterator<Item = &str> {
        split(self.unavailable.as_deref())
    }
}

fn split(list: Option<&str>) -> impl Iterator<Item = &str> {
    list.unwrap_or("").split(',').filter(|item| !item.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_event_reads_back_what_stands_in_it_and_keeps_data_byte_for_byte() {
        let bytes =
            br#"{"specversion":"1.0","id":"00000001-00000000000000AB-00000002/stock","source":"/highwater/shop",
            "type":"stock.updated","subject":"part/42","time":"2026-11-21T10:00:00.123456Z",
            "position":"00000001-00000000000000AB-00000002","xid":"7301","entity":"42","last":true,
            "changed":"current_stock,version","groups":"family:7","data":{"price": 1.50}}"#;
        let event = Envelope::parse(bytes).unwrap();
        assert_eq!(event.family_and_verb(), ("stock", "updated"));
        assert_eq!(event.position, Position { timeline: 1, lsn: 0xAB, seq: 2 });
        assert_eq!(event.changed().unwrap().collect::<Vec<_>>(), ["current_stock", "version"]);
        assert_eq!(event.data.unwrap().get(), r#"{"price": 1.50}"#);
        assert_eq!(event.entry(), "stock");
        assert!(event.last && !event.is_mark() && event.count.is_none());
    }

    #[test]
    fn a_mark_has_no_data() {
        let bytes = br#"{"specversion":"1.0","id":"x","source":"s","type":"mark","time":"2026-11-21T10:00:00.123456Z",
            "position":"00000001-00000000000000AB-00000000","count":"12","complete":true}"#;
        let mark = Envelope::parse(bytes).unwrap();
        assert!(mark.is_mark() && mark.complete && mark.data.is_none());
        assert_eq!(mark.count.as_deref(), Some("12"));
    }
}
