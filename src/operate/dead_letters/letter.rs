//! A record of the dead letters, read. Plain functions over values.

use std::fmt;

use highwater_kafka::Record;
use serde::{Deserialize, Serialize};

use crate::deliver::dead_letter::{KEY, OFFSET, OWN_HEADERS, PARTITION, REASON, TOPIC, WORKER};
use crate::events::envelope::{Envelope, POSITION_HEADER};
use crate::events::json::commit_time;

/// Header of a note behind a letter: the letter's offset. Letters with the note's key up to there are settled.
pub(super) const SETTLES: &str = "settles";

/// What could not be applied.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Letter {
    /// Where it stands in the dead letters; names it for a retry.
    pub offset: i64,
    /// Who could not apply it.
    pub worker: String,
    /// The change's Position, where it tells one.
    pub position: Option<String>,
    /// What it is of.
    #[serde(flatten)]
    pub origin: Origin,
    /// Why not.
    pub reason: String,
    /// When it was written, milliseconds since 1970.
    pub time_ms: Option<i64>,
    /// Bytes of the payload.
    pub bytes: usize,
    /// Whether a retry has worked.
    pub settled: bool,
    /// The original bytes as text, where they are asked for: row data.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub payload: Option<String>,
    #[serde(skip)]
    pub(super) key: Vec<u8>,
}

/// What a letter is of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Origin {
    /// A record of a topic, whose bytes are the payload.
    Record {
        /// Full name.
        topic: String,
        /// Its partition.
        partition: i32,
        /// Its offset.
        offset: i64,
    },
    /// A row that capture could not publish, or not whole: `<table>/<key>`.
    Row(String),
    /// A change of a row, `<table>/<key>`, that the history does not hold whole.
    History(String),
    /// The letter does not tell.
    Unknown,
}

/// What stands in the topic.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Entry {
    Letter(Letter),
    /// Letters with this key up to this offset are settled.
    Note {
        key: Vec<u8>,
        up_to: i64,
    },
}

/// What capture says of a row.
#[derive(Deserialize)]
struct Reference {
    #[serde(flatten)]
    of: Of,
    position: String,
}

#[derive(Deserialize)]
#[serde(rename_all = "snake_case")]
enum Of {
    Row(String),
    History(String),
}

/// Reads a record of the dead letters.
pub(super) fn read(record: &Record) -> Entry {
    let text = |name| record.header(name).map(|value| String::from_utf8_lossy(value).into_owned());
    if let Some(up_to) = text(SETTLES).and_then(|offset| offset.parse().ok()) {
        return Entry::Note { key: record.key.to_vec(), up_to };
    }
    let bytes = record.value.as_deref().unwrap_or_default();
    let (origin, position) = match (text(TOPIC), text(PARTITION), text(OFFSET)) {
        (Some(topic), Some(partition), Some(offset)) => {
            let event = Envelope::parse(bytes).ok().map(|event| event.position.to_string());
            let origin = match (partition.parse(), offset.parse()) {
                (Ok(partition), Ok(offset)) => Origin::Record { topic, partition, offset },
                _ => Origin::Unknown,
            };
            (origin, event.or_else(|| text(POSITION_HEADER)))
        }
        _ => match serde_json::from_slice::<Reference>(bytes) {
            Ok(Reference { of: Of::Row(row), position }) => (Origin::Row(row), Some(position)),
            Ok(Reference { of: Of::History(row), position }) => (Origin::History(row), Some(position)),
            Err(_) => (Origin::Unknown, None),
        },
    };
    Entry::Letter(Letter {
        offset: record.offset,
        worker: text(WORKER).unwrap_or_else(|| "unknown".to_owned()),
        position,
        origin,
        reason: text(REASON).unwrap_or_default(),
        time_ms: record.timestamp_ms,
        bytes: bytes.len(),
        settled: false,
        payload: Some(String::from_utf8_lossy(bytes).into_owned()),
        key: record.key.to_vec(),
    })
}

/// Returns the record as the worker was given it; `None` where the letter is of none.
pub(super) fn original(letter: &Letter, record: &Record) -> Option<Record> {
    let Origin::Record { topic, partition, offset } = &letter.origin else { return None };
    let key = record.headers.iter().find(|(name, _)| name == KEY).map(|(_, key)| key.clone());
    Some(Record {
        topic: topic.as_str().into(),
        partition: *partition,
        offset: *offset,
        timestamp_ms: None,
        key: key.unwrap_or_default(),
        value: record.value.clone(),
        headers: record.headers.iter().skip(OWN_HEADERS).cloned().collect(),
    })
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Record { topic, partition, offset } => write!(f, "{topic}/{partition} at {offset}"),
            Self::Row(row) => write!(f, "row {row}"),
            Self::History(row) => write!(f, "history of row {row}"),
            Self::Unknown => f.write_str("of nothing that is known"),
        }
    }
}

