//! Which timeline owns a place of the log, said only where it is certain.
//!
//! A primary keeps its timeline for as long as it runs, and its walsenders end with it. A standby changes its own under a
//! walsender that goes on as if nothing had happened: when it follows a server that was promoted, or is promoted itself.
//! Nothing in the stream says so, and what stands behind the switch is of the new timeline.

use std::time::Duration;

use highwater_postgres::replication::Timelines;
use highwater_postgres::{Connection, Lsn};

use super::error::Error;

/// The branch of the log that a session reads.
pub(super) struct Branch {
    timelines: Timelines,
    /// Where the log comes from a standby.
    standby: Option<Standby>,
}

struct Standby {
    /// For questions beside the stream; of the replication kind.
    connection: Connection,
    /// Up to here the standby had replayed when it was seen on its timeline.
    certain: Lsn,
    timeout: Duration,
}

impl Branch {
    /// The log of a primary.
    pub(super) fn of_primary(timelines: Timelines) -> Self {
        Self { timelines, standby: None }
    }

    /// The log as this standby has it; `timeout` is for each answer.
    pub(super) fn of_standby(timelines: Timelines, connection: Connection, timeout: Duration) -> Self {
        Self { timelines, standby: Some(Standby { connection, certain: Lsn::ZERO, timeout }) }
    }

    /// Returns the timeline that owns a place that the stream has reached.
    ///
    /// # Errors
    /// The standby left the timeline, or does not answer.
    pub(super) fn timeline_of(&mut self, lsn: Lsn) -> Result<u32, Error> {
        if let Some(standby) = self.standby.as_mut().filter(|standby| standby.certain < lsn) {
            standby.see_on(self.timelines.current(), lsn)?;
        }
        Ok(self.timelines.timeline_of(lsn))
    }
}

impl Standby {
    /// Makes sure that everything up to `lsn`, which was streamed and so was replayed, is of this timeline or an older one.
    fn see_on(&mut self, timeline: u32, lsn: Lsn) -> Result<(), Error> {
        // How far it is before where it is: the other way round, a switch in between would count as the old timeline's.
        let replayed = self.connection.replayed(self.timeout)?;
        let now = self.connection.identify_system(self.timeout)?.timeline;
        if now != timeline {
            let address = self.connection.address();
            let left =
                format!("{address} went over from timeline {timeline} to {now}: a promotion was followed or made");
            return Err(Error::NotOneLog(left));
        }
        self.certain = replayed.map_or(lsn, |replayed| replayed.max(lsn));
        Ok(())
    }
}
