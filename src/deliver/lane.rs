//! One partition on its way to the worker: what was read and is not applied yet.

use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use highwater_kafka::Record;
use metrics::counter;
use tracing::error;

use super::backoff::{Backoff, chance};
use super::counted::Counted;
use super::newer::NewerOnly;
use super::worker::{Item, Partition};
use crate::events::envelope::{Envelope, POSITION_HEADER};
use crate::position::{Bound, Position};

/// A partition without a record for so long is at rest.
const REST: Duration = Duration::from_secs(5);
/// A reader that brings nothing of what stands in a partition for so long is taken for one that never will.
pub(super) const STALL: Duration = Duration::from_secs(15);

pub(super) struct Lane {
    pub(super) partition: Partition,
    newer: NewerOnly,
    counted: Counted,
    /// Let through by the filter, not applied.
    pub(super) pending: Vec<Record>,
    /// Behind everything read.
    pub(super) next_offset: i64,
    /// Something is to be applied, if only `next_offset`.
    pub(super) dirty: bool,
    /// It was once read to its end and applied.
    pub(super) reached_end: bool,
    attempts: u32,
    /// When the next attempt is due, while the lane waits.
    pub(super) due: Option<Instant>,
    /// What the last mark was appended at, milliseconds since 1970.
    marked_ms: Option<i64>,
    /// When it was read last, or begun.
    pub(super) read_at: Instant,
    /// Since when more stands in it than was read, while its reader does not say that it is at the end.
    behind_since: Option<Instant>,
    /// The end up to which it is read once more, to learn that nothing behind `next_offset` is a record.
    tail: Option<i64>,
}

/// What became of a record that was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Taken {
    /// Kept for the worker, or dropped because it is not newer.
    Fine,
    /// It is no event; for the dead letters.
    NoEvent(Record, String),
}

/// What the filter must know of a record.
enum Head {
    Event { position: Position, id: Box<str>, live: bool },
    Mark { bound: Bound, count: u64 },
}

impl Lane {
    pub(super) fn new(partition: Partition) -> Self {
        Self {
            partition,
            newer: NewerOnly::default(),
            counted: Counted::default(),
            pending: Vec::new(),
            next_offset: 0,
            dirty: false,
            reached_end: false,
            attempts: 0,
            due: None,
            marked_ms: None,
            read_at: Instant::now(),
            behind_since: None,
            tail: None,
        }
    }

    /// Forgets everything read; reading goes on at `offset`.
    pub(super) fn restart(&mut self, offset: i64, newest: Option<Position>) {
        *self = Self {
            newer: NewerOnly::behind(newest),
            next_offset: offset,
            attempts: self.attempts,
            due: self.due,
            ..Self::new(self.partition.clone())
        };
    }

    /// Takes a record that was read: keeps it if it is newer, and counts.
    pub(super) fn take(&mut self, record: Record, worker: &'static str, compaction_lag: Duration) -> Taken {
        // Never back: after a change of leaders the end that a tail was read to may not have been the last word.
        self.next_offset = self.next_offset.max(record.offset + 1);
        self.read_at = Instant::now();
        self.tail = None;
        let head = match head(&record) {
            Ok(head) => head,
            Err(reason) => return Taken::NoEvent(record, reason),
        };
        let new = match head {
            Head::Event { position, id, live } => {
                let new = self.newer.event(position, &id);
                if new && live {
                    self.counted.event();
                }
                new
            }
            Head::Mark { bound, count } => {
                self.newer.mark(bound) && {
                    self.compare(bound, count, &record, worker, compaction_lag);
                    true
                }
            }
        };
        if new {
            self.pending.push(record);
            self.dirty = true;
        }
        Taken::Fine
    }

