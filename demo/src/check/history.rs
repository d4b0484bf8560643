//! The history: every change once, whole transactions in commit order, each row building on the one before.

use std::collections::HashMap;

use serde::Deserialize;
use serde_json::{Map, Value};

use super::report::Section;
use super::tables::{Row, Rows, TABLES};
use super::topics::{Body, Event, Record};

/// One change of the history.
#[derive(Debug)]
pub(super) struct Change {
    pub(super) position: String,
    pub(super) time: String,
    pub(super) xid: Option<i64>,
    pub(super) operation: &'static str,
    pub(super) data: Data,
}

/// The data of a history event.
#[derive(Debug, Deserialize)]
pub(super) struct Data {
    pub(super) table: String,
    #[serde(default)]
    pub(super) key: Option<Map<String, Value>>,
    pub(super) old: Option<Map<String, Value>>,
    pub(super) new: Option<Map<String, Value>>,
    pub(super) context: Option<Value>,
    #[serde(default)]
    total: Option<Value>,
}

impl Data {
    /// Returns what the context says under a name, as text.
    pub(super) fn claimed(&self, name: &str) -> Option<String> {
        match self.context.as_ref()?.get(name)? {
            Value::Null => None,
            Value::String(text) => Some(text.clone()),
            other => Some(other.to_string()),
        }
    }
}

/// A transaction being read: the LSN of its commit, its changes so far, whether its last one came.
#[derive(Default)]
struct Transaction {
    lsn: String,
    changes: u64,
    ended: bool,
}

/// Goes through the history in order, and returns its changes.
pub(super) fn follow(records: Vec<Record>, section: &mut Section) -> Vec<Change> {
    let mut changes: Vec<Change> = Vec::new();
    let mut open = Transaction { ended: true, ..Transaction::default() };
    for record in records {
        let at = format!("history at {}", record.offset);
        let event = match record.body {
            Body::Event(event) if event.is_mark() => continue,
            Body::Event(event) => *event,
            other => {
                section.differs(|| format!("{at}: no event: {other:?}"));
                continue;
            }
        };
        section.compared();
        let newest = changes.last().map_or("", |change| change.position.as_str());
        if event.position.as_str() <= newest {
            section.differs(|| format!("{at}: {} after {newest}", event.position));
        }
        match change(event) {
            Ok((change, last)) => {
                open.follow(&change, last, &at, section);
                changes.push(change);
            }
            Err(why) => section.differs(|| format!("{at}: {why}")),
        }
    }
    if !open.ended {
        section.differs(|| format!("the history ends within the transaction at {}", open.lsn));
    }
    changes
}

fn change(event: Event) -> Result<(Change, bool), String> {
    let operation = match event.kind.as_str() {
        "history.insert" => "INSERT",
        "history.update" => "UPDATE",
        "history.delete" => "DELETE",
        "history.truncate" => "TRUNCATE",
        other => return Err(format!("{other} is no event of the history")),
    };
    let data = event.data.ok_or("it has no data")?;
    let data = serde_json::from_str(data.get()).map_err(|error| error.to_string())?;
    if event.id != format!("{}/history", event.position) {
        return Err(format!("the id is {}", event.id));
    }
    let xid = event.xid.and_then(|xid| xid.parse().ok());
    Ok((Change { position: event.position, time: event.time, xid, operation, data }, event.last))
}

impl Transaction {
    /// The changes of a transaction are numbered from 0 in steps of two, and the last one tells how many they are.
    fn follow(&mut self, change: &Change, last: bool, at: &str, section: &mut Section) {
        let lsn = change.position.get(..25).unwrap_or_default();
        if lsn != self.lsn {
            if !self.ended {
                section.differs(|| format!("{at}: the transaction at {} does not end", self.lsn));
            }
            *self = Self { lsn: lsn.to_owned(), ..Self::default() };
        } else if self.ended {
            section.differs(|| format!("{at}: the transaction at {lsn} goes on after its last change"));
        }
        let seq = change.position.get(26..).and_then(|text| u64::from_str_radix(text, 16).ok());
        if seq != Some(self.changes * 2) {
            section.differs(|| format!("{at}: {} is not change {} of its transaction", change.position, self.changes));
        }
        self.changes += 1;
        self.ended = last;
        let total = change.data.total.as_ref().map(|total| total.to_string().trim_matches('"').to_owned());
        if total != last.then(|| self.changes.to_string()) {
            section.differs(|| format!("{at}: total is {total:?} at change {}, last: {last}", self.changes));
        }
    }
}

