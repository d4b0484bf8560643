//! A change that the worker passed by, appended afterwards. The log's order is by Position, not by when a row came, so
//! that a late row stands where it belongs.

use std::collections::BTreeSet;

use highwater_postgres::{Error, client};

use super::row::AuditRow;
use super::settings::Settings;
use super::sink::{Log, Place};
use super::worker::within;

/// Appends one row beside the worker, whose progress stays; returns whether it is new.
///
/// # Errors
/// What the database says; then the row is not there, or, where the connection was lost, may be: it can be tried again.
pub async fn append_late(settings: &Settings, place: Place, row: AuditRow) -> Result<bool, Error> {
    let days: BTreeSet<String> = row.changed_at.get(..10).map(str::to_owned).into_iter().collect();
    let append = async {
        let mut log = Log::open(client::connect(&settings.connect_config()?).await?, place).await?;
        log.make_days(&days).await?;
        Ok(log.append_late(&[row]).await? > 0)
    };
    within(settings.answer_timeout, append).await
}
