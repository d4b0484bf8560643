//! Stamps of the tests.

use highwater_redis::Stamp;

/// A stamp at a place of the log.
pub(crate) fn stamp(lsn: u64, count: u32) -> Stamp {
    format!("00000001-{lsn:016X}-{count:08X}").parse().expect("a stamp")
}

/// The point of the commit at `lsn`.
pub(crate) fn at(lsn: u64) -> Stamp {
    stamp(lsn, 0)
}
