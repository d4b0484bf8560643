//! Rows → state events: what a change does to the entity that its row feeds. A plain function over values.

use std::borrow::Cow;

use super::draft::{Draft, Drafts, Heading, PartitionBy, Stamp, Topic};
use super::envelope::{Envelope, TRUNCATE_KEY_PREFIX};
use super::json::{ShortText, write_string};
use super::mapping::entry::{Difference, Entry, Part};
use super::mapping::spec::Family;
use super::row::{Change, Row, Value, without_long};

/// A change that no event can carry; it belongs to the dead letters.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Unmappable {
    /// The row does not give its entity.
    #[error("the row does not give the columns of its entity")]
    NoEntity,
    /// The row does not give its part.
    #[error("the row does not give the column of its part")]
    NoPart,
    /// The row one step away is not known.
    #[error("no row of `{table}` tells the part")]
    NoThroughRow {
        /// The table that would tell it.
        table: String,
    },
}

/// Tells the part of another table's row, by that row's key: for entries whose part is one step away.
pub trait ThroughRows {
    /// Returns the part's id as text, `Ok(None)` where the other row is of no part, `Err` where it is not known.
    ///
    /// # Errors
    /// The other row is not known.
    fn part_of(&mut self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Unmappable>;
}

/// Writes the events of one change for one entry: none where nothing of the event changed, two where the row moved.
///
/// # Errors
/// A change that no event can carry.
pub fn write_state_events(
    entry: &Entry,
    change: Change<'_>,
    stamp: &Stamp<'_>,
    seq: u32,
    through: &mut dyn ThroughRows,
    drafts: &mut Drafts,
    out: &mut impl Extend<Draft>,
) -> Result<(), Unmappable> {
    let mut push = |event| out.extend([event]);
    let mut writer = Writer { entry, stamp, through, drafts };
    match change {
        Change::Insert { new } => push(writer.whole_row("created", new, seq)?),
        Change::Snapshot { new } => push(writer.whole_row("snapshot", new, seq)?),
        Change::Delete { old } => push(writer.deleted(old, seq)?),
        Change::Update { old: None, new } => {
            let home = writer.home(new)?;
            push(writer.event("updated", &home, &[(new, &home)], &[], seq));
        }
        Change::Update { old: Some(old), new } => {
            let (left, home) = (writer.home(old)?, writer.home(new)?);
            if left == home {
                writer.updated(old, new, &left, &home, seq).into_iter().for_each(push);
            } else {
                push(writer.deleted(old, seq)?);
                // The row came from elsewhere: at its new place it is created, in the second of the two steps.
                push(writer.whole_row("created", new, seq + 1)?);
            }
        }
    }
    Ok(())
}

/// Writes the event that drops what a table fed so far: one record for every partition of the topic. `entries` are those
/// of the table in that topic, at least one: two kinds of content share it, and one record says it all.
#[must_use]
pub fn write_truncation(
    drafts: &mut Drafts,
    entries: &[&Entry],
    table: &str,
    stamp: &Stamp<'_>,
    seq: u32,
    partition: u32,
) -> Draft {
    let first = entries[0];
    let entity = [TRUNCATE_KEY_PREFIX.as_bytes(), table.as_bytes()].concat();
    let partition_text = partition.to_string();
    let heading = Heading {
        id_tail: &[first.name.as_bytes(), partition_text.as_bytes()],
        subject: &[table.as_bytes()],
        entity: &entity,
    };
    let (topic, position) = (Topic::State(first.family), stamp.position(seq));
    let mut draft = Draft::begin(drafts, topic, stamp, position, &["catalog.truncated"], heading);
    draft.partition_by = PartitionBy::Exactly(partition);
    draft.finish(|out| {
        out.extend_from_slice(b"{\"table\":");
        write_string(out, table.as_bytes());
        out.extend_from_slice(b",\"entries\":");
        for (entry, comma) in entries.iter().zip([b'['].into_iter().chain(std::iter::repeat(b','))) {
            out.push(comma);
            write_string(out, entry.name.as_bytes());
        }
        out.extend_from_slice(b"]}");
    });
    draft
}

/// Writes the deletion of a row that vanished unseen, of which only its newest event is left: in that one's partition, with
/// what it knew of the row.
///
/// # Errors
/// The event does not say what it is of.
pub fn write_vanished(
    drafts: &mut Drafts,
    family: Family,
    newest: &Envelope<'_>,
    stamp: &Stamp<'_>,
    seq: u32,
    partition: u32,
) -> Result<Draft, Unmappable> {
    let entity = newest.entity.as_deref().ok_or(Unmappable::NoEntity)?;
    let subject = newest.subject.as_deref().unwrap_or(entity);
    let heading =
        Heading { id_tail: &[newest.entry().as_bytes()], subject: &[subject.as_bytes()], entity: entity.as_bytes() };
    let kind = [family.name(), ".deleted"];
    let mut draft = Draft::begin(drafts, Topic::State(family), stamp, stamp.position(seq), &kind, heading);
    draft.partition_by = PartitionBy::Exactly(partition);
    draft.deletes = true;
    // No row was read: to whoever counts, it is a change like any other.
    draft.live = true;
    draft.attribute("groups", newest.groups.as_deref().unwrap_or_default().as_bytes());
    let data = newest.data.map_or(r#"{"attributes":{}}"#, |data| data.get());
    draft.finish(|out| out.extend_from_slice(data.as_bytes()));
    Ok(draft)
}

/// Where a row stands: its entity and its part.
#[derive(PartialEq, Eq)]
struct Home<'a> {
    entity: ShortText,
    part: Option<Cow<'a, [u8]>>,
}

struct Writer<'a> {
    entry: &'a Entry,
    stamp: &'a Stamp<'a>,
    through: &'a mut dyn ThroughRows,
    drafts: &'a mut Drafts,
}

