//! The progress record: what stands in the topics, committed in the same Kafka transaction as the events it speaks of.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::events::mapping::spec::Family;
use crate::position::Bound;

/// What capture has published, as of one committed Kafka transaction.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Progress {
    /// `pg_control_system().system_identifier` of the source: positions of two servers do not compare.
    pub system: String,
    /// Everything below it is published. Kafka transactions end between source transactions, so it never splits one.
    pub bound: Bound,
    /// Live events of each partition so far, by the state topic's suffix.
    pub counts: BTreeMap<String, Vec<u64>>,
    /// How many marks were made: distinguishes those of one partition with one bound.
    pub marks: u64,
    /// How far the snapshot is.
    pub snapshot: Ledger,
}

/// How far the snapshot of each table is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Ledger {
    /// By table name.
    pub tables: BTreeMap<String, TableSnapshot>,
}

/// How far the snapshot of one table is.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct TableSnapshot {
    /// Primary key of the last row that was read and published, as text; empty before the first chunk.
    pub after: Vec<String>,
    /// Rows published so far.
    pub rows: u64,
    /// Whether the table's end was reached.
    pub complete: bool,
}

impl Progress {
    /// Returns the progress of a capture that begins at `bound` with nothing published.
    #[must_use]
    pub fn beginning(system: String, bound: Bound, partitions: u32) -> Self {
        let empty = vec![0; partitions as usize];
        let counts = Family::ALL.iter().map(|family| (family.topic_suffix().to_owned(), empty.clone()));
        Self { system, bound, counts: counts.collect(), marks: 0, snapshot: Ledger::default() }
    }

    /// Whether a transaction that commits at `commit_lsn` stands in the topics already.
    #[must_use]
    pub fn covers(&self, timeline: u32, commit_lsn: u64) -> bool {
        Bound::at_lsn(timeline, commit_lsn) < self.bound
    }

    /// Moves the bound up; it never goes back, though keepalives do after a reconnect.
    pub fn reach(&mut self, bound: Bound) {
        self.bound = self.bound.max(bound);
    }

    /// Counts a live event.
    pub fn count(&mut self, family: Family, partition: u32) {
        if let Some(count) = self.partition_count(family, partition) {
            *count += 1;
        }
    }

    /// Returns the live events of a partition so far.
    #[must_use]
    pub fn live_events(&self, family: Family, partition: u32) -> u64 {
        let counts = self.counts.get(family.topic_suffix());
        counts.and_then(|counts| counts.get(partition as usize)).copied().unwrap_or(0)
    }

    fn partition_count(&mut self, family: Family, partition: u32) -> Option<&mut u64> {
        self.counts.get_mut(family.topic_suffix())?.get_mut(partition as usize)
    }
}

/// What the slot and the newest committed progress record say together at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// No slot, no progress: make the slot and begin.
    Fresh,
    /// The slot stands, nothing was published yet: begin where the slot does.
    AtSlot(Bound),
    /// Both agree: go on from the progress.
    Resume(Progress),
}

/// Why capture does not start. Nothing is skipped silently: the operator decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The topics hold progress, and there is no slot that goes on from it.
    #[error("slot `{slot}` is missing on {server}, but topic `{topic}` holds progress up to {bound}")]
    SlotMissing {
        /// The slot.
        slot: String,
        /// The server's address.
        server: String,
        /// The progress topic.
        topic: String,
        /// What the topics hold.
        bound: Bound,
    },
    /// The server has removed WAL that the slot still needed.
    #[error("slot `{slot}` is lost: the server removed WAL that it still needed (max_slot_wal_keep_size)")]
    SlotInvalidated {
        /// The slot.
        slot: String,
    },
    /// The slot begins after what the topics hold: it was made anew, or Kafka lost its newest records.
    #[error(
        "slot `{slot}` goes on from {slot_bound}, but topic `{topic}` holds progress only up to {bound}: \
         the slot was made anew, or Kafka lost records"
    )]
    Gap {
        /// The slot.
        slot: String,
        /// Where the slot goes on.
        slot_bound: Bound,
        /// The progress topic.
        topic: String,
        /// What the topics hold.
        bound: Bound,
    },
    /// The progress was made from another server.
    #[error("topic `{topic}` holds progress of system {published}, but the source is system {source_system}")]
    OtherSystem {
        /// The progress topic.
        topic: String,
        /// System identifier in the progress.
        published: String,
        /// System identifier of the source.
        source_system: String,
    },
}