    fn compare(&mut self, bound: Bound, count: u64, record: &Record, worker: &'static str, compaction_lag: Duration) {
        let since = std::mem::replace(&mut self.marked_ms, record.timestamp_ms);
        let Some(gap) = self.counted.mark(bound, count, is_younger(since, compaction_lag)) else { return };
        let topic = self.partition.topic.to_string();
        error!(
            worker, topic, partition = self.partition.index, offset = record.offset,
            from = %gap.from, to = %gap.to, counted = %gap.counted, read = gap.read,
            "events are missing between two marks (or there are too many); replay this copy and compare it with the database"
        );
        counter!("highwater_delivery_gaps_total", "worker" => worker, "topic" => topic).increment(1);
    }

    /// Tells whether to read once more what stands between `next_offset` and `end`: where all is applied and no record
    /// has come for a while. `end` was asked before now.
    pub(super) fn begins_tail(&mut self, end: i64, now: Instant) -> bool {
        let at_rest = !self.dirty && self.tail.is_none() && now.saturating_duration_since(self.read_at) >= REST;
        let begins = at_rest && end > self.next_offset;
        if begins {
            self.tail = Some(end);
        }
        begins
    }

    /// Takes note that the end was reached: if nothing came of a tail, `next_offset` passes it, and is to be stored.
    pub(super) fn ends_tail(&mut self) {
        if let Some(end) = self.tail.take() {
            self.next_offset = end;
            self.dirty = true;
        }
    }

    /// Tells whether its reader has brought nothing for so long, though more stands in it, that it is to be replaced.
    /// `end` was asked before now; `at_end` is what the reader says.
    pub(super) fn is_stalled(&mut self, end: Option<i64>, at_end: bool, now: Instant) -> bool {
        let behind = !at_end && self.due.is_none() && end.is_some_and(|end| end > self.next_offset);
        if !behind {
            self.behind_since = None;
            return false;
        }
        let since = (*self.behind_since.get_or_insert(now)).max(self.read_at);
        now.saturating_duration_since(since) >= STALL
    }

    /// Reads what is pending as the worker sees it.
    pub(super) fn items(&self) -> Vec<Item<'_>> {
        let item = |record| match parse(record) {
            Ok(event) => Item { record, event },
            Err(_) => unreachable!("only records that parsed are pending"),
        };
        self.pending.iter().map(item).collect()
    }

    pub(super) fn applied(&mut self) {
        self.pending.clear();
        self.dirty = false;
        self.attempts = 0;
        self.due = None;
    }

    /// Takes the record at `offset` out of what is pending.
    pub(super) fn remove(&mut self, offset: i64) -> Option<Record> {
        let index = self.pending.iter().position(|record| record.offset == offset)?;
        Some(self.pending.remove(index))
    }

    /// Waits after a failure; returns how many there were and how long it waits.
    pub(super) fn wait(&mut self, backoff: &Backoff) -> (u32, Duration) {
        self.attempts = self.attempts.saturating_add(1);
        let delay = backoff.delay(self.attempts, chance());
        self.due = Some(Instant::now() + delay);
        (self.attempts, delay)
    }

    pub(super) fn is_ready(&self, now: Instant) -> bool {
        self.dirty && self.due.is_none_or(|due| due <= now)
    }
}

/// Tells whether a record is younger than the minimum compaction lag, so that nothing behind it was compacted.
fn is_younger(timestamp_ms: Option<i64>, lag: Duration) -> bool {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    let appended = timestamp_ms.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
    appended.is_some_and(|appended| now.saturating_sub(appended) < lag)
}

fn parse(record: &Record) -> Result<Option<Envelope<'_>>, String> {
    let Some(value) = &record.value else { return Ok(None) };
    Envelope::parse(value).map(Some).map_err(|error| format!("the record is no event: {error}"))
}

