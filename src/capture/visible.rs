//! Visible first: a commit is published only when the primary shows it.
//!
//! A commit can be in the log, streamed, and shown by a replica, while the primary itself still shows the old row: it
//! waits for a synchronous standby, or is just slow. Whoever reads the primary on an event must find the row.
//!
//! With `visible_first = false` nobody waits, and events and marks say that they may be ahead of the primary.

use std::time::Duration;

use highwater_postgres::visibility::{Snapshot, widen};
use highwater_postgres::{Connection, Error};

use super::settling::Settling;

/// What the primary is known to show.
#[derive(Debug)]
pub(super) struct Visibility {
    newest: Option<Snapshot>,
    /// Whether commits are waited for.
    first: bool,
    /// Once they are again, what was published before has to become visible, too.
    settling: Settling,
}

impl Visibility {
    /// Begins where commits are waited for if `first`, and what was published before may be `ahead` of the primary.
    pub(super) fn new(first: bool, ahead: bool) -> Self {
        Self { newest: None, first, settling: if ahead { Settling::Unasked } else { Settling::Over } }
    }

    /// Whether anything that is published may be ahead of the primary; asks it only as long as that is about to end.
    pub(super) fn is_ahead(&mut self, primary: &mut Connection, timeout: Duration) -> Result<bool, Error> {
        Ok(!self.first || !self.settling.is_over(primary, timeout)?)
    }

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
