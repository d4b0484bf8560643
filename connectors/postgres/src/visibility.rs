//! Which transactions a session of the server can already see.
//!
//! A commit can stand in the WAL, and be streamed, before the primary itself shows it. `pg_current_snapshot()` (manual:
//! System Information Functions) says what is finished; its transaction ids have 64 bits, those of pgoutput 32.

use std::fmt;
use std::str::FromStr;

/// What `pg_current_snapshot()` said: the transactions that were in progress at one moment.
///
/// On a standby the server lists nothing as in progress, so that there [`Snapshot::finished`] says too much: ask
/// `pg_is_in_recovery()` before trusting it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Snapshot {
    xmin: u64,
    xmax: u64,
    /// Ascending, each in `xmin..xmax`.
    in_progress: Vec<u64>,
}

impl Snapshot {
    /// Returns the oldest transaction still in progress; everything below is finished.
    #[must_use]
    pub fn xmin(&self) -> u64 {
        self.xmin
    }

    /// Returns the one behind the newest transaction that is finished. Neither it nor any after it is, and some may be under
    /// way: they are not among those in progress here.
    #[must_use]
    pub fn xmax(&self) -> u64 {
        self.xmax
    }

    /// Returns whether a top-level transaction had ended, so that a reader sees its rows if it committed.
    #[must_use]
    pub fn finished(&self, xid: u64) -> bool {
        xid < self.xmin || (xid < self.xmax && self.in_progress.binary_search(&xid).is_err())
    }
}

/// A text that is no snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("`{0}` is no snapshot: expected `xmin:xmax:xid,xid,…` with ascending ids")]
pub struct ParseSnapshotError(String);

impl FromStr for Snapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        parse(text).ok_or_else(|| ParseSnapshotError(text.to_owned()))
    }
}

impl fmt::Display for Snapshot {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        for (i, xid) in self.in_progress.iter().enumerate() {
            write!(f, "{}{xid}", if i == 0 { "" } else { "," })?;
        }
        Ok(())
    }
}

fn parse(text: &str) -> Option<Snapshot> {
    let mut parts = text.split(':');
    let xmin: u64 = parts.next()?.parse().ok()?;
    let xmax: u64 = parts.next()?.parse().ok()?;
    let list = parts.next()?;
    let in_progress = match list {
        "" => Vec::new(),
        list => list.split(',').map(|xid| xid.parse().ok()).collect::<Option<Vec<u64>>>()?,
    };
    let ordered = xmin <= xmax
        && in_progress.is_sorted_by(|a, b| a < b)
        && in_progress.iter().all(|xid| (xmin..xmax).contains(xid));
    (ordered && parts.next().is_none()).then_some(Snapshot { xmin, xmax, in_progress })
}

/// Widens a transaction id of the stream to the 64 bits of a snapshot, as the one nearest to `near`.
///
/// The distance is signed, because a transaction of the stream may be older or newer than what was last asked for; the
/// server keeps all ids in use within 2³¹ of each other.
#[must_use]
pub fn widen(xid: u32, near: u64) -> u64 {
    #[expect(clippy::cast_possible_truncation, reason = "the distance is one of the low 32 bits")]
    let distance = xid.wrapping_sub(near as u32).cast_signed();
    near.checked_add_signed(i64::from(distance)).unwrap_or(u64::from(xid))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn only_what_had_ended_is_finished() {
        let snapshot: Snapshot = "10:20:10,14,15".parse().unwrap();
        let unfinished: Vec<u64> = (5..25).filter(|xid| !snapshot.finished(*xid)).collect();
        assert_eq!(unfinished, [10, 14, 15, 20, 21, 22, 23, 24]);
    }

    #[test]
    fn a_quiet_server_lists_nothing() {
        let snapshot: Snapshot = "747:747:".parse().unwrap();
        assert!(snapshot.finished(746) && !snapshot.finished(747));
        assert_eq!((snapshot.xmin(), snapshot.xmax()), (747, 747));
    }

    #[test]
    fn what_is_no_snapshot_is_refused() {
        for text in ["", "1", "1:2", "2:1:", "1:5:3,2", "1:5:9", "1:5:0", "1:5:2,2", "1:5:2,", "1:5::", "a:b:c"] {
            assert!(text.parse::<Snapshot>().is_err(), "{text:?}");
        }
    }

    #[test]
    fn an_xid_is_widened_across_a_wraparound() {
        let epoch = 1 << 32;
        assert_eq!(widen(5, epoch - 3), epoch + 5, "newer, past the wraparound");
        assert_eq!(widen(u32::MAX - 1, epoch + 7), epoch - 2, "older, before the wraparound");
        assert_eq!(widen(7, 3 * epoch + 7), 3 * epoch + 7);
        assert_eq!(widen(900, 740), 900);
    }

    #[test]
    fn an_xid_before_the_first_epoch_does_not_underflow() {
        assert_eq!(widen(u32::MAX, 5), u64::from(u32::MAX));
    }

    proptest! {
        #[test]
        fn widening_finds_the_xid_that_was_cut(near in 1_u64 << 40.. 1 << 60, distance in -0x8000_0000_i64..0x8000_0000) {
            let xid = near.checked_add_signed(distance).unwrap();
            let cut = u32::try_from(xid & 0xFFFF_FFFF).unwrap();
            prop_assert_eq!(widen(cut, near), xid);
        }

        #[test]
        fn every_snapshot_survives_its_text(xmin in 3_u64..1000, gaps in prop::collection::vec(1_u64..50, 0..20)) {
            let mut at = xmin - 1;
            let in_progress: Vec<u64> = gaps.iter().map(|gap| { at += gap; at }).collect();
            let snapshot = Snapshot { xmin, xmax: at + 2, in_progress };
            prop_assert_eq!(snapshot.to_string().parse(), Ok(snapshot));
        }
    }
}
