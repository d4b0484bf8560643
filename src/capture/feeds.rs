//! The tables of the stream with the mapping entries that they feed, as of their place in the log.

use std::collections::{HashMap, HashSet};

use highwater_postgres::pgoutput::{Relation, ReplicaIdentity};
use tracing::{error, info, warn};

use super::tables::{Described, StreamColumn, is_own, table_of_the_log};
use crate::config::instead;
use crate::events::json::Encoding;
use crate::events::mapping::compile::{MappingError, check_entries, compile};
use crate::events::mapping::entry::Entry;
use crate::events::mapping::readable::refuse_unreadable;
use crate::events::mapping::spec::{EntrySpec, Family, PartSpec};
use crate::events::row::{Identity, Table};

/// A captured table and what it feeds.
#[derive(Debug)]
pub(super) struct Feed {
    pub(super) table: Table,
    pub(super) entries: Vec<Entry>,
    /// Why the entries do not fit the table as of this place in the log; its changes go to the dead letters.
    pub(super) broken: Option<String>,
    /// Whether some partition says less of an old row than the table itself would: the rest comes as null, too.
    pub(super) nulls_may_be_unsent: bool,
}

/// Every table that the stream has named so far.
#[derive(Debug)]
pub(super) struct Feeds {
    specs: Vec<EntrySpec>,
    described: HashMap<u32, Described>,
    announced: Announced,
}

/// What the log has said of tables, by OID.
#[derive(Debug, Default)]
pub(super) struct Announced(HashMap<u32, Announcement>);

#[derive(Debug)]
struct Announcement {
    /// The piece of the log in which it came.
    piece: u64,
    /// `None` for Highwater's own tables.
    feed: Option<Feed>,
}

impl Feeds {
    /// Checks the mapping against the tables as they are now.
    ///
    /// # Errors
    /// Everything that cannot work, each with its place in the configuration.
    pub(super) fn check(specs: &[EntrySpec], described: HashMap<u32, Described>) -> Result<Self, Vec<MappingError>> {
        let mut errors = check_entries(specs).err().unwrap_or_default();
        let tables: HashMap<String, &Described> =
            described.values().map(|described| (described.plain_name(), described)).collect();
        for spec in specs {
            let Some(table) = tables.get(&spec.table.value) else {
                let near = instead(&spec.table.value, tables.keys().map(String::as_str));
                let message = format!("no table `{}` in the publication; {near}", spec.table.value);
                errors.push(MappingError::new(&spec.table.place, &spec.table.value, message));
                continue;
            };
            if let Some(unreadable) = refuse_unreadable(spec, &table.table()) {
                let remedy = unreadable.remedy.clone().or_else(|| Some(table.add_primary_key()));
                errors.push(MappingError { remedy, ..unreadable });
            }
            if let Err(wrong) = compile_entry(spec, specs, &table.table(), &described) {
                errors.extend(wrong);
            } else if !table.narrow_partitions.is_empty() {
                let routable = compile_entry(spec, specs, &table.narrowest(), &described);
                errors.extend(routable.err().map(|_| narrow_partitions(spec, table)));
            }
        }
        if !errors.is_empty() {
            return Err(errors);
        }
        Ok(Self::unchecked(specs, described))
    }

    /// Takes the tables as they are now: the changes of those that no mapping fits go to the dead letters.
    pub(super) fn unchecked(specs: &[EntrySpec], described: HashMap<u32, Described>) -> Self {
        Self { specs: specs.to_vec(), described, announced: Announced::default() }
    }

    /// Whether the catalogue has other columns of a table than the log.
    pub(super) fn differs(&self, relation: &Relation<'_>) -> bool {
        let described = self.described.get(&relation.oid);
        !is_own(relation.namespace, relation.name) && described.is_none_or(|table| !table.has(&columns_of(relation)))
    }

    /// Takes note of a table's columns from here on in the log, which said so in the piece of this number.
    pub(super) fn relation(&mut self, relation: &Relation<'_>, piece: u64) {
        let own = is_own(relation.namespace, relation.name);
        let feed = if own { None } else { Some(self.feed_of(relation)) };
        self.announced.0.insert(relation.oid, Announcement { piece, feed });
    }

    /// Takes note that the log has said the same of a table again.
    pub(super) fn relation_again(&mut self, oid: u32, piece: u64) {
        if let Some(announcement) = self.announced.0.get_mut(&oid) {
            announcement.piece = piece;
        }
    }

