//! Rows → state events: what a change does to the entity that its row feeds. A plain function over values.

use super::draft::{Draft, Heading, PartitionBy, Stamp, Topic};
use super::envelope::TRUNCATE_KEY_PREFIX;
use super::json::write_string;
use super::mapping::entry::{Difference, Entry, Part};
use super::row::{Change, Row, Value};

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

/// Where a row stands: its entity and its part.
#[derive(PartialEq, Eq)]
struct Home {
    entity: Vec<u8>,
    part: Option<Vec<u8>>,
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
    out: &mut Vec<Draft>,
) -> Result<(), Unmappable> {
    let mut writer = Writer { entry, stamp, through };
    match change {
        Change::Insert { new } => out.push(writer.whole_row("created", new, seq)?),
        Change::Snapshot { new } => out.push(writer.whole_row("snapshot", new, seq)?),
        Change::Delete { old } => out.push(writer.deleted(old, seq)?),
        Change::Update { old, new } => {
            let home = writer.home(new)?;
            let old_home = old.map(|old| writer.home(old)).transpose()?;
            match (old, old_home) {
                (Some(old), Some(left)) if left != home => {
                    out.push(writer.deleted(old, seq)?);
                    // The row came from elsewhere: at its new place it is created, in the second of the two steps.
                    out.push(writer.whole_row("created", new, seq + 1)?);
                }
                (old, left) => {
                    let difference = entry.difference(old, new);
                    if difference != Difference::None {
                        let left = left.and_then(|left| left.part);
                        let old = old.map(|old| (old, left.as_deref()));
                        out.push(writer.updated(old, new, &home, &difference, seq));
                    }
                }
            }
        }
    }
    Ok(())
}

/// Writes the event that drops what a table fed so far: one record for every partition of the topic. `entries` are those
/// of the table in that topic, at least one: two kinds of content share it, and one record says it all.
#[must_use]
pub fn write_truncation(entries: &[&Entry], table: &str, stamp: &Stamp<'_>, seq: u32, partition: u32) -> Draft {
    let first = entries[0];
    let entity = [TRUNCATE_KEY_PREFIX.as_bytes(), table.as_bytes()].concat();
    let partition_text = partition.to_string();
    let heading = Heading {
        id_tail: &[first.name.as_bytes(), partition_text.as_bytes()],
        subject: table.as_bytes(),
        entity: &entity,
    };
    let mut draft = Draft::begin(Topic::State(first.family), stamp, stamp.position(seq), "catalog.truncated", heading);
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

struct Writer<'a> {
    entry: &'a Entry,
    stamp: &'a Stamp<'a>,
    through: &'a mut dyn ThroughRows,
}

impl Writer<'_> {
    fn home(&mut self, row: Row<'_>) -> Result<Home, Unmappable> {
        let part = match self.entry.part() {
            Part::None => None,
            Part::Column { column, .. } => match row[*column] {
                Value::Text(text) => Some(text.to_vec()),
                Value::Null => None,
                Value::Unknown => return Err(Unmappable::NoPart),
            },
            Part::Through { table, by, .. } => match row[*by] {
                Value::Text(key) => self.through.part_of(table, key)?,
                Value::Null => None,
                Value::Unknown => return Err(Unmappable::NoPart),
            },
        };
        let mut entity = Vec::new();
        if self.entry.write_entity(&mut entity, row, part.as_deref()) {
            Ok(Home { entity, part })
        } else {
            Err(Unmappable::NoEntity)
        }
    }

    fn begin(&self, verb: &str, home: &Home, seq: u32) -> Draft {
        let kind = [self.entry.family.name(), ".", verb].concat();
        let subject = match &home.part {
            Some(part) => [b"part/", part.as_slice()].concat(),
            None => home.entity.clone(),
        };
        let name = self.entry.name.as_bytes();
        let (of_snapshot, of_change) = ([name, &home.entity], [name]);
        let heading = Heading {
            id_tail: if verb == "snapshot" { &of_snapshot } else { &of_change },
            subject: &subject,
            entity: &home.entity,
        };
        let topic = Topic::State(self.entry.family);
        let mut draft = Draft::begin(topic, self.stamp, self.stamp.position(seq), &kind, heading);
        draft.partition_by = PartitionBy::Key(home.part.as_ref().unwrap_or(&home.entity).clone());
        draft
    }

    /// Appends groups, unavailable fields and data.
    fn complete(&self, draft: &mut Draft, groups_of: &[(Row<'_>, Option<&[u8]>)], row: Row<'_>, part: Option<&[u8]>) {
        let mut groups = Vec::new();
        self.entry.write_groups(&mut groups, groups_of);
        draft.attribute("groups", &groups);
        if !draft.deletes {
            draft.attribute("unavailable", self.entry.unavailable(row).as_bytes());
        }
        draft.finish(|out| self.entry.write_data(out, row, part));
    }

    fn whole_row(&mut self, verb: &str, row: Row<'_>, seq: u32) -> Result<Draft, Unmappable> {
        let home = self.home(row)?;
        let mut draft = self.begin(verb, &home, seq);
        let part = home.part.as_deref();
        self.complete(&mut draft, &[(row, part)], row, part);
        Ok(draft)
    }

    fn deleted(&mut self, old: Row<'_>, seq: u32) -> Result<Draft, Unmappable> {
        let home = self.home(old)?;
        let mut draft = self.begin("deleted", &home, seq);
        draft.deletes = true;
        let part = home.part.as_deref();
        self.complete(&mut draft, &[(old, part)], old, part);
        Ok(draft)
    }

    fn updated(
        &self,
        old: Option<(Row<'_>, Option<&[u8]>)>,
        new: Row<'_>,
        home: &Home,
        difference: &Difference,
        seq: u32,
    ) -> Draft {
        let mut draft = self.begin("updated", home, seq);
        if let Difference::Fields(fields) = difference {
            draft.attribute("changed", fields.as_bytes());
        }
        let part = home.part.as_deref();
        match &old {
            Some((old, left)) => self.complete(&mut draft, &[(new, part), (old, left.as_deref())], new, part),
            None => self.complete(&mut draft, &[(new, part)], new, part),
        }
        draft
    }
}
