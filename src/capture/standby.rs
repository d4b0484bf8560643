//! The log read from a standby, while the primary is asked what is visible: both must be on one branch of the log.

use std::sync::mpsc::{self, Receiver, RecvTimeoutError};
use std::time::{Duration, Instant};

use highwater_postgres::replication::{CreatedSlot, SlotOptions, SystemIdentity, Timelines};
use highwater_postgres::{Connection, Lsn, Session as Kind};
use tracing::warn;

use super::branch::Branch;
use super::catalogue::Catalogue;
use super::error::Error;
use super::session::{Plan, config_of};

/// The first version that decodes its log on a standby.
pub const OLDEST_STANDBY: u32 = 160_000;
/// Between two snapshots of running transactions that a new slot on a standby waits for; it may need several.
const URGE_EVERY: Duration = Duration::from_millis(200);
/// Between two looks whether a standby has caught up.
const LOOK_EVERY: Duration = Duration::from_millis(20);

/// What a primary says of itself.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Primary {
    /// The cluster, the same on all its standbys.
    pub system_identifier: u64,
    /// The timeline that it writes.
    pub timeline: u32,
    /// How far its log is on disk.
    pub flushed: Lsn,
}

impl Primary {
    /// Asks for the cluster, the timeline (eight hexadecimal digits, as in the names of the log's files), and how far; as texts.
    pub const IDENTIFY: &str = "
        SELECT system_identifier::text, left(pg_walfile_name(pg_current_wal_insert_lsn()), 8) AS timeline,
               pg_current_wal_flush_lsn()::text AS flushed
        FROM pg_control_system()";

    /// Reads the answer's columns.
    ///
    /// # Errors
    /// A column that is none of these.
    pub fn parse(
        system_identifier: Option<&str>,
        timeline: Option<&str>,
        flushed: Option<&str>,
    ) -> Result<Self, highwater_postgres::Error> {
        let identity = (|| {
            Some(Self {
                system_identifier: system_identifier?.parse().ok()?,
                timeline: u32::from_str_radix(timeline?, 16).ok()?,
                flushed: flushed?.parse().ok()?,
            })
        })();
        let said = (system_identifier, timeline, flushed);
        identity
            .ok_or_else(|| highwater_postgres::Error::Protocol(format!("the primary identified itself as {said:?}")))
    }
}

impl Plan<'_> {
    /// Makes sure that the log that `replication` reads is the primary's own, or that of a standby on its timeline.
    ///
    /// # Errors
    /// A standby that is too old, of another cluster, or on another timeline, which may pass.
    pub(super) fn branch(
        &self,
        replication: &mut Connection,
        system: &SystemIdentity,
        timelines: Timelines,
        primary: &mut Connection,
    ) -> Result<Branch, Error> {
        let timeout = self.settings.answer_timeout;
        let Some(server) = &self.source.standby else {
            if started(replication, timeout)? != started(primary, timeout)? {
                let several =
                    format!("[source] database leads to {} and to {}", replication.address(), primary.address());
                return Err(Error::NotOneLog(format!("{several}, which are two servers: name one primary")));
            }
            return Ok(Branch::of_primary(timelines));
        };
        self.is_one_log(system, &timelines, replication.address(), primary)?;
        let mut standby = Connection::connect(&config_of(server)?, Kind::Replication)?;
        let address = standby.address().to_owned();
        if started(&mut standby, timeout)? != started(replication, timeout)? {
            let several = format!("[source] standby leads to several servers, {address} among them: name one of them");
            return Err(Error::NotOneLog(several));
        }
        if standby.in_recovery(timeout)? {
            self.can_be_read(&mut standby)?;
            return Ok(Branch::of_standby(timelines, standby, timeout));
        }
        if started(&mut standby, timeout)? == started(primary, timeout)? {
            // It was promoted, and `database` leads to it: it is the primary now.
            return Ok(Branch::of_primary(timelines));
        }
        Err(Error::NotOneLog(format!(
            "{address} is no standby any more, and {} is another primary: point [source] database at the one that has the shop, \
             and standby at a standby of it",
            primary.address()
        )))
    }

    /// Makes sure that both servers are on one branch of one cluster's log.
    fn is_one_log(
        &self,
        system: &SystemIdentity,
        timelines: &Timelines,
        standby: &str,
        primary: &mut Connection,
    ) -> Result<(), Error> {
        let timeout = self.settings.answer_timeout;
        let said = identify_primary(primary, timeout)?;
        let primary = primary.address();
        if said.system_identifier != system.system_identifier {
            return Err(Error::Setup(format!(
                "{standby} is no standby of {primary}: it is of another cluster; correct [source] standby or database"
            )));
        }
        let current = timelines.current();
        let mut one = said.timeline == current;
        if one && current > 1 {
            // Two servers that are promoted apart give their timelines one number.
            let mut asked = Connection::connect(&config_of(&self.source.database)?, Kind::Replication)?;
            one = asked.timelines(current, timeout)? == *timelines;
        }
        if one {
            return Ok(());
        }
        Err(Error::NotOneLog(format!(
            "{standby} is on timeline {current}, and the primary {primary} on {}{}: waiting until one follows the other; \
             [source] database must lead to the primary that the standby follows",
            said.timeline,
            if said.timeline == current { " of another history" } else { "" }
        )))
    }

    /// Refuses a standby of which no log can be read, or not by this slot.
    fn can_be_read(&self, standby: &mut Connection) -> Result<(), Error> {
        let (address, slot) = (standby.address().to_owned(), &self.source.slot);
        if standby.server_version() < OLDEST_STANDBY {
            return Err(Error::Setup(format!(
                "{address} is a standby of a PostgreSQL before 16, which decodes no log there: remove [source] standby"
            )));
        }
        if standby.slot(slot, self.settings.answer_timeout)?.is_some_and(|slot| slot.synced) {
            return Err(Error::Setup(format!(
                "slot `{slot}` on the standby {address} is a copy of the primary's failover slot, which cannot be read there: \
                 set [source] slot to a name of its own"
            )));
        }
        Ok(())
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
        if on_standby {
            catch_up(replication, primary, timeout)?;
        }
        let before = Catalogue::now(replication, timeout)?;
        let slot = std::thread::scope(|scope| {
            let (made, is_made) = mpsc::channel();
            if on_standby {
                scope.spawn(move || urge(primary, &is_made, timeout));
            }
            let slot = replication.create_slot(&self.source.slot, options, timeout);
            drop(made);
            slot.map_err(slow_slot)
        })?;
        let altered = before.altered_since(replication, timeout);
        if let Ok(None) = altered {
            return Ok(slot);
        }
        // Over a connection that works, whatever the look came to.
        self.drop_slot(&slot.name)?;
        Err(Error::AlteredMeanwhile { slot: slot.name, altered: altered?.unwrap_or_default() })
    }
}