    /// Puts away what the log has said, because a streamed transaction brings announcements of its own, which stand in the
    /// log before others that are known already.
    pub(super) fn put_away(&mut self) -> Announced {
        std::mem::take(&mut self.announced)
    }

    /// Takes back what was put away: of two announcements of a table, the one that came later counts.
    pub(super) fn take_back(&mut self, away: Announced) {
        for (oid, announcement) in away.0 {
            if self.announced.0.get(&oid).is_none_or(|newer| newer.piece < announcement.piece) {
                self.announced.0.insert(oid, announcement);
            }
        }
    }

    fn feed_of(&self, relation: &Relation<'_>) -> Feed {
        let columns = columns_of(relation);
        let full = relation.identity == ReplicaIdentity::Full;
        let keys = relation.columns.into_iter().enumerate().filter(|(_, column)| column.key);
        let key: Vec<usize> = keys.map(|(at, _)| at).collect();
        let table = if let Some(described) = self.described.get(&relation.oid) {
            // What old rows carry here is the log's to say: the catalogue knows only what they carry now.
            let identity = if full { Identity::Full } else { Identity::Columns(key) };
            Table { identity, ..described.table_as_of(&columns) }
        } else {
            table_of_the_log(relation.namespace, relation.name, &columns, key, full)
        };
        let mut feed = feed(table, &self.specs, &self.described);
        let narrow = self.described.get(&relation.oid).map_or(&[][..], |described| &described.narrow_partitions);
        feed.nulls_may_be_unsent = full && !narrow.is_empty();
        if feed.nulls_may_be_unsent {
            let (table, partitions) = (&feed.table.name, narrow.join(", "));
            warn!(
                table,
                partitions,
                "partitions have no full replica identity: ALTER TABLE … REPLICA IDENTITY FULL each of them"
            );
        }
        if let Some(reason) = &feed.broken {
            error!(table = feed.table.name, %reason, "mapping no longer fits the table; its changes go to the dead letters");
        } else {
            info!(table = feed.table.name, entries = feed.entries.len(), "table in the stream");
        }
        feed
    }

    /// Replaces what the catalogue said of the tables.
    pub(super) fn describe(&mut self, described: HashMap<u32, Described>) {
        self.described = described;
    }

    /// Replaces what the catalogue said of the tables of these names and of the one with this OID, which it was asked for. One that has
    /// got the name of another takes its place.
    pub(super) fn describe_some(&mut self, names: &[String], oid: Option<u32>, described: HashMap<u32, Described>) {
        let anew: HashSet<String> = described.values().map(Described::plain_name).collect();
        self.described.retain(|other, table| {
            let name = table.plain_name();
            oid != Some(*other) && !names.contains(&name) && !anew.contains(&name)
        });
        self.described.extend(described);
    }

    /// Returns a table and those that its mapping reads beside it: by which its rows find their part, and whose rows find theirs by it.
    pub(super) fn with_steps(&self, table: &str) -> Vec<String> {
        let beside = |spec: &EntrySpec| match &spec.part.value {
            PartSpec::Through { through, .. } if spec.table.value == table => Some(through.clone()),
            PartSpec::Through { through, .. } if through == table => Some(spec.table.value.clone()),
            PartSpec::Through { .. } | PartSpec::Column(_) | PartSpec::None => None,
        };
        std::iter::once(table.to_owned()).chain(self.specs.iter().filter_map(beside)).collect()
    }

    /// Returns what the catalogue says of the published tables, by OID.
    pub(super) fn described(&self) -> &HashMap<u32, Described> {
        &self.described
    }

    /// Whether the log has announced a table, as it does before its first change.
    pub(super) fn knows(&self, oid: u32) -> bool {
        self.announced.0.contains_key(&oid)
    }

    /// Returns the table of a change; `None` for Highwater's own tables and for what the stream did not announce.
    pub(super) fn get(&self, oid: u32) -> Option<&Feed> {
        self.announced.0.get(&oid)?.feed.as_ref()
    }

    /// Returns the names of the mapped tables, in order.
    pub(super) fn mapped(&self) -> Vec<String> {
        let mut names: Vec<String> = self.specs.iter().map(|spec| spec.table.value.clone()).collect();
        names.sort_unstable();
        names.dedup();
        names
    }

    /// Returns a mapped table as it is now, broken where it cannot be read; none where it is not mapped, or not published any more.
    pub(super) fn mapped_now(&self, name: &str) -> Option<(Described, Feed)> {
        let described = self.described.values().find(|described| described.plain_name() == name)?;
        let mut feed = feed(described.table(), &self.specs, &self.described);
        let mut specs = self.specs.iter().filter(|spec| spec.table.value == name);
        let unreadable = specs.find_map(|spec| refuse_unreadable(spec, &feed.table));
        feed.broken = feed.broken.or_else(|| unreadable.map(|error| error.to_string()));
        (!feed.entries.is_empty()).then(|| (described.clone(), feed))
    }

