//! One event as it goes to many clients.

use axum::extract::ws::Utf8Bytes;
use bytes::Bytes;

use crate::events::mapping::spec::Family;
use crate::position::Position;

/// A set of state topics.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(super) struct Topics(u8);

impl Topics {
    /// How many sets there are.
    pub(super) const SETS: usize = 8;

    pub(super) fn only(topic: usize) -> Self {
        Self(1 << topic)
    }

    pub(super) fn and(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    pub(super) fn contains(self, topic: usize) -> bool {
        self.0 & (1 << topic) != 0
    }

    pub(super) fn is_empty(self) -> bool {
        self.0 == 0
    }

    /// Its number among all sets.
    pub(super) fn number(self) -> usize {
        usize::from(self.0)
    }

    pub(super) fn all_sets() -> impl Iterator<Item = Self> {
        (0..8).map(Self)
    }
}

/// Returns the number of a topic by its suffix, as clients name it: `stock`, `prices`, `content`.
pub(super) fn topic_number(suffix: &str) -> Option<usize> {
    Family::ALL.iter().position(|family| family.topic_suffix() == suffix)
}

/// An event of a state topic, shared by all who get it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Event {
    pub(super) position: Position,
    /// Number of its topic.
    pub(super) topic: usize,
    /// Its partition there.
    pub(super) partition: i32,
    /// Key of the record: the entity.
    pub(super) key: Bytes,
    /// The part it is of.
    pub(super) part: Option<Box<str>>,
    /// The bytes on Kafka.
    pub(super) text: Utf8Bytes,
    /// It says all there is to say of its entity: no value that PostgreSQL did not send is missing.
    pub(super) whole: bool,
    /// It empties a table: what comes after it must not be moved before it.
    pub(super) truncation: bool,
}

impl Event {
    /// What it takes to keep it, about.
    pub(super) fn cost(&self) -> usize {
        // The event itself, its place in a map and a queue.
        self.text.len() + self.key.len() + 192
    }
}
