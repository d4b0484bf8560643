//! The progress record: what stands in the topics, committed in the same Kafka transaction as the events it speaks of.

use std::collections::BTreeMap;

use highwater_postgres::replication::Timelines;
use serde::{Deserialize, Serialize};

use crate::events::draft::Topic;
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
    /// Where each partition ends at least, by the topic's suffix: where it ended when a session began, and what came since.
    #[serde(default)]
    pub ends: Ends,
    /// How many marks were made: distinguishes those of one partition with one bound.
    pub marks: u64,
    /// Whether some of it may stand ahead of what the primary shows: `visible_first` is off, or was not long ago.
    #[serde(default)]
    pub ahead: bool,
    /// How far the snapshot is.
    pub snapshot: Ledger,
}

/// Offsets behind the last record, by the topic's suffix and the partition.
pub type Ends = BTreeMap<String, Vec<u64>>;

/// A partition that ends before what was committed to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Shorter {
    /// The topic's suffix.
    pub suffix: String,
    /// The partition.
    pub partition: usize,
    /// Where it ends.
    pub end: u64,
    /// Where it has to end at least.
    pub expected: u64,
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
    /// A number for the columns that it had when it was read, or when the log announced it last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shape: Option<u32>,
    /// Why it is read, if it was read before.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub again: Option<Again>,
}

/// A table that is read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Again {
    /// What the topics hold of it from before this bound, and was not published since, has vanished.
    pub since: Bound,
    /// Whether what the topics hold is right all the same, but for what somebody wants to have read again.
    pub stands: bool,
    /// Changes and rows of it that went to the dead letters since.
    #[serde(default)]
    pub refused: u64,
    /// From where on it has to be read once more.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub moved: Option<Bound>,
}

impl TableSnapshot {
    /// Whether every row of the table stands in the topics.
    #[must_use]
    pub fn stands(&self) -> bool {
        self.complete || self.again.as_ref().is_some_and(|again| again.stands)
    }

    /// Begins the table anew, at this bound of the log. `gap`: changes before it are not in the topics.
    pub fn read_again(&mut self, since: Bound, gap: bool) {
        let stands = self.stands() && !gap;
        *self = Self { again: Some(Again { since, stands, refused: 0, moved: None }), ..Self::default() };
    }
}

impl Progress {
    /// Returns the progress of a capture that begins at `bound` with nothing published.
    #[must_use]
    pub fn beginning(system: String, bound: Bound, partitions: u32) -> Self {
        let empty = vec![0; partitions as usize];
        let counts = Family::ALL.iter().map(|family| (family.topic_suffix().to_owned(), empty.clone()));
        let (counts, ends) = (counts.collect(), Ends::new());
        Self { system, bound, counts, ends, marks: 0, ahead: false, snapshot: Ledger::default() }
    }

    /// Whether a transaction that commits at `commit_lsn` stands in the topics already.
    #[must_use]
    pub fn covers(&self, timeline: u32, commit_lsn: u64) -> bool {
        Bound::at_lsn(timeline, commit_lsn) < self.bound
    }

    /// Returns where the server's own log begins to differ from what was published: past a promotion of a standby that did not
    /// have it all. What was published from there on happened on no server that is left.
    #[must_use]
    pub fn phantoms(&self, timelines: &Timelines) -> Option<Bound> {
        let published = self.bound.timeline();
        let ended = timelines.switches().iter().find(|switch| switch.timeline >= published)?.until;
        (self.bound.lsn() > ended.0).then(|| Bound::at_lsn(timelines.timeline_of(ended), ended.0))
    }

    /// Moves the bound up; it never goes back, though keepalives do after a reconnect.
    pub fn reach(&mut self, bound: Bound) {
        self.bound = self.bound.max(bound);
    }

    /// Returns a partition that ends before what was committed to it: somebody deleted its topic, or Kafka lost records.
    #[must_use]
    pub fn shorter(&self, ends: &Ends) -> Option<Shorter> {
        self.ends.iter().find_map(|(suffix, expected)| {
            let end = |partition: usize| ends.get(suffix).and_then(|ends| ends.get(partition)).copied().unwrap_or(0);
            let (partition, &expected) = expected.iter().enumerate().find(|&(at, &expected)| end(at) < expected)?;
            Some(Shorter { suffix: suffix.clone(), partition, end: end(partition), expected })
        })
    }

    /// Takes note of records that were sent to the partitions of a topic, so many to each.
    pub fn sent(&mut self, topic: Topic, records: &[u64]) {
        let ends = self.ends.get_mut(topic.suffix()).into_iter().flatten();
        ends.zip(records).for_each(|(end, records)| *end += records);
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

#[cfg(test)]
pub(super) mod tests {
    use super::*;

    pub(in super::super) fn at(lsn: u64) -> Bound {
        Bound::at_lsn(1, lsn)
    }

    pub(in super::super) fn progress(lsn: u64) -> Progress {
        Progress::beginning("7".to_owned(), at(lsn), 2)
    }

    #[test]
    fn what_was_published_at_or_past_a_promotion_is_a_phantom_and_only_that() {
        let timelines = Timelines::parse(2, "1\t0/10\tno recovery target specified").expect("a history");
        assert_eq!(progress(0x10).phantoms(&timelines), None, "nothing at the switch itself is published");
        assert_eq!(progress(0x11).phantoms(&timelines), Some(Bound::at_lsn(2, 0x10)));
        let mut newer = progress(0x11);
        newer.bound = Bound::at_lsn(2, 0x11);
        assert_eq!(newer.phantoms(&timelines), None);
    }

    #[test]
    fn a_table_that_is_read_again_stands_unless_changes_of_it_are_missing() {
        let mut table = TableSnapshot { complete: true, rows: 5, ..TableSnapshot::default() };
        table.read_again(at(7), false);
        assert!(table.stands() && !table.complete && table.rows == 0);
        table.read_again(at(8), true);
        assert!(!table.stands());
        table.read_again(at(9), false);
        assert!(!table.stands(), "what is missing is missing until the table is read");
    }

    #[test]
    fn a_partition_that_is_shorter_than_what_was_committed_to_it_is_found() {
        let (stock, history) = (Topic::State(Family::Stock), Topic::History);
        let mut progress = progress(10);
        assert_eq!(progress.shorter(&Ends::new()), None, "of an older version: nothing is known");
        let ends = |stock: [u64; 2], history| {
            Ends::from([("stock".to_owned(), stock.to_vec()), ("history".to_owned(), vec![history])])
        };
        progress.ends = ends([4, 7], 2);
        progress.sent(stock, &[0, 1]);
        progress.sent(history, &[1]);
        assert_eq!(progress.shorter(&ends([4, 8], 3)), None);
        assert_eq!(progress.shorter(&ends([9, 9], 9)), None, "control records take offsets, too");
        let shorter = Shorter { suffix: "stock".to_owned(), partition: 1, end: 7, expected: 8 };
        assert_eq!(progress.shorter(&ends([4, 7], 3)), Some(shorter));
        assert!(progress.shorter(&ends([4, 8], 2)).is_some_and(|shorter| shorter.suffix == "history"));
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
