//! Replication slots: what keeps the log until it was read.

use std::time::Duration;

use crate::connection::Connection;
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::quote;

/// How a slot is made.
#[derive(Copy, Clone, Debug, Default, PartialEq, Eq)]
pub struct SlotOptions {
    /// Gone with the session that made it.
    pub temporary: bool,
    /// Kept on standbys too, so that it survives a promotion; `PostgreSQL` 17 and newer, passed over before.
    pub failover: bool,
}

/// What a new slot starts from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// The slot's name.
    pub name: String,
    /// Every transaction that commits at or after this place is streamed, and none before.
    pub consistent_point: Lsn,
}

/// What a slot is read with.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum SlotKind {
    /// Decoded changes.
    Logical,
    /// The log itself.
    Physical,
}

/// Whether the log that a slot needs is still there (manual: `pg_replication_slots`).
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// All of it, within `max_wal_size`.
    Reserved,
    /// All of it, beyond that.
    Extended,
    /// Some is about to go at the next checkpoint.
    Unreserved,
    /// Some has gone: the slot cannot be read any more.
    Lost,
}

/// A row of `pg_replication_slots`.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(clippy::struct_excessive_bools, reason = "the view's own columns")]
pub struct SlotState {
    /// The slot's name.
    pub name: String,
    /// What it is read with.
    pub kind: SlotKind,
    /// What decodes it; none for a physical slot.
    pub plugin: Option<String>,
    /// The one database whose changes it has; none for a physical slot.
    pub database: Option<String>,
    /// Gone with the session that made it.
    pub temporary: bool,
    /// The server process that is reading it.
    pub active_pid: Option<i32>,
    /// The oldest part of the log that it keeps; none once that was lost.
    pub restart_lsn: Option<Lsn>,
    /// What was acknowledged: transactions whose commit ends at or before it are not streamed again.
    pub confirmed_flush: Option<Lsn>,
    /// Whether what it needs is there; none for one that has kept nothing yet.
    pub wal_status: Option<WalStatus>,
    /// Bytes of log that may still be written before it can be lost; none without `max_slot_wal_keep_size`.
    pub safe_wal_size: Option<i64>,
    /// Whether it decodes prepared transactions.
    pub two_phase: bool,
    /// Whether it is kept on standbys too; `PostgreSQL` 17 and newer.
    pub failover: bool,
    /// Whether it is such a copy on a standby; `PostgreSQL` 17 and newer.
    pub synced: bool,
    /// Why it cannot be read any more, as `PostgreSQL` 17 and newer have it; 16 tells `wal_removed` from the rest, which
    /// is `rows_removed` here.
    pub invalidation: Option<String>,
}

impl Connection {
    /// Makes a logical slot for pgoutput. The server waits for transactions that are in progress to end.
    ///
    /// No snapshot is exported: it could call a transaction committed before the server shows it.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`]; SQLSTATE 42710 if the slot exists, 53400 if `max_replication_slots` are used.
    pub fn create_slot(&mut self, name: &str, options: SlotOptions, timeout: Duration) -> Result<CreatedSlot> {
        let temporary = if options.temporary { " TEMPORARY" } else { "" };
        let wanted = match (self.server_version(), options.failover) {
            (170_000.., true) => "(SNAPSHOT 'nothing', FAILOVER)",
            (150_000.., _) => "(SNAPSHOT 'nothing')",
            _ => "NOEXPORT_SNAPSHOT",
        };
        let command =
            format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {wanted}", quote::identifier(name));
        let rows = self.simple_query(&command, timeout)?;
        let point = rows.value(0, "consistent_point").and_then(|text| text.parse().ok());
        match point {
            Some(consistent_point) => Ok(CreatedSlot { name: name.to_owned(), consistent_point }),
            None => Err(Error::Protocol("a new slot without its consistent point".to_owned())),
        }
    }

    /// Removes a slot; with `wait`, once whoever reads it has stopped.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`]; SQLSTATE 42704 if there is none, 55006 if it is being read.
    pub fn drop_slot(&mut self, name: &str, wait: bool, timeout: Duration) -> Result<()> {
        let wait = if wait { " WAIT" } else { "" };
        self.simple_query(&format!("DROP_REPLICATION_SLOT {}{wait}", quote::identifier(name)), timeout).map(drop)
    }

    /// Asks for the state of a slot; works in either kind of session.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn slot(&mut self, name: &str, timeout: Duration) -> Result<Option<SlotState>> {
        let rows = self.simple_query(&inspection(self.server_version(), name), timeout)?;
        if rows.rows.is_empty() {
            return Ok(None);
        }
        let text = |column: &str| rows.value(0, column).map(ToOwned::to_owned);
        let flag = |column: &str| rows.value(0, column) == Some("t");
        let lsn = |column: &str| rows.value(0, column).and_then(|text| text.parse().ok());
        Ok(Some(SlotState {
            name: name.to_owned(),
            kind: if rows.value(0, "slot_type") == Some("logical") { SlotKind::Logical } else { SlotKind::Physical },
            plugin: text("plugin"),
            database: text("database"),
            temporary: flag("temporary"),
            active_pid: rows.value(0, "active_pid").and_then(|pid| pid.parse().ok()),
            restart_lsn: lsn("restart_lsn"),
            confirmed_flush: lsn("confirmed_flush_lsn"),
            wal_status: rows.value(0, "wal_status").and_then(wal_status),
            safe_wal_size: rows.value(0, "safe_wal_size").and_then(|size| size.parse().ok()),
            two_phase: flag("two_phase"),
            failover: flag("failover"),
            synced: flag("synced"),
            invalidation: text("invalidation"),
        }))
    }
}

fn inspection(version: u32, name: &str) -> String {
    let invalidation = match version {
        170_000.. => "failover, synced, invalidation_reason AS invalidation",
        // Conflicting is what was invalidated for any reason; only removed log takes the place away (ReplicationSlotInvalidate).
        160_000.. => {
            "false AS failover, false AS synced, CASE WHEN NOT conflicting THEN NULL \
             WHEN restart_lsn IS NULL THEN 'wal_removed' ELSE 'rows_removed' END AS invalidation"
        }
        _ => "false AS failover, false AS synced, NULL AS invalidation",
    };
    let two_phase = if version >= 140_000 { "two_phase" } else { "false AS two_phase" };
    format!(
        "SELECT slot_type, plugin, database, temporary, active_pid, restart_lsn, confirmed_flush_lsn, wal_status, \
         safe_wal_size, {two_phase}, {invalidation} FROM pg_catalog.pg_replication_slots WHERE slot_name = {}",
        quote::literal(name)
    )
}

fn wal_status(text: &str) -> Option<WalStatus> {
    match text {
        "reserved" => Some(WalStatus::Reserved),
        "extended" => Some(WalStatus::Extended),
        "unreserved" => Some(WalStatus::Unreserved),
        "lost" => Some(WalStatus::Lost),
        _ => None,
    }
}
