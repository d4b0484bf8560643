//! Visible first: a commit is published only when the primary shows it.
//!
//! A commit can be in the log, streamed, and shown by a replica, while the primary itself still shows the old row: it
//! waits for a synchronous standby, or is just slow. Whoever reads the primary on an event must find the row.

use std::time::Duration;

use highwater_postgres::visibility::{Snapshot, widen};
use highwater_postgres::{Connection, Error};

/// What the primary is known to show.
#[derive(Debug, Default)]
pub(super) struct Visibility {
    newest: Option<Snapshot>,
}

impl Visibility {
    /// Tells whether the transaction is finished for everybody who reads the primary from now on.
    ///
    /// Asks the primary only about a transaction that the newest answer does not settle.
    pub(super) fn finished(&mut self, primary: &mut Connection, xid: u32, timeout: Duration) -> Result<bool, Error> {
        let settled = |snapshot: &Snapshot| snapshot.finished(widen(xid, snapshot.xmax()));
        if self.newest.as_ref().is_some_and(settled) {
            return Ok(true);
        }
        let snapshot = primary.current_snapshot(timeout)?;
        let finished = settled(&snapshot);
        self.newest = Some(snapshot);
        Ok(finished)
    }
}
