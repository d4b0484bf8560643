//! Rows on their way to events: changes of the stream, and truncations.

use highwater_postgres::pgoutput::{Column, OldRow, TupleData};
use smallvec::SmallVec;

use super::error::Error;
use super::feeds::Feed;
use super::progress::Progress;
use super::publisher::Publisher;
use super::snapshot::{Snapshot, key_of};
use super::through::Memory;
use super::work::Work;
use crate::events::draft::{Draft, Stamp};
use crate::events::history::{write_history, write_history_truncation};
use crate::events::mapping::entry::{Entry, Part};
use crate::events::mapping::spec::Family;
use crate::events::row::{Change, Row, Table, Value};
use crate::events::state::{write_state_events, write_truncation};

/// A row's values; most tables have no more columns than these, so that it needs no allocation.
pub(super) type Values<'a> = SmallVec<[Value<'a>; 24]>;

/// A change of one row as the log sends it.
#[derive(Clone, Copy)]
pub(super) enum SentRow<'a> {
    Insert(TupleData<'a>),
    Update(OldRow<'a>, TupleData<'a>),
    Delete(OldRow<'a>),
}

impl Work {
    /// Handles a change of one row.
    pub(super) fn row(&mut self, relation: u32, sent: SentRow<'_>) -> Result<(), Error> {
        let (Some(_), Some(feed)) = (&self.transaction, self.feeds.get(relation)) else { return Ok(()) };
        let (old, new) = match &sent {
            SentRow::Insert(new) => (None, Some(new_values(*new, None))),
            SentRow::Update(old, new) => {
                let mut old = old_values(&feed.table, old);
                // A partition that says less of an old row says it only where the key changed.
                if let Some(old) = old.as_mut().filter(|old| feed.nulls_may_be_unsent && is_rekeyed(feed, old, *new)) {
                    forget_nulls(old);
                }
                let new = new_values(*new, old.as_deref());
                (old, Some(new))
            }
            SentRow::Delete(old) => {
                let mut old = old_values(&feed.table, old);
                old.iter_mut().filter(|_| feed.nulls_may_be_unsent).for_each(forget_nulls);
                (old, None)
            }
        };
        let columns = feed.table.columns.len();
        if [&old, &new].into_iter().flatten().any(|row| row.len() != columns) {
            let message = format!("a row of `{}` with another number of columns than announced", feed.table.name);
            return Err(Error::Unexpected(message));
        }
        let change = match (&sent, &old, &new) {
            (SentRow::Insert(_), _, Some(new)) => Change::Insert { new },
            (SentRow::Update(..), old, Some(new)) => Change::Update { old: old.as_deref(), new },
            (SentRow::Delete(_), Some(old), _) => Change::Delete { old },
            _ => return Err(Error::Unexpected(format!("a delete in `{}` without its row", feed.table.name))),
        };
        self.change(relation, change)
    }

    fn change(&mut self, relation: u32, change: Change<'_>) -> Result<(), Error> {
        let (Some(transaction), Some(feed)) = (&mut self.transaction, self.feeds.get(relation)) else { return Ok(()) };
        let seq = transaction.next_seq();
        let source = self.publisher.source();
        let stamp = transaction.stamp(&source);
        learn(&mut self.through, feed, change);
        let moved = self.through.watches(&feed.table.name) && moves(feed, change);
        let children = if moved { self.feeds.children_of(&feed.table.name) } else { Vec::new() };
        if self.history {
            let drafts = self.publisher.drafts();
            let draft = write_history(drafts, &feed.table, change, &stamp, seq, &transaction.context);
            if draft.shortened {
                let row = reference(&feed.table, change);
                self.publisher.dead_letter_of_history(stamp.position(seq), &row)?;
            }
            if let Some(earlier) = transaction.push(draft) {
                self.publisher.send(earlier)?;
            }
        }
        for (table, entries) in &children {
            // Which rows left the old part nobody tells; what the table fed is to be forgotten until it is read again.
            for draft in truncations(&mut self.publisher, entries, table, &stamp, seq) {
                if let Some(earlier) = transaction.push(draft) {
                    self.publisher.send(earlier)?;
                }
            }
        }
        let mut refused = feed.broken.clone();
        let mut events = SmallVec::<[Draft; 2]>::new();
        for (at, entry) in feed.entries.iter().enumerate() {
            let mut through = self.through.with(&mut self.primary, self.timeout);
            let drafts = self.publisher.drafts();
            let outcome = write_state_events(entry, change, &stamp, seq, &mut through, drafts, &mut events);
            if let Some(error) = self.through.failure() {
                return Err(error.into());
            }
            if outcome.is_err() || !events.is_empty() {
                overtake(&mut self.snapshot, &feed.table, at, change, &events);
            }
            if let Err(error) = outcome {
                refused = Some(format!("{}: {error}", entry.name));
            }
            for draft in events.drain(..) {
                if draft.lacks_values() {
                    let row = reference(&feed.table, change);
                    self.publisher.dead_letter_of_values(stamp.position(seq), &row, &entry.name)?;
                }
                if let Some(earlier) = transaction.push(draft) {
                    self.publisher.send(earlier)?;
                }
            }
        }
        if let Some(reason) = refused {
            let row = reference(&feed.table, change);
            note_refused(&mut self.publisher.progress, &feed.table.name);
            self.publisher.dead_letter(stamp.position(seq), &row, &reason)?;
        }
        let since = transaction.bound();
        for (table, _) in &children {
            self.child_moved(table, since);
        }
        Ok(())
    }

    /// Handles the truncation of one table: one record in every partition of each topic that it feeds.
    pub(super) fn truncation(&mut self, relation: u32) -> Result<(), Error> {
        let (Some(transaction), Some(feed)) = (&mut self.transaction, self.feeds.get(relation)) else { return Ok(()) };
        let seq = transaction.next_seq();
        let source = self.publisher.source();
        let stamp = transaction.stamp(&source);
        let table = &feed.table;
        self.snapshot.truncated(&table.name);
        let mut drafts: Vec<Draft> = Vec::new();
        if self.history {
            drafts.push(write_history_truncation(self.publisher.drafts(), table, &stamp, seq, &transaction.context));
        }
        drafts.extend(truncations(&mut self.publisher, &feed.entries, &table.name, &stamp, seq));
        for draft in drafts {
            if let Some(earlier) = transaction.push(draft) {
                self.publisher.send(earlier)?;
            }
        }
        if let Some(reason) = &feed.broken {
            note_refused(&mut self.publisher.progress, &table.name);
            self.publisher.dead_letter(stamp.position(seq), &format!("{}/*", table.name), reason)?;
        }
        Ok(())
    }
}

/// Writes the records that drop what a table fed so far, one for every partition of each topic.
fn truncations(publisher: &mut Publisher, entries: &[Entry], table: &str, stamp: &Stamp<'_>, seq: u32) -> Vec<Draft> {
    let mut drafts = Vec::new();
    for family in Family::ALL {
        let entries: Vec<_> = entries.iter().filter(|entry| entry.family == family).collect();
        for partition in 0..if entries.is_empty() { 0 } else { publisher.partitions() } {
            let spare = publisher.drafts();
            drafts.push(write_truncation(spare, &entries, table, stamp, seq, partition));
        }
    }
    drafts
}

/// Returns the values of a new row; what was not sent is an unchanged TOASTed value, which the old row may hold.
fn new_values<'a>(new: TupleData<'a>, old: Option<&[Value<'a>]>) -> Values<'a> {
    let value = |(at, column)| match column {
        Column::Null => Value::Null,
        Column::Text(text) | Column::Binary(text) => Value::Text(text),
        Column::Unchanged => old.and_then(|old| old.get(at)).copied().unwrap_or(Value::Unknown),
    };
    new.into_iter().enumerate().map(value).collect()
}

/// Returns the values of an old row, as far as the replica identity gives it: the rest of a key tuple is sent as null,
/// and means nothing.
fn old_values<'a>(table: &Table, old: &OldRow<'a>) -> Option<Values<'a>> {
    let (tuple, whole) = match old {
        OldRow::None => return None,
        OldRow::Key(tuple) => (tuple, false),
        OldRow::Full(tuple) => (tuple, true),
    };
    let value = |(at, column)| match column {
        _ if !whole && !table.in_identity(at) => Value::Unknown,
        Column::Null => Value::Null,
        Column::Text(text) | Column::Binary(text) => Value::Text(text),
        Column::Unchanged => Value::Unknown,
    };
    Some(tuple.into_iter().enumerate().map(value).collect())
}