/// Says what a slot waits for that is not made in time.
fn slow_slot(error: highwater_postgres::Error) -> highwater_postgres::Error {
    match error {
        highwater_postgres::Error::Timeout { after, .. } => {
            let waiting_for = "a new slot, which waits until all transactions are over that are under way (see \
                               pg_stat_activity.backend_xid and pg_prepared_xacts on the primary),";
            highwater_postgres::Error::Timeout { waiting_for: waiting_for.to_owned(), after }
        }
        other => other,
    }
}

/// Asks a primary who it is, over a connection that ends with the server and so with the timeline.
fn identify_primary(primary: &mut Connection, timeout: Duration) -> Result<Primary, Error> {
    let rows = primary.simple_query(Primary::IDENTIFY, timeout)?;
    let column = |name| rows.value(0, name);
    Ok(Primary::parse(column("system_identifier"), column("timeline"), column("flushed"))?)
}

/// Waits until a standby has what the primary has now: a slot that begins behind it would miss what was published, and the
/// publication too.
fn catch_up(standby: &mut Connection, primary: &mut Connection, timeout: Duration) -> Result<(), Error> {
    let (deadline, needed) = (Instant::now() + timeout, identify_primary(primary, timeout)?.flushed);
    loop {
        let replayed = standby.replayed(timeout)?;
        if replayed.is_some_and(|replayed| replayed >= needed) {
            return Ok(());
        }
        if Instant::now() > deadline {
            let (address, replayed) = (standby.address(), replayed.unwrap_or(Lsn::ZERO));
            return Err(Error::NotOneLog(format!(
                "the standby {address} has replayed up to {replayed}, the primary wrote up to {needed}: a slot is made when it has \
                 caught up"
            )));
        }
        // Nothing announces what a standby has replayed: it can only be asked for.
        std::thread::sleep(LOOK_EVERY);
    }
}

/// Returns when a server was started: two connections with one answer are to one server.
fn started(connection: &mut Connection, timeout: Duration) -> Result<String, Error> {
    let rows = connection.simple_query("SELECT extract(epoch FROM pg_postmaster_start_time())", timeout)?;
    Ok(rows.single()?.to_owned())
}

/// Has the primary log its running transactions, which a new slot on a standby waits for, until it is made. By itself an idle
/// primary does not.
fn urge(primary: &mut Connection, is_made: &Receiver<()>, timeout: Duration) {
    /// SQLSTATE `insufficient_privilege`.
    const DENIED: &str = "42501";
    loop {
        match primary.simple_query("SELECT pg_log_standby_snapshot()", timeout) {
            Ok(_) => {}
            Err(error) if error.code() == Some(DENIED) => {
                return warn!(
                    %error,
                    mend = "on the primary, as a superuser: GRANT EXECUTE ON FUNCTION pg_log_standby_snapshot() TO this role",
                    "a new slot on a standby waits until the primary logs its running transactions, and cannot be hurried"
                );
            }
            // The session sees it when it uses the connection next.
            Err(_) => return,
        }
        if is_made.recv_timeout(URGE_EVERY) != Err(RecvTimeoutError::Timeout) {
            return;
        }
    }
}