    /// Returns the tables whose rows are of the part of this table's rows, each with what it feeds.
    pub(super) fn children_of(&self, table: &str) -> Vec<(String, Vec<Entry>)> {
        let through =
            |spec: &&EntrySpec| matches!(&spec.part.value, PartSpec::Through { through, .. } if through == table);
        let mut names: Vec<&String> = self.specs.iter().filter(through).map(|spec| &spec.table.value).collect();
        names.dedup();
        let with_entries = |name: &String| self.mapped_now(name).map(|(_, feed)| (name.clone(), feed.entries));
        names.into_iter().filter_map(with_entries).collect()
    }

    /// Returns what all other tables feed.
    pub(super) fn entries_beside(&self, name: &str) -> Vec<Entry> {
        let others = self.mapped().into_iter().filter(|other| other != name);
        others.filter_map(|other| self.mapped_now(&other)).flat_map(|(_, feed)| feed.entries).collect()
    }

    /// Returns the tables that feed a topic.
    pub(super) fn tables_of(&self, family: Family) -> impl Iterator<Item = &str> {
        self.specs.iter().filter(move |spec| spec.family == family).map(|spec| spec.table.value.as_str())
    }
}

fn columns_of<'a>(relation: &Relation<'a>) -> Vec<StreamColumn<'a>> {
    relation.columns.into_iter().map(|column| (column.name, column.type_oid)).collect()
}

fn feed(table: Table, specs: &[EntrySpec], described: &HashMap<u32, Described>) -> Feed {
    let mut entries = Vec::new();
    let mut broken = Vec::new();
    for spec in specs.iter().filter(|spec| spec.table.value == table.name) {
        match compile_entry(spec, specs, &table, described) {
            Ok(entry) => entries.push(entry),
            Err(errors) => broken.extend(errors.iter().map(ToString::to_string)),
        }
    }
    let broken = (!broken.is_empty()).then(|| broken.join("; "));
    Feed { table, entries, broken, nulls_may_be_unsent: false }
}

/// Refuses a table of which some partitions do not say what a delete needs.
fn narrow_partitions(spec: &EntrySpec, described: &Described) -> MappingError {
    let partitions = &described.narrow_partitions;
    let message = format!(
        "partitions of table `{}` have no full replica identity, which they do not inherit, so a delete there could not be \
         routed: {}",
        spec.table.value,
        partitions.join(", ")
    );
    let mend = partitions.iter().map(|partition| format!("ALTER TABLE {partition} REPLICA IDENTITY FULL;"));
    let remedy = Some(mend.collect::<Vec<_>>().join(" "));
    MappingError { remedy, ..MappingError::new(&spec.table.place, &spec.table.value, message) }
}

fn compile_entry(
    spec: &EntrySpec,
    specs: &[EntrySpec],
    table: &Table,
    described: &HashMap<u32, Described>,
) -> Result<Entry, Vec<MappingError>> {
    let siblings: Vec<&EntrySpec> = specs.iter().filter(|other| other.table.value == spec.table.value).collect();
    let part_encoding = match &spec.part.value {
        PartSpec::Column(_) | PartSpec::None => Encoding::Text,
        PartSpec::Through { through, .. } => {
            let Some((_, encoding)) = through_part(through, specs, described) else {
                let message = format!(
                    "table `{through}` must have an entry of its own whose part is a column, and a primary key of one column"
                );
                return Err(vec![MappingError::new(&spec.part.place, &spec.table.value, message)]);
            };
            encoding
        }
    };
    compile(spec, &siblings, table, part_encoding)
}

/// Returns the column of another table that holds the part's id, and how it becomes JSON.
pub(super) fn through_part(
    through: &str,
    specs: &[EntrySpec],
    described: &HashMap<u32, Described>,
) -> Option<(String, Encoding)> {
    let table = described.values().find(|described| described.plain_name() == through)?.table();
    let column = specs.iter().filter(|spec| spec.table.value == through).find_map(|spec| match &spec.part.value {
        PartSpec::Column(column) => Some(column),
        PartSpec::None | PartSpec::Through { .. } => None,
    })?;
    let encoding = table.columns[table.column(column)?].encoding;
    (table.primary_key.len() == 1).then(|| (column.clone(), encoding))
}
