//! What was acknowledged to the writers, and how far each copy has shown it: the live answer to "nothing lost so far?".
//!
//! It follows stock levels by their version. A copy may skip versions, never end below the last one. The checker's answer
//! at the end is the exact one; this one is quick.

use std::collections::HashMap;
use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

/// The copies that are watched.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Copy {
    /// The stock topic.
    Kafka,
    /// The written keys of the cache.
    Redis,
    /// The audit log.
    Audit,
    /// A WebSocket client.
    Browser,
}

impl Copy {
    /// Every copy, in the order of the display.
    pub const ALL: [Self; 4] = [Self::Kafka, Self::Redis, Self::Audit, Self::Browser];
}

/// A stock level that was acknowledged.
struct Acknowledged {
    version: i32,
    at: Instant,
    shown: [i32; Copy::ALL.len()],
}

/// The acknowledged stock levels with what each copy has shown.
///
/// Parts that a writer removes or adds are followed too: a version that starts again at 1 counts as shown, because a copy
/// that showed a higher one before cannot be told from one that is behind.
#[derive(Default)]
pub struct Ledger {
    parts: Mutex<HashMap<i64, Acknowledged>>,
}

impl Ledger {
    /// Notes stock levels whose commit was acknowledged, each a part and its version.
    pub fn acknowledged(&self, stock: &[(i64, i32)]) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        for (part, version) in stock {
            let known = parts.entry(*part).or_insert_with(Acknowledged::new);
            if *version > known.version {
                known.version = *version;
                known.at = Instant::now();
            }
        }
    }

    /// Notes that a part's stock was deleted: a copy that takes both at once never shows the last version before that.
    pub fn removed(&self, part: i64) {
        if let Some(known) = self.parts.lock().unwrap_or_else(PoisonError::into_inner).get_mut(&part) {
            known.version = 0;
        }
    }

    /// Notes that a copy shows a part's stock at a version.
    pub fn shown(&self, copy: Copy, part: i64, version: i32) {
        let mut parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        let shown = &mut parts.entry(part).or_insert_with(Acknowledged::new).shown[copy as usize];
        *shown = version.max(*shown);
    }

    /// Returns how many parts a copy still shows older than what was acknowledged longer than `after` ago.
    #[must_use]
    pub fn missing(&self, copy: Copy, after: Duration) -> usize {
        let parts = self.parts.lock().unwrap_or_else(PoisonError::into_inner);
        parts.values().filter(|part| part.shown[copy as usize] < part.version && part.at.elapsed() > after).count()
    }
}

impl Acknowledged {
    fn new() -> Self {
        Self { version: 0, at: Instant::now(), shown: [0; Copy::ALL.len()] }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_part_that_was_removed_is_missing_nowhere() {
        let ledger = Ledger::default();
        ledger.acknowledged(&[(7, 3)]);
        ledger.removed(7);
        assert_eq!(ledger.missing(Copy::Redis, Duration::ZERO), 0);
        ledger.acknowledged(&[(7, 1)]);
        assert_eq!(ledger.missing(Copy::Redis, Duration::ZERO), 1);
    }

    #[test]
    fn a_copy_that_stays_below_an_acknowledged_version_is_missing_it() {
        let ledger = Ledger::default();
        ledger.shown(Copy::Kafka, 7, 3);
        ledger.acknowledged(&[(7, 3), (8, 2)]);
        ledger.shown(Copy::Redis, 8, 5);
        assert_eq!(ledger.missing(Copy::Kafka, Duration::ZERO), 1);
        assert_eq!(ledger.missing(Copy::Redis, Duration::ZERO), 1);
        ledger.shown(Copy::Kafka, 8, 2);
        assert_eq!(ledger.missing(Copy::Kafka, Duration::ZERO), 0);
        assert_eq!(ledger.missing(Copy::Audit, Duration::from_mins(1)), 0);
    }
}