/// One line, and the payload under it.
impl fmt::Display for Letter {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = self.time_ms.map_or_else(|| "-".to_owned(), utc);
        let settled = if self.settled { ", settled" } else { "" };
        let position = self.position.as_deref().unwrap_or("no position");
        let Self { offset, worker, origin, bytes, reason, .. } = self;
        write!(f, "{offset}  {time}  {worker}  {position}  {origin}  {bytes} bytes{settled}: {reason}")?;
        match &self.payload {
            Some(payload) => write!(f, "\n    {payload}"),
            None => Ok(()),
        }
    }
}

/// Writes a time of Kafka, milliseconds since 1970, as RFC 3339.
fn utc(time_ms: i64) -> String {
    const MICROS_TO_2000: i64 = 946_684_800_000_000;
    let text = commit_time(time_ms.saturating_mul(1_000).saturating_sub(MICROS_TO_2000));
    String::from_utf8_lossy(&text).into_owned()
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use bytes::Bytes;

    use super::*;

    fn record(headers: &[(&str, &str)], value: Option<&str>) -> Record {
        Record {
            topic: Arc::from("catalog.dead-letters"),
            partition: 0,
            offset: 5,
            timestamp_ms: Some(1_795_255_200_123),
            key: Bytes::from_static(b"cache/catalog.stock/1/7"),
            value: value.map(|value| Bytes::copy_from_slice(value.as_bytes())),
            headers: headers
                .iter()
                .map(|(name, value)| ((*name).to_owned(), Bytes::copy_from_slice(value.as_bytes())))
                .collect(),
        }
    }

    const OWN: [(&str, &str); 6] = [
        ("reason", "no object"),
        ("worker", "cache"),
        ("topic", "catalog.stock"),
        ("partition", "1"),
        ("offset", "7"),
        ("key", "42"),
    ];

    fn letter(record: &Record) -> Letter {
        match read(record) {
            Entry::Letter(letter) => letter,
            Entry::Note { .. } => panic!("a letter"),
        }
    }

    #[test]
    fn a_workers_letter_gives_back_the_record_with_its_own_headers_key_and_bytes() {
        let mut headers = OWN.to_vec();
        // A record's own header of the same name as one of ours is not ours.
        headers.extend([("content-type", "json"), ("reason", "its own")]);
        let record = record(&headers, Some("{}"));
        let letter = letter(&record);
        assert_eq!((letter.worker.as_str(), letter.reason.as_str()), ("cache", "no object"));
        let original = original(&letter, &record).unwrap();
        assert_eq!((&*original.topic, original.partition, original.offset), ("catalog.stock", 1, 7));
        assert_eq!((original.key.as_ref(), original.value.as_deref()), (&b"42"[..], Some(&b"{}"[..])));
        let names: Vec<&str> = original.headers.iter().map(|(name, _)| name.as_str()).collect();
        assert_eq!(names, ["content-type", "reason"]);
    }

    #[test]
    fn a_tombstone_in_a_letter_stays_one_and_tells_its_position() {
        let position = "00000001-0000000000000009-00000000";
        let mut headers = OWN.to_vec();
        headers.push(("position", position));
        let record = record(&headers, None);
        let letter = letter(&record);
        assert_eq!(letter.position.as_deref(), Some(position));
        assert_eq!(original(&letter, &record).unwrap().value, None);
    }

    #[test]
    fn captures_letter_names_its_row_and_is_no_record() {
        let json =
            r#"{"worker":"capture","position":"00000001-0000000000000009-00000000","row":"parts/7","reason":"x"}"#;
        let record = record(&[("worker", "capture"), ("reason", "x")], Some(json));
        let letter = letter(&record);
        assert_eq!(letter.origin, Origin::Row("parts/7".to_owned()));
        assert_eq!(original(&letter, &record), None);
        let of_history = json.replace("row", "history");
        let record = self::record(&[("worker", "capture"), ("reason", "x")], Some(&of_history));
        assert_eq!(self::letter(&record).origin, Origin::History("parts/7".to_owned()));
    }

    #[test]
    fn a_letter_in_text_and_json_shows_no_payload_unless_it_is_asked_for() {
        let mut letter = letter(&record(&OWN, Some("{\"secret\":1}")));
        assert!(letter.to_string().contains("secret"));
        letter.payload = None;
        let line = "5  2026-11-21T10:00:00.123000Z  cache  no position  catalog.stock/1 at 7  12 bytes: no object";
        assert_eq!(letter.to_string(), line);
        let json = serde_json::to_string(&letter).unwrap();
        assert!(
            !json.contains("secret") && json.contains(r#""record":{"topic":"catalog.stock","partition":1,"offset":7}"#),
            "{json}"
        );
    }

    #[test]
    fn a_note_names_what_it_settles() {
        let note = read(&record(&[(SETTLES, "3")], None));
        assert_eq!(note, Entry::Note { key: b"cache/catalog.stock/1/7".to_vec(), up_to: 3 });
    }
}
