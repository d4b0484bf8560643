//! The log read from a standby, while the primary is asked what is visible: both must be on one branch of the log.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::Duration;

use highwater_postgres::replication::{CreatedSlot, SlotOptions, SystemIdentity, Timelines};
use highwater_postgres::{Connection, Session as Kind, quote};
use tracing::warn;

use super::branch::Branch;
use super::error::Error;
use super::session::{Plan, config_of};

/// The first version that decodes its log on a standby.
const OLDEST: u32 = 160_000;
/// Between two snapshots of running transactions that a new slot on a standby waits for; it may need several.
const URGE_EVERY: Duration = Duration::from_millis(200);

/// What a primary says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Primary {
    /// The cluster, the same on all its standbys.
    pub system_identifier: u64,
    /// The timeline that it writes.
    pub timeline: u32,
}

impl Plan<'_> {
    /// Makes sure that the log is the primary's own, or that of a standby on its timeline.
    ///
    /// # Errors
    /// A standby that is too old, of another cluster, or on another timeline, which may pass.
    pub(super) fn branch(
        &self,
        system: &SystemIdentity,
        timelines: Timelines,
        primary: &mut Connection,
    ) -> Result<Branch, Error> {
        let timeout = self.settings.answer_timeout;
        let Some(server) = &self.source.standby else { return Ok(Branch::of_primary(timelines)) };
        let mut standby = Connection::connect(&config_of(server)?, Kind::Replication)?;
        let (of_standby, of_primary) = (standby.address().to_owned(), primary.address().to_owned());
        let Primary { system_identifier, timeline } = identify_primary(primary, timeout)?;
        if system_identifier != system.system_identifier {
            return Err(Error::Setup(format!(
                "{of_standby} is no standby of {of_primary}: it is of another cluster; correct [source] standby or database"
            )));
        }
        if timeline != timelines.current() {
            return Err(Error::NotOneLog(format!(
                "{of_standby} is on timeline {}, and the primary {of_primary} on {timeline}: waiting until one follows the other; \
                 [source] database must lead to the primary of the standby's timeline",
                timelines.current()
            )));
        }
        if standby.in_recovery(timeout)? {
            if standby.server_version() < OLDEST {
                let old = "reads no log for others before PostgreSQL 16; remove [source] standby";
                return Err(Error::Setup(format!("{of_standby} is a standby of an old version, which {old}")));
            }
            return Ok(Branch::of_standby(timelines, standby, timeout));
        }
        if started(&mut standby, timeout)? == started(primary, timeout)? {
            // It was promoted, and `database` leads to it: it is the primary now.
            return Ok(Branch::of_primary(timelines));
        }
        Err(Error::NotOneLog(format!(
            "{of_standby} is no standby any more, and {of_primary} is another primary: point [source] database at the one that \
             has the shop, and standby at a standby of it"
        )))
    }

    /// Makes the slot where the log is read.
    pub(super) fn make_slot(
        &self,
        replication: &mut Connection,
        primary: &mut Connection,
    ) -> Result<CreatedSlot, Error> {
        let timeout = self.settings.answer_timeout;
        // A slot that a standby made itself cannot be one that is handed on to standbys.
        let on_standby = replication.in_recovery(timeout)?;
        let options = SlotOptions { temporary: false, failover: !on_standby };
        if !on_standby {
            return Ok(replication.create_slot(&self.source.slot, options, timeout)?);
        }
        std::thread::scope(|scope| {
            let (made, is_made) = mpsc::channel();
            scope.spawn(move || urge(primary, &is_made, timeout));
            let slot = replication.create_slot(&self.source.slot, options, timeout);
            drop(made);
            Ok(slot?)
        })
    }
}

/// Asks a primary who it is, over a connection that ends with the server and so with the timeline.
pub(super) fn identify_primary(
    primary: &mut Connection,
    timeout: Duration,
) -> Result<Primary, highwater_postgres::Error> {
    const IDENTIFY: &str = "SELECT system_identifier, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline \
                            FROM pg_control_system()";
    let rows = primary.simple_query(IDENTIFY, timeout)?;
    let system_identifier = rows.value(0, "system_identifier").and_then(|digits| digits.parse().ok());
    let timeline = rows.value(0, "timeline").and_then(|digits| u32::from_str_radix(digits, 16).ok());
    let unexpected =
        || highwater_postgres::Error::Protocol(format!("the primary identified itself as {:?}", rows.rows));
    let (system_identifier, timeline) = system_identifier.zip(timeline).ok_or_else(unexpected)?;
    Ok(Primary { system_identifier, timeline })
}

/// Returns when a server was started: two connections with one answer are to one server.
fn started(connection: &mut Connection, timeout: Duration) -> Result<String, Error> {
    let rows = connection.simple_query("SELECT extract(epoch FROM pg_postmaster_start_time())", timeout)?;
    Ok(rows.single()?.to_owned())
}

/// Has the primary log its running transactions, which a new slot on a standby waits for, until it is made. By itself an idle
/// primary does not.
fn urge(primary: &mut Connection, is_made: &Receiver<()>, timeout: Duration) {
    loop {
        if let Err(error) = primary.simple_query("SELECT pg_log_standby_snapshot()", timeout) {
            let role = primary.simple_query("SELECT current_user", timeout);
            let role = role.ok().and_then(|rows| rows.single().ok().map(quote::identifier)).unwrap_or_default();
            warn!(
                %error,
                mend = format!("on the primary: GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO {role}"),
                "a new slot on a standby waits until the primary logs its running transactions, and cannot be hurried"
            );
            return;
        }
        if is_made.recv_timeout(URGE_EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