/// Whether an update changes the primary key.
fn is_rekeyed(feed: &Feed, old: &Values<'_>, new: TupleData<'_>) -> bool {
    let new = new_values(new, None);
    feed.table.primary_key.iter().any(|&column| old.get(column) != new.get(column))
}

/// Takes every null for a value that was not sent.
fn forget_nulls(row: &mut Values<'_>) {
    row.iter_mut().filter(|value| **value == Value::Null).for_each(|value| *value = Value::Unknown);
}

/// Takes note of a change without an event, in case its table is read again.
pub(super) fn note_refused(progress: &mut Progress, table: &str) {
    if let Some(again) = progress.snapshot.tables.get_mut(table).and_then(|table| table.again.as_mut()) {
        again.refused += 1;
    }
}

/// Takes note of which part a row belongs to, if rows of other tables ask for it.
pub(super) fn learn(through: &mut Memory, feed: &Feed, change: Change<'_>) {
    let table = &feed.table;
    let row = new_or_old(change);
    let (true, [key]) = (through.watches(&table.name), &table.primary_key[..]) else { return };
    if let (Value::Text(key), Some(part)) = (row[*key], part_column(feed)) {
        match row[part] {
            Value::Text(part) => through.learn(&table.name, key, Some(part)),
            Value::Null => through.learn(&table.name, key, None),
            Value::Unknown => {}
        }
    }
}

/// Whether a row went over to another part.
fn moves(feed: &Feed, change: Change<'_>) -> bool {
    let (Change::Update { old: Some(old), new }, Some(part)) = (change, part_column(feed)) else { return false };
    ![old[part], new[part]].contains(&Value::Unknown) && old[part] != new[part]
}

fn part_column(feed: &Feed) -> Option<usize> {
    feed.entries.iter().find_map(|entry| match entry.part() {
        Part::Column { column, .. } => Some(*column),
        Part::None | Part::Through { .. } => None,
    })
}

/// Takes note that the rows of a change are newer in the stream than in a chunk that is under way.
fn overtake(snapshot: &mut Snapshot, table: &Table, entry: usize, change: Change<'_>, events: &[Draft]) {
    match change {
        Change::Update { old: Some(old), new } => snapshot.overtake(table, entry, &[old, new], events),
        change => snapshot.overtake(table, entry, &[new_or_old(change)], events),
    }
}

fn new_or_old(change: Change<'_>) -> Row<'_> {
    match change {
        Change::Insert { new } | Change::Snapshot { new } | Change::Update { new, .. } => new,
        Change::Delete { old } => old,
    }
}

/// Returns where an operator finds the row: table and key, no other data.
pub(super) fn reference(table: &Table, change: Change<'_>) -> String {
    let row = new_or_old(change);
    let key = key_of(table, row);
    let key = String::from_utf8_lossy(&key).trim_end_matches('\0').replace('\0', ",");
    format!("{}/{key}", table.name)
}
