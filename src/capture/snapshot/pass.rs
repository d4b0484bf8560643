//! One reading of a table from its first row to its last, and the statements that it takes.

use std::time::{Duration, Instant};

use highwater_postgres::{DataRow, quote};
use tracing::info;

use crate::capture::feeds::Feed;
use crate::capture::tables::Described;
use crate::events::mapping::entry::Entry;

/// A primary key as text, a value for each of its columns.
pub(super) type Key = Vec<String>;

/// How often a reading says how far it is.
const SAY_EVERY: Duration = Duration::from_secs(5);

/// One reading of a table. Nothing in it changes, so that its readers share it.
#[derive(Debug)]
pub(in crate::capture) struct Pass {
    /// Tells it from an earlier reading of the same table.
    pub(super) number: u64,
    pub(super) described: Described,
    pub(in crate::capture) feed: Feed,
    /// Entries of other tables that feed events of the same names; their entities are not this table's.
    pub(super) others: Vec<Entry>,
}

impl Pass {
    /// The table's name.
    pub(in crate::capture) fn table(&self) -> &str {
        &self.feed.table.name
    }

    /// Returns the primary key of a row that was read.
    pub(super) fn key_of(&self, row: DataRow<'_>) -> Key {
        let values: Vec<_> = row.values().collect();
        let text = |column: &usize| values.get(*column).copied().flatten().unwrap_or_default();
        let key = self.feed.table.primary_key.iter();
        key.map(|column| String::from_utf8_lossy(text(column)).into_owned()).collect()
    }

    /// Returns the statement for the rows behind `after`, all of them where that is empty, up to `upto`, the table's end
    /// where that is none; with a limit where the rows are counted.
    pub(super) fn rows(&self, after: &[String], upto: Option<&[String]>) -> String {
        let mut conditions: Vec<String> =
            self.described.row_filter.iter().map(|filter| format!("({filter})")).collect();
        conditions.extend(self.behind(after));
        conditions.extend(upto.map(|upto| format!("ROW({}) <= ROW({})", self.key_list(), literals(upto))));
        let (columns, table) = (self.described.select_list(), self.qualified());
        format!("SELECT {columns} FROM {table}{} ORDER BY {}", all_of(&conditions), self.key_list())
    }

    /// Returns the statement for the key of the row that stands `count` rows behind `after`. The index alone answers it
    /// where the table is vacuumed; rows that the publication leaves out are counted, too.
    pub(super) fn boundary(&self, after: &[String], count: u32) -> String {
        let (key, table) = (self.key_list(), self.qualified());
        let behind: Vec<String> = self.behind(after).into_iter().collect();
        let skipped = count.saturating_sub(1);
        format!("SELECT {key} FROM {table}{} ORDER BY {key} OFFSET {skipped} LIMIT 1", all_of(&behind))
    }

    /// Returns the table as SQL has it.
    pub(super) fn qualified(&self) -> String {
        quote::qualified(&self.described.schema, &self.described.name)
    }

    fn key_list(&self) -> String {
        let table = &self.feed.table;
        let names = table.primary_key.iter().map(|column| quote::identifier(&table.columns[*column].name));
        names.collect::<Vec<_>>().join(", ")
    }

    fn behind(&self, after: &[String]) -> Option<String> {
        (!after.is_empty()).then(|| format!("ROW({}) > ROW({})", self.key_list(), literals(after)))
    }
}

fn literals(key: &[String]) -> String {
    key.iter().map(|text| quote::literal(text)).collect::<Vec<_>>().join(", ")
}

fn all_of(conditions: &[String]) -> String {
    if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) }
}

/// How far a reading is, for whoever waits for it.
#[derive(Debug)]
pub(super) struct Advance {
    started: Instant,
    said: Instant,
    about: Option<u64>,
    /// Rows published by this session.
    rows: u64,
}

impl Advance {
    pub(super) fn new(about: Option<u64>) -> Self {
        let now = Instant::now();
        Self { started: now, said: now, about, rows: 0 }
    }

    /// Takes note of rows that were published, `total` with those of earlier sessions; says so from time to time.
    pub(super) fn add(&mut self, table: &str, rows: u64, total: u64) {
        self.rows += rows;
        if self.said.elapsed() < SAY_EVERY {
            return;
        }
        self.said = Instant::now();
        let rate = self.rate();
        // About: the rows may have become more since they were counted.
        let left_s = self.about.map(|about| about.saturating_sub(total) / rate.max(1));
        info!(table, rows = total, about = self.about, rows_per_s = rate, left_s, "snapshot");
    }

    /// Returns the rows of this session per second.
    pub(super) fn rate(&self) -> u64 {
        let ms = u64::try_from(self.started.elapsed().as_millis()).unwrap_or(u64::MAX);
        self.rows.saturating_mul(1000) / ms.max(1)
    }
}
