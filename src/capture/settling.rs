//! Transactions that are under way at some moment: in the log they may have committed already, and been published, without
//! being visible yet.

use std::time::Duration;

use highwater_postgres::{Connection, Error};

/// Waits until they are over.
#[derive(Debug, Clone, Copy)]
pub(super) enum Settling {
    /// Nobody has asked which there are.
    Unasked,
    /// All below this one have to be over.
    Until(u64),
    Over,
}

impl Settling {
    /// Whether all of them are over; asks the primary as long as they are not.
    pub(super) fn is_over(&mut self, primary: &mut Connection, timeout: Duration) -> Result<bool, Error> {
        if matches!(self, Self::Over) {
            return Ok(true);
        }
        // Not the end of a snapshot: the newest transactions may be under way beyond it.
        let wanted = if let Self::Until(wanted) = self { *wanted } else { primary.next_transaction_id(timeout)? };
        let over = primary.current_snapshot(timeout)?.xmin() >= wanted;
        *self = if over { Self::Over } else { Self::Until(wanted) };
        Ok(over)
    }
}