impl Lost {
    /// Returns what the operator can do.
    #[must_use]
    pub fn choices(&self, prefix: &str) -> String {
        let anew = format!(
            "to begin anew with a snapshot, stop all roles, delete the topics `{prefix}.*`, drop the slot, empty the cache and \
             the table highwater.audit_progress, which speak of the old topics, then start"
        );
        match self {
            Self::OtherSystem { .. } => format!("point [source] at the right server; or, {anew}"),
            Self::SlotMissing { .. } | Self::SlotInvalidated { .. } | Self::Gap { .. } => {
                format!("changes between the two are not in the topics; {anew}")
            }
        }
    }
}

/// What the server says of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// There is none of that name.
    Missing,
    /// The server removed WAL that it needs.
    Invalidated,
    /// It goes on from here.
    At(Bound),
}

/// Decides how to start. Pure, so that every pair of states can be tested.
///
/// # Errors
/// The two do not fit together.
pub fn decide_start(
    slot_name: &str,
    server: &str,
    topic: &str,
    system: &str,
    slot: SlotState,
    progress: Option<Progress>,
) -> Result<Start, Lost> {
    let Some(progress) = progress else {
        return match slot {
            SlotState::Missing => Ok(Start::Fresh),
            SlotState::Invalidated => Err(Lost::SlotInvalidated { slot: slot_name.to_owned() }),
            SlotState::At(bound) => Ok(Start::AtSlot(bound)),
        };
    };
    if progress.system != system {
        return Err(Lost::OtherSystem {
            topic: topic.to_owned(),
            published: progress.system,
            source_system: system.to_owned(),
        });
    }
    match slot {
        SlotState::Missing => Err(Lost::SlotMissing {
            slot: slot_name.to_owned(),
            server: server.to_owned(),
            topic: topic.to_owned(),
            bound: progress.bound,
        }),
        SlotState::Invalidated => Err(Lost::SlotInvalidated { slot: slot_name.to_owned() }),
        SlotState::At(slot_bound) if slot_bound > progress.bound => {
            Err(Lost::Gap { slot: slot_name.to_owned(), slot_bound, topic: topic.to_owned(), bound: progress.bound })
        }
        SlotState::At(_) => Ok(Start::Resume(progress)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(lsn: u64) -> Bound {
        Bound::at_lsn(1, lsn)
    }

    fn progress(lsn: u64) -> Progress {
        Progress::beginning("7".to_owned(), at(lsn), 2)
    }

    fn decide(slot: SlotState, progress: Option<Progress>) -> Result<Start, Lost> {
        decide_start("s", "db:5432", "catalog.progress", "7", slot, progress)
    }

    #[test]
    fn a_slot_behind_the_progress_resumes_and_one_past_it_is_a_gap() {
        assert_eq!(decide(SlotState::At(at(9)), Some(progress(10))), Ok(Start::Resume(progress(10))));
        assert_eq!(decide(SlotState::At(at(10)), Some(progress(10))), Ok(Start::Resume(progress(10))));
        assert!(matches!(decide(SlotState::At(at(11)), Some(progress(10))), Err(Lost::Gap { .. })));
    }

    #[test]
    fn a_missing_slot_is_made_only_where_the_topics_hold_nothing() {
        assert_eq!(decide(SlotState::Missing, None), Ok(Start::Fresh));
        assert!(matches!(decide(SlotState::Missing, Some(progress(10))), Err(Lost::SlotMissing { .. })));
        assert_eq!(decide(SlotState::At(at(5)), None), Ok(Start::AtSlot(at(5))));
    }

    #[test]
    fn progress_of_another_server_is_refused() {
        let mut other = progress(10);
        other.system = "8".to_owned();
        assert!(matches!(decide(SlotState::At(at(10)), Some(other)), Err(Lost::OtherSystem { .. })));
    }

    #[test]
    fn a_transaction_that_starts_at_the_bound_is_not_covered() {
        assert!(progress(10).covers(1, 9));
        assert!(!progress(10).covers(1, 10));
    }

    #[test]
    fn a_bound_never_goes_back() {
        let mut progress = progress(10);
        progress.reach(at(7));
        assert_eq!(progress.bound, at(10));
    }
}
