//! What the stream published while rows were on their way: newer than what was read of them.

use std::collections::HashSet;
use std::hash::{BuildHasher, RandomState};

use crate::events::row::{Row, Table, Value};

/// Most keys remembered for one chunk; past it the chunk is read again.
const MOST_KEYS: usize = 20_000;
/// Most entities remembered while the topics are searched for vanished rows; past it they are searched again.
const MOST_ENTITIES: usize = 500_000;

/// A mapping entry and a row, by its primary key. An update that changes nothing of an entry's event overtakes nothing there.
pub(in crate::capture) type Place = (usize, Vec<u8>);

/// What was published of a table since some of it was asked for. Pure.
#[derive(Debug, Default)]
pub(in crate::capture) struct Overtaken {
    keys: HashSet<Place>,
    /// There were too many to remember: it has to be asked for again.
    pub(super) too_many: bool,
    /// The table was emptied: all that it holds now comes by the stream.
    all: bool,
}

impl Overtaken {
    /// Takes note of a row whose event was published.
    pub(super) fn add(&mut self, place: &Place) {
        if self.keys.len() < MOST_KEYS {
            self.keys.insert(place.clone());
        } else {
            self.too_many = true;
        }
    }

    /// Takes note that nothing read before stands any more.
    pub(super) fn add_all(&mut self) {
        self.all = true;
    }

    /// Whether the event of a mapping entry and a row is older than what was published.
    pub(in crate::capture) fn contains(&self, place: &Place) -> bool {
        self.all || self.keys.contains(place)
    }
}

/// Which entities of a table were published since the topics are searched for those that vanished. By a hash, so that
/// half a million of them take a few mebibytes: where two share one, a deletion waits for the next reading.
#[derive(Debug, Default)]
pub(super) struct Touched {
    hashes: HashSet<u64>,
    by: RandomState,
    pub(super) too_many: bool,
    all: bool,
}

impl Touched {
    /// Takes note of an event or a tombstone by its record's key.
    pub(super) fn add(&mut self, entity: &[u8]) {
        if self.hashes.len() < MOST_ENTITIES {
            self.hashes.insert(self.by.hash_one(entity));
        } else {
            self.too_many = true;
        }
    }

    /// Takes note that the table was emptied.
    pub(super) fn add_all(&mut self) {
        self.all = true;
    }

    /// Whether an entity was published.
    pub(in crate::capture) fn contains(&self, entity: &[u8]) -> bool {
        self.all || self.hashes.contains(&self.by.hash_one(entity))
    }
}

/// Returns the primary key as one text; no value can hold the separator.
pub(in crate::capture) fn key_of(table: &Table, row: Row<'_>) -> Vec<u8> {
    let mut key = Vec::new();
    for column in &table.primary_key {
        if let Some(Value::Text(text)) = row.get(*column) {
            key.extend_from_slice(text);
        }
        key.push(0);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_published_for_one_entry_overtakes_no_other_and_an_emptied_table_overtakes_all() {
        let mut overtaken = Overtaken::default();
        overtaken.add(&(1, b"7".to_vec()));
        assert!(overtaken.contains(&(1, b"7".to_vec())));
        assert!(!overtaken.contains(&(0, b"7".to_vec())) && !overtaken.contains(&(1, b"8".to_vec())));
        overtaken.add_all();
        assert!(overtaken.contains(&(0, b"8".to_vec())));
    }

    #[test]
    fn more_than_can_be_remembered_is_said() {
        let mut overtaken = Overtaken::default();
        for key in 0..=MOST_KEYS {
            assert!(!overtaken.too_many);
            overtaken.add(&(0, key.to_string().into_bytes()));
        }
        assert!(overtaken.too_many);
    }
}
