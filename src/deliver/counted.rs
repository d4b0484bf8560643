//! Whether all events arrived: marks count them, and a reader counts along.

use std::fmt;

use crate::position::Bound;

/// Counts the live events between two marks of a partition.
#[derive(Clone, Debug, Default)]
pub struct Counted {
    since: Option<(Bound, u64)>,
    read: u64,
}

/// The marks and the reader disagree.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Gap {
    /// The mark that the count began at.
    pub from: Bound,
    /// The mark that it ended at.
    pub to: Bound,
    /// How many live events capture counted between them.
    pub counted: i128,
    /// How many were read.
    pub read: u64,
}

impl fmt::Display for Gap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "between the marks {} and {} stand {} events, {} were read",
            self.from, self.to, self.counted, self.read
        )
    }
}

impl Counted {
    /// Notes a live event (no snapshot row, no tombstone) that was let through.
    pub fn event(&mut self) {
        self.read += 1;
    }

    /// Compares with a mark's count. `whole` says that the log still holds all since the mark before: compaction takes
    /// events away, and then nothing can be said.
    pub fn mark(&mut self, bound: Bound, count: u64, whole: bool) -> Option<Gap> {
        let read = std::mem::take(&mut self.read);
        let (from, before) = self.since.replace((bound, count))?;
        let counted = i128::from(count) - i128::from(before);
        (whole && counted != i128::from(read)).then_some(Gap { from, to: bound, counted, read })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn at(lsn: u64) -> Bound {
        Bound::at_lsn(1, lsn)
    }

    proptest! {
        #[test]
        fn a_lost_event_is_named_at_the_next_mark_and_only_there(
            runs in prop::collection::vec(0_u64..6, 2..20), lost_in in any::<prop::sample::Index>(), start in 0_u64..1000,
        ) {
            let lost_in = lost_in.index(runs.len());
            let mut counted = Counted::default();
            prop_assert_eq!(counted.mark(at(0), start, true), None);
            let mut total = start;
            for (i, &run) in runs.iter().enumerate() {
                let lost = u64::from(i == lost_in && run > 0);
                for _ in 0..run - lost {
                    counted.event();
                }
                total += run;
                let gap = counted.mark(at(i as u64 + 1), total, true);
                prop_assert_eq!(gap.map(|gap| (gap.counted, gap.read)), (lost > 0).then_some((i128::from(run), run - lost)));
            }
        }
    }

    #[test]
    fn nothing_is_said_before_the_second_mark_nor_of_what_compaction_took() {
        let mut counted = Counted::default();
        counted.event();
        assert_eq!(counted.mark(at(1), 40, true), None);
        assert_eq!(counted.mark(at(2), 50, false), None);
        assert_eq!(counted.mark(at(3), 50, true), None);
        counted.event();
        assert_eq!(counted.mark(at(4), 50, true).map(|gap| (gap.counted, gap.read)), Some((0, 1)));
    }
}
