//! Logical replication: slots, timelines, the stream (manual: Streaming Replication Protocol).

mod pace;
mod slot;
mod stream;
mod timeline;

use std::time::Duration;

pub use slot::{CreatedSlot, SlotKind, SlotOptions, SlotState, WalStatus};
pub use stream::{Frame, ReplicationStream, StartOptions, Status, Streaming};
pub use timeline::{Switch, Timelines};

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::lsn::Lsn;

/// What `IDENTIFY_SYSTEM` says.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster, the same on all its standbys.
    pub system_identifier: u64,
    /// The timeline that the server is on now. A commit's own may be older: see [`Timelines::timeline_of`].
    pub timeline: u32,
    /// How far the log is on disk; on a standby, how far it was received or replayed.
    pub flushed: Lsn,
    /// The database of the session.
    pub database: Option<String>,
}

impl Connection {
    /// Asks which cluster this is, and on which timeline.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn identify_system(&mut self, timeout: Duration) -> Result<SystemIdentity> {
        let rows = self.simple_query("IDENTIFY_SYSTEM", timeout)?;
        let field = |name: &str| rows.value(0, name);
        let identity = (|| {
            Some(SystemIdentity {
                system_identifier: field("systemid")?.parse().ok()?,
                timeline: field("timeline")?.parse().ok()?,
                flushed: field("xlogpos")?.parse().ok()?,
                database: field("dbname").map(ToOwned::to_owned),
            })
        })();
        identity.ok_or_else(|| Error::Protocol(format!("the answer to IDENTIFY_SYSTEM: {:?}", rows.rows)))
    }
}