/// Plays the history: each change must find the row that the one before left, and the last one leave the database's row.
pub(super) fn play(changes: &[Change], rows: &Rows, section: &mut Section) {
    let mut left: HashMap<(&str, String), Option<&Map<String, Value>>> = HashMap::new();
    for change in changes {
        section.compared();
        let Data { table, key, old, new, .. } = &change.data;
        if change.operation == "TRUNCATE" {
            for row in left.iter_mut().filter(|((of, _), _)| of == table) {
                *row.1 = None;
            }
            continue;
        }
        let Some(id) = id_of(key.as_ref()) else {
            section.differs(|| format!("{table} at {}: the key is {key:?}", change.position));
            continue;
        };
        // A row that changes its key was left under the old one.
        let old_id = old.as_ref().and_then(|old| id_of(Some(old))).unwrap_or_else(|| id.clone());
        if let Some(before) = left.insert((table, old_id), None)
            && before != old.as_ref()
        {
            section
                .differs(|| format!("{table} {id} at {}: builds on {old:?}, but {before:?} was left", change.position));
        }
        if (change.operation == "INSERT") != old.is_none() || (change.operation == "DELETE") != new.is_none() {
            section.differs(|| format!("{table} {id} at {}: {} with these rows", change.position, change.operation));
        }
        left.insert((table, id), new.as_ref());
    }
    let by_id = by_id(rows);
    for ((table, id), shown) in left {
        section.compared();
        let Some(known) = TABLES.iter().find(|known| known.name == table) else {
            section.differs(|| format!("{table} is not captured"));
            continue;
        };
        match (shown, by_id.get(&(table, id.as_str()))) {
            (None, None) => {}
            (Some(shown), Some(row)) => {
                let differences = known.history_differences(row, shown);
                if !differences.is_empty() {
                    section.differs(|| format!("{table} {id}: {}", differences.join("; ")));
                }
            }
            (shown, row) => section.differs(|| {
                let (shown, row) = (shown.is_some(), row.is_some());
                format!("{table} {id}: the history left a row: {shown}, the database has it: {row}")
            }),
        }
    }
}

/// Every captured table's key is its first column, `id`.
fn by_id(rows: &Rows) -> HashMap<(&str, &str), &Row> {
    let of_table = |(table, rows): (&&'static str, _)| -> Vec<_> {
        let rows: &HashMap<String, Row> = rows;
        rows.values().filter_map(|row| Some(((*table, row.first()?.as_deref()?), row))).collect()
    };
    rows.iter().flat_map(of_table).collect()
}

fn id_of(key: Option<&Map<String, Value>>) -> Option<String> {
    key?.get("id").map(|id| id.to_string().trim_matches('"').to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn event(lsn: u32, seq: u32, last: bool, kind: &str, data: &Value) -> Record {
        let position = format!("00000001-{lsn:016X}-{seq:08X}");
        let event = json!({ "id": format!("{position}/history"), "type": kind, "time": "", "position": position,
                            "xid": "7", "last": last, "data": data });
        let body = Body::Event(serde_json::from_value(event).unwrap());
        Record { partition: 0, offset: 0, key: String::new(), body }
    }

    fn insert(id: u32, total: Option<u32>) -> Value {
        let mut data = json!({ "table": "parts", "key": { "id": id }, "old": null, "new": { "id": id, "version": 1 },
                               "context": null });
        if let Some(total) = total {
            data["total"] = total.into();
        }
        data
    }

    fn update(id: u32, from: u32, to: u32) -> Value {
        json!({ "table": "parts", "key": { "id": id }, "old": { "id": id, "version": from },
                "new": { "id": id, "version": to }, "context": null, "total": 1 })
    }

    fn orderly() -> Vec<Record> {
        vec![
            event(1, 0, false, "history.insert", &insert(1, None)),
            event(1, 2, true, "history.insert", &insert(2, Some(2))),
            event(2, 0, true, "history.update", &update(1, 1, 2)),
        ]
    }

    fn differing(records: Vec<Record>) -> u64 {
        let mut section = Section::new("test");
        follow(records, &mut section);
        section.differing
    }

    #[test]
    fn whole_transactions_in_order_have_no_differences() {
        assert_eq!(differing(orderly()), 0);
    }

    #[test]
    fn a_change_that_is_lost_doubled_or_moved_is_found() {
        for index in 0..2 {
            let mut lost = orderly();
            lost.remove(index);
            assert!(differing(lost) > 0, "without change {index}");
            let mut moved = orderly();
            moved.swap(index, index + 1);
            assert!(differing(moved) > 0, "with change {index} later");
        }
        let mut doubled = orderly();
        doubled.extend(orderly().pop());
        assert!(differing(doubled) > 0);
    }

    #[test]
    fn a_whole_transaction_that_is_lost_shows_in_the_rows() {
        let mut section = Section::new("test");
        let records = vec![
            event(1, 0, true, "history.insert", &insert(1, Some(1))),
            event(3, 0, true, "history.update", &update(1, 2, 3)),
        ];
        let changes = follow(records, &mut section);
        assert_eq!(section.differing, 0);
        play(&changes, &Rows::new(), &mut section);
        assert_eq!(section.differing, 2, "it builds on what nobody left, and leaves what the database has not");
    }
}
