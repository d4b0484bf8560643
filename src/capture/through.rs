//! Parts that stand one step away: which part the row of another table belongs to.

use std::collections::HashMap;
use std::time::Duration;

use highwater_postgres::{Connection, quote};

use crate::events::state::{ThroughRows, Unmappable};

/// Most rows that are remembered; the primary is asked for the rest.
const REMEMBERED: usize = 1_000_000;

/// How to ask for the part of one table's row.
#[derive(Debug, Clone)]
pub(super) struct Step {
    /// As SQL, quoted.
    pub(super) table: String,
    /// As SQL, quoted.
    pub(super) key: String,
    /// As SQL, quoted.
    pub(super) part: String,
}

/// What is remembered of the rows one step away; the stream keeps it true.
#[derive(Debug, Default)]
pub(super) struct Memory {
    steps: HashMap<String, Step>,
    known: HashMap<(String, Vec<u8>), Option<Vec<u8>>>,
    failed: Option<highwater_postgres::Error>,
}

impl Memory {
    /// Reads the rows that entries point at, so that a row which is deleted later is known all the same.
    pub(super) fn load(
        steps: HashMap<String, Step>,
        primary: &mut Connection,
        timeout: Duration,
    ) -> Result<Self, highwater_postgres::Error> {
        let mut memory = Self { steps, ..Self::default() };
        let tables: Vec<(String, Step)> =
            memory.steps.iter().map(|(name, step)| (name.clone(), step.clone())).collect();
        for (name, Step { table, key, part }) in tables {
            let sql = format!("SELECT {key}, {part} FROM {table} LIMIT {REMEMBERED}");
            primary.for_each_row(&sql, timeout, |row| {
                let mut values = row.values();
                if let Some(key) = values.next().flatten() {
                    memory.learn(&name, key, values.next().flatten());
                }
                Ok::<(), highwater_postgres::Error>(())
            })?;
        }
        Ok(memory)
    }

    /// Returns why the primary could not be asked, once: the row's part is then not missing but not known yet.
    pub(super) fn failure(&mut self) -> Option<highwater_postgres::Error> {
        self.failed.take()
    }

    /// Whether some entry's part stands one step away, in this table.
    pub(super) fn watches(&self, table: &str) -> bool {
        self.steps.contains_key(table)
    }

    /// Takes note of a row that the stream or a snapshot showed. Deleted rows stay known: the rows that point at them
    /// are often deleted in the same transaction.
    pub(super) fn learn(&mut self, table: &str, key: &[u8], part: Option<&[u8]>) {
        let place = (table.to_owned(), key.to_vec());
        if self.known.len() < REMEMBERED || self.known.contains_key(&place) {
            self.known.insert(place, part.map(<[u8]>::to_vec));
        }
    }

    /// Returns the memory with the primary behind it.
    pub(super) fn with<'a>(&'a mut self, primary: &'a mut Connection, timeout: Duration) -> Asking<'a> {
        Asking { memory: self, primary, timeout }
    }
}

/// Asks the primary for what is not remembered. Right because only visible commits are published: the row that a
/// published row points at is there, or was deleted later in the log.
pub(super) struct Asking<'a> {
    memory: &'a mut Memory,
    primary: &'a mut Connection,
    timeout: Duration,
}

impl ThroughRows for Asking<'_> {
    fn part_of(&mut self, table: &str, key: &[u8]) -> Result<Option<Vec<u8>>, Unmappable> {
        let unknown = || Unmappable::NoThroughRow { table: table.to_owned() };
        if let Some(part) = self.memory.known.get(&(table.to_owned(), key.to_vec())) {
            return Ok(part.clone());
        }
        let step = self.memory.steps.get(table).ok_or_else(unknown)?;
        let key_text = std::str::from_utf8(key).map_err(|_| unknown())?;
        let sql = format!("SELECT {} FROM {} WHERE {} = {}", step.part, step.table, step.key, quote::literal(key_text));
        let rows = self.primary.simple_query(&sql, self.timeout).map_err(|error| {
            self.memory.failed = Some(error);
            unknown()
        })?;
        let row = rows.rows.first().ok_or_else(unknown)?;
        let part = row.first().cloned().flatten().map(String::into_bytes);
        self.memory.learn(table, key, part.as_deref());
        Ok(part)
    }
}
