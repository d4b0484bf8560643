//! The state topics: their order, and whether the newest event of every entity is the database's row.

use std::collections::{HashMap, HashSet};

use serde_json::Value;

use super::report::Section;
use super::tables::{self, Rows};
use super::topics::{Body, Event, Record};

/// A partition and an entity in it.
pub(super) type Home = (i32, String);

/// What one state topic comes to.
#[derive(Default)]
pub(super) struct State {
    /// The newest live event of each entity in each partition: an entity that moves to another part is deleted in one
    /// partition and created in another.
    pub(super) newest: HashMap<Home, Box<Event>>,
    /// The newest event or delete of each entity in each partition.
    pub(super) touched: HashMap<Home, Touch>,
    /// The Positions of all events that the log made, without those of the snapshot.
    pub(super) positions: HashSet<String>,
}

/// Where an entity was touched last.
pub(super) struct Touch {
    pub(super) position: String,
    /// The part that the event names as its subject.
    pub(super) part: Option<String>,
}

/// What was seen of one partition so far.
#[derive(Default)]
struct Partition {
    newest: String,
    mark: String,
    /// Events of the log so far, without those of the snapshot.
    live: u64,
    /// A delete whose tombstone must come next: key and Position.
    owed: Option<(String, String)>,
}

/// Goes through the records of one topic in order. In one that was `compacted`, deletes, their tombstones and what marks counted
/// may have gone.
pub(super) fn follow(topic: &str, records: Vec<Record>, compacted: bool, section: &mut Section) -> State {
    let mut state = State::default();
    let mut partitions: HashMap<i32, Partition> = HashMap::new();
    let mut ids = HashSet::new();
    for record in records {
        section.compared();
        let at = format!("{topic}/{} at {} ({})", record.partition, record.offset, record.key);
        if record.key == "enlist" {
            follow_enlisting(&record, &at, section);
            continue;
        }
        let partition = partitions.entry(record.partition).or_default();
        if !compacted {
            pay_tombstone(partition, &record, &at, section);
        }
        let event = match record.body {
            Body::Event(event) => event,
            Body::Tombstone(_) => {
                state.newest.remove(&(record.partition, record.key));
                continue;
            }
            Body::Unreadable(why) => {
                section.differs(|| format!("{at}: no event: {why}"));
                continue;
            }
        };
        if !ids.insert(event.id.clone()) {
            section.differs(|| format!("{at}: {} stands there twice", event.id));
        }
        if event.is_mark() {
            follow_mark(partition, &event, compacted, &at, section);
            continue;
        }
        follow_order(partition, &event, &at, section);
        state.apply(topic, (record.partition, record.key), event, partition, &at, section);
    }
    state
}

/// A Kafka transaction that enlists a partition ahead says nothing, in whatever place.
fn follow_enlisting(record: &Record, at: &str, section: &mut Section) {
    match &record.body {
        Body::Tombstone(Some(position)) if position.bytes().all(|byte| matches!(byte, b'0' | b'-')) => {}
        body => section.differs(|| format!("{at}: expected a tombstone below everything: {body:?}")),
    }
}

/// A delete is followed by the tombstone of its key with its Position.
fn pay_tombstone(partition: &mut Partition, record: &Record, at: &str, section: &mut Section) {
    match (&record.body, partition.owed.take()) {
        (Body::Tombstone(position), Some(owed)) if record.key == owed.0 && position.as_deref() == Some(&owed.1) => {}
        (Body::Tombstone(position), owed) => {
            section.differs(|| format!("{at}: a tombstone at {position:?} where the delete before is {owed:?}"));
        }
        (_, Some(owed)) => section.differs(|| format!("{at}: the tombstone of {owed:?} is missing before this")),
        (_, None) => {}
    }
}

fn follow_mark(partition: &mut Partition, mark: &Event, compacted: bool, at: &str, section: &mut Section) {
    if mark.position < partition.mark {
        section.differs(|| format!("{at}: a mark at {} after one at {}", mark.position, partition.mark));
    }
    if mark.position <= partition.newest {
        // A mark is a bound: the changes before it stand below it.
        section.differs(|| format!("{at}: a mark at {} after an event at {}", mark.position, partition.newest));
    }
    if !compacted && mark.count.as_deref() != Some(partition.live.to_string().as_str()) {
        section.differs(|| format!("{at}: a mark counts {:?}, {} stand before it", mark.count, partition.live));
    }
    partition.mark.clone_from(&mark.position);
}

/// Positions never fall, and nothing stands behind a mark that it should precede.
fn follow_order(partition: &mut Partition, event: &Event, at: &str, section: &mut Section) {
    if event.position < partition.newest {
        section.differs(|| format!("{at}: {} after {}", event.position, partition.newest));
    }
    if event.position < partition.mark {
        section.differs(|| format!("{at}: {} behind the mark {}", event.position, partition.mark));
    }
    if event.position > partition.newest {
        partition.newest.clone_from(&event.position);
    }
}

