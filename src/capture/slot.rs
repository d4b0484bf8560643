//! Where the slot stands: as its server tells it, against the end of the primary's log. A standby that is cut off has read all
//! that it has, and would call itself up to date.

use std::time::Duration;

use highwater_postgres::{Error, Lsn, client};
use tokio_postgres::Client;

use crate::config::{Server, Source};

/// As far as it is handed out to readers: what is not on the server's disk yet is for nobody.
const END: &str = "
    SELECT (CASE WHEN pg_is_in_recovery() THEN pg_last_wal_replay_lsn() ELSE pg_current_wal_flush_lsn() END)::text";

const SLOT: &str = "
    SELECT active, confirmed_flush_lsn::text, greatest(pg_wal_lsn_diff($2::text::pg_lsn, confirmed_flush_lsn), 0)::bigint,
           greatest(pg_wal_lsn_diff($2::text::pg_lsn, restart_lsn), 0)::bigint, safe_wal_size, wal_status
    FROM pg_replication_slots WHERE slot_name = $1";

/// Where a slot stands.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotStanding {
    /// Whether a capture reads it.
    pub active: bool,
    /// Up to where the log is acknowledged: PostgreSQL's text of an LSN.
    pub confirmed: Option<String>,
    /// Bytes of log between that and the primary's newest.
    pub behind_bytes: Option<i64>,
    /// Bytes of log that are kept for it.
    pub retained_bytes: Option<i64>,
    /// Bytes of log that may still be written before it can be lost; none without `max_slot_wal_keep_size`.
    pub safe_bytes: Option<i64>,
    /// `reserved`, `extended`, `unreserved` or `lost` (manual: `pg_replication_slots`).
    pub wal: Option<String>,
}

/// Whom to ask where the slot stands.
pub struct SlotServers {
    primary: Client,
    /// Where the log is read from a standby, which has the slot.
    standby: Option<Client>,
}

impl SlotServers {
    /// Connects, under a name that the servers show.
    ///
    /// # Errors
    /// A URL that the connector does not know, or what a server says.
    pub async fn connect(source: &Source, application_name: &str, timeout: Duration) -> Result<Self, Error> {
        let connect = async |server: &Server| {
            let config = server.postgres(application_name)?;
            client::connect(&config.with_connect_timeout(timeout).with_statement_timeout(timeout)).await
        };
        let standby = match &source.standby {
            Some(standby) => Some(connect(standby).await?),
            None => None,
        };
        Ok(Self { primary: connect(&source.database).await?, standby })
    }

    /// Asks where the slot stands; none if there is none of that name.
    ///
    /// # Errors
    /// What a server says.
    pub async fn ask(&self, slot: &str) -> Result<Option<SlotStanding>, tokio_postgres::Error> {
        self.standing(slot, self.end().await?).await
    }

    /// Asks where the primary's log ends.
    pub(super) async fn end(&self) -> Result<Option<Lsn>, tokio_postgres::Error> {
        let end: Option<String> = self.primary.query_one(END, &[]).await?.get(0);
        Ok(end.and_then(|end| end.parse().ok()))
    }

    /// Asks where the slot stands against the end of the log.
    pub(super) async fn standing(
        &self,
        slot: &str,
        end: Option<Lsn>,
    ) -> Result<Option<SlotStanding>, tokio_postgres::Error> {
        let end = end.map(|end| end.to_string());
        let row = self.standby.as_ref().unwrap_or(&self.primary).query_opt(SLOT, &[&slot, &end]).await?;
        Ok(row.map(|row| SlotStanding {
            active: row.get(0),
            confirmed: row.get(1),
            behind_bytes: row.get(2),
            retained_bytes: row.get(3),
            safe_bytes: row.get(4),
            wal: row.get(5),
        }))
    }
}