fn head(record: &Record) -> Result<Head, String> {
    let Some(event) = parse(record)? else {
        let text = record.header(POSITION_HEADER).and_then(|bytes| std::str::from_utf8(bytes).ok());
        let position = text.and_then(|text| text.parse().ok()).ok_or("the tombstone has no position")?;
        // Its delete has the same Position, and its own id; no event's id begins so.
        let id = format!("tombstone {}", String::from_utf8_lossy(&record.key)).into();
        return Ok(Head::Event { position, id, live: false });
    };
    if event.is_mark() {
        let count = event.count.as_deref().and_then(|count| count.parse().ok()).ok_or("the mark has no count")?;
        return Ok(Head::Mark { bound: Bound::at_lsn(event.position.timeline, event.position.lsn), count });
    }
    let live = event.family_and_verb().1 != "snapshot";
    Ok(Head::Event { position: event.position, id: event.id.as_ref().into(), live })
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    fn lane() -> Lane {
        let mut lane = Lane::new(Partition { topic: Arc::from("test.stock"), index: 0 });
        lane.restart(7, None);
        lane
    }

    fn record(offset: i64) -> Record {
        let value = br#"{"specversion":"1.0","id":"00000001-0000000000000009-00000000/stock","source":"s","type":"stock.updated",
            "time":"2026-11-21T10:00:00.000000Z","position":"00000001-0000000000000009-00000000"}"#;
        Record {
            topic: Arc::from("test.stock"),
            partition: 0,
            offset,
            timestamp_ms: None,
            key: Vec::new().into(),
            value: Some(value.to_vec().into()),
            headers: Vec::new(),
        }
    }

    #[test]
    fn the_offset_passes_a_tail_in_which_nothing_came_and_is_to_be_stored() {
        let mut lane = lane();
        let later = Instant::now() + REST;
        assert!(!lane.begins_tail(9, Instant::now()), "it is not at rest yet");
        assert!(!lane.begins_tail(7, later), "nothing stands behind it");
        assert!(lane.begins_tail(9, later));
        assert!(!lane.begins_tail(9, later), "it is being read");
        lane.ends_tail();
        assert_eq!((lane.next_offset, lane.dirty), (9, true));
        lane.applied();
        lane.ends_tail();
        assert_eq!((lane.next_offset, lane.dirty), (9, false));
    }

    #[test]
    fn a_reader_that_brings_nothing_of_what_is_there_is_stalled_and_one_that_waits_or_reads_is_not() {
        let mut lane = lane();
        let begun = Instant::now();
        assert!(!lane.is_stalled(Some(9), false, begun), "it has only just begun");
        assert!(!lane.is_stalled(None, false, begun + STALL), "nobody knows the end");
        assert!(!lane.is_stalled(Some(9), false, begun + STALL), "it was not known to be behind until now");
        assert!(!lane.is_stalled(Some(7), false, begun + STALL * 2), "nothing is there");
        assert!(!lane.is_stalled(Some(9), false, begun + STALL * 2));
        assert!(!lane.is_stalled(Some(9), true, begun + STALL * 3), "what is there is no record");
        assert!(!lane.is_stalled(Some(9), false, begun + STALL * 3));
        assert!(lane.is_stalled(Some(9), false, begun + STALL * 4));
        lane.due = Some(begun);
        assert!(!lane.is_stalled(Some(9), false, begun + STALL * 5), "its records are left on the broker");
        lane.due = None;
        assert!(!lane.is_stalled(Some(12), false, begun));
        assert_eq!(lane.take(record(8), "test", Duration::MAX), Taken::Fine);
        assert!(!lane.is_stalled(Some(12), false, begun + STALL), "it brought something");
        assert!(lane.is_stalled(Some(12), false, begun + STALL * 2));
    }

    #[test]
    fn a_record_in_the_tail_ends_it_and_no_offset_goes_back() {
        let mut lane = lane();
        assert!(lane.begins_tail(12, Instant::now() + REST));
        assert_eq!(lane.take(record(8), "test", Duration::MAX), Taken::Fine);
        lane.ends_tail();
        assert_eq!((lane.next_offset, lane.pending.len()), (9, 1));
        assert!(!lane.begins_tail(12, Instant::now() + REST), "it is not applied yet");
        lane.next_offset = 12;
        assert_eq!(lane.take(record(10), "test", Duration::MAX), Taken::Fine);
        assert_eq!(lane.next_offset, 12);
    }
}