impl State {
    fn apply(
        &mut self,
        topic: &str,
        home: Home,
        event: Box<Event>,
        partition: &mut Partition,
        at: &str,
        section: &mut Section,
    ) {
        if !event.is_snapshot() {
            partition.live += 1;
        }
        let (partition_number, key) = &home;
        if let Some(table) = key.strip_prefix("truncate/") {
            let fed = |key: &str| tables::table_of(topic, key).is_some_and(|fed| fed.name == table);
            self.newest.retain(|(number, key), _| number != partition_number || !fed(key));
            return;
        }
        if event.entity.as_ref() != Some(key) {
            section.differs(|| format!("{at}: the entity is {:?}", event.entity));
        }
        if self.touched.get(&home).is_some_and(|before| before.position >= event.position) {
            section.differs(|| format!("{at}: {} is not after the entity's last event", event.position));
        }
        let part = event.subject.as_deref().and_then(|subject| subject.strip_prefix("part/")).map(str::to_owned);
        self.touched.insert(home.clone(), Touch { position: event.position.clone(), part });
        if !event.is_snapshot() {
            self.positions.insert(event.position.clone());
        }
        if event.kind.ends_with(".deleted") {
            partition.owed = Some((home.1.clone(), event.position.clone()));
            self.newest.remove(&home);
        } else {
            self.newest.insert(home, event);
        }
    }
}

/// Compares the newest event of every entity with the database's rows, both ways.
pub(super) fn compare(topic: &str, state: &State, rows: &Rows, section: &mut Section) {
    let mut newest: HashMap<&str, &Event> = HashMap::new();
    for ((partition, key), event) in &state.newest {
        if newest.insert(key, event).is_some() {
            section.differs(|| format!("{topic}/{partition} {key}: the entity lives in another partition too"));
        }
    }
    for table in tables::TABLES.iter().filter(|table| table.topic == topic) {
        let Some(rows) = rows.get(table.name) else { continue };
        for (key, row) in rows {
            section.compared();
            let Some(event) = newest.get(key.as_str()) else {
                section.differs(|| format!("{topic} {key}: the row of {} has no event", table.name));
                continue;
            };
            let data: Value =
                event.data.as_ref().and_then(|data| serde_json::from_str(data.get()).ok()).unwrap_or_default();
            let mut differences = table.state_differences(row, &data);
            if let Some(unavailable) = &event.unavailable {
                differences.push(format!("{unavailable} is unavailable although the old row is in the log"));
            }
            if !differences.is_empty() {
                let position = &event.position;
                section.differs(|| format!("{topic} {key} at {position}: {}", differences.join("; ")));
            }
        }
    }
    for key in newest.keys() {
        let known = tables::table_of(topic, key)
            .and_then(|table| rows.get(table.name))
            .is_some_and(|rows| rows.contains_key(*key));
        if !known {
            section.differs(|| format!("{topic} {key}: an event without a row"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn position(n: u32) -> String {
        format!("00000001-{n:016X}-00000000")
    }

    fn record(key: &str, value: serde_json::Value) -> Record {
        let body =
            if value.is_null() { Body::Tombstone(None) } else { Body::Event(serde_json::from_value(value).unwrap()) };
        Record { partition: 0, offset: 0, key: key.into(), body }
    }

    fn event(kind: &str, key: &str, at: u32) -> Record {
        let value = serde_json::json!({ "id": format!("{}/{key}", position(at)), "type": kind, "time": "", "entity": key,
                                        "position": position(at) });
        record(key, value)
    }

    fn mark(at: u32, count: u32) -> Record {
        let value = serde_json::json!({ "id": format!("mark/{at}"), "type": "mark", "time": "", "position": position(at),
                                        "count": count.to_string() });
        record("mark", value)
    }

    fn tombstone(key: &str, at: u32) -> Record {
        Record { partition: 0, offset: 0, key: key.into(), body: Body::Tombstone(Some(position(at))) }
    }

    fn enlisting(at: &str) -> Record {
        Record { partition: 0, offset: 0, key: "enlist".into(), body: Body::Tombstone(Some(at.to_owned())) }
    }

    fn differing(records: Vec<Record>) -> u64 {
        let mut section = Section::new("test");
        follow("stock", records, false, &mut section);
        section.differing
    }

    #[test]
    fn an_orderly_partition_has_no_differences() {
        let records = vec![
            event("stock.created", "1", 1),
            mark(2, 1),
            event("stock.updated", "1", 2),
            event("stock.deleted", "1", 3),
            enlisting("00000000-0000000000000000-00000000"),
            tombstone("1", 3),
            mark(4, 3),
        ];
        assert_eq!(differing(records), 0);
        assert_eq!(differing(vec![enlisting("00000001-0000000000000001-00000000")]), 1, "it looks like a deletion");
    }

    #[test]
    fn every_kind_of_disorder_is_found() {
        let first = || event("stock.created", "1", 5);
        assert_eq!(differing(vec![first(), event("stock.updated", "2", 4)]), 1, "positions fall");
        assert!(differing(vec![first(), first()]) >= 1, "one event twice");
        assert_eq!(differing(vec![mark(6, 0), first()]), 1, "an event behind its mark");
        assert_eq!(differing(vec![first(), mark(6, 2)]), 1, "a mark that counts too many");
        assert_eq!(differing(vec![first(), mark(5, 1)]), 1, "a mark that does not contain what stands before it");
        assert_eq!(differing(vec![mark(3, 0), mark(2, 0)]), 1, "marks that go back");
        assert_eq!(differing(vec![event("stock.deleted", "1", 5), mark(6, 1)]), 1, "a delete without its tombstone");
        assert_eq!(differing(vec![tombstone("1", 5)]), 1, "a tombstone without a delete");
    }
}