impl Writer<'_> {
    fn home<'a>(&mut self, row: Row<'a>) -> Result<Home<'a>, Unmappable> {
        let part = match self.entry.part() {
            Part::None => None,
            Part::Column { column, .. } => match row[*column] {
                Value::Text(text) => Some(Cow::Borrowed(text)),
                Value::Null => None,
                Value::Unknown => return Err(Unmappable::NoPart),
            },
            Part::Through { table, by, .. } => match row[*by] {
                Value::Text(key) => self.through.part_of(table, key)?.map(Cow::Owned),
                Value::Null => None,
                Value::Unknown => return Err(Unmappable::NoPart),
            },
        };
        let mut entity = ShortText::new();
        if self.entry.write_entity(&mut entity, row, part.as_deref()) {
            Ok(Home { entity, part })
        } else {
            Err(Unmappable::NoEntity)
        }
    }

    fn whole_row(&mut self, verb: &str, row: Row<'_>, seq: u32) -> Result<Draft, Unmappable> {
        let home = self.home(row)?;
        Ok(self.event(verb, &home, &[(row, &home)], &[], seq))
    }

    fn deleted(&mut self, old: Row<'_>, seq: u32) -> Result<Draft, Unmappable> {
        let home = self.home(old)?;
        Ok(self.event("deleted", &home, &[(old, &home)], &[], seq))
    }

    fn updated(&mut self, old: Row<'_>, new: Row<'_>, left: &Home<'_>, home: &Home<'_>, seq: u32) -> Option<Draft> {
        let mut changed = ShortText::new();
        let changed = match self.entry.difference(old, new, &mut changed) {
            Difference::None => return None,
            Difference::Fields => &changed[..],
            Difference::NotKnown => &[],
        };
        Some(self.event("updated", home, &[(new, home), (old, left)], changed, seq))
    }

    /// Writes one event of the first of the rows; `changed` is empty where that is not known.
    fn event(&mut self, verb: &str, home: &Home<'_>, rows: &[(Row<'_>, &Home<'_>)], changed: &[u8], seq: u32) -> Draft {
        let row = rows[0].0;
        Draft::within_limit(|longest| match longest {
            None => self.event_with(row, verb, home, rows, changed, seq),
            Some(longest) => self.event_with(&without_long(row, longest), verb, home, rows, changed, seq),
        })
    }

    /// Writes an event with the values of `row`.
    fn event_with(
        &mut self,
        row: Row<'_>,
        verb: &str,
        home: &Home<'_>,
        rows: &[(Row<'_>, &Home<'_>)],
        changed: &[u8],
        seq: u32,
    ) -> Draft {
        let entry = self.entry;
        let (name, entity) = (entry.name.as_bytes(), &home.entity[..]);
        let heading = Heading {
            id_tail: if verb == "snapshot" { &[name, entity] } else { &[name] },
            subject: match &home.part {
                Some(part) => &[b"part/", part],
                None => &[entity],
            },
            entity,
        };
        let (topic, position) = (Topic::State(entry.family), self.stamp.position(seq));
        let kind = [entry.family.name(), ".", verb];
        let mut draft = Draft::begin(self.drafts, topic, self.stamp, position, &kind, heading);
        draft.partition_by = PartitionBy::key(home.part.as_deref().unwrap_or(entity));
        draft.deletes = verb == "deleted";
        draft.attribute("changed", changed);
        let mut groups = ShortText::new();
        for (row, home) in rows {
            entry.write_groups(&mut groups, row, home.part.as_deref());
        }
        draft.attribute("groups", &groups);
        if !draft.deletes {
            draft.attribute("unavailable", &entry.unavailable(row));
        }
        draft.finish(|out| entry.write_data(out, row, home.part.as_deref()));
        draft
    }
}
