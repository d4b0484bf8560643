//! Commit → audit row: the log is asked again and again for what stands behind the last Position seen.
//!
//! The worker appends in the order of the Positions, so that nothing appears before that. What is measured is too long by
//! up to one pause and one query.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use tokio_postgres::Client;

use super::clock::now_us;
use super::{Shared, StockLevel};
use crate::ledger::Copy;

/// Between an answer and the next question.
const PAUSE: Duration = Duration::from_millis(10);

const NEWEST: &str = "SELECT coalesce(max(position), '') FROM data_change_logs";
const BEHIND: &str = "
    SELECT position, (extract(epoch FROM changed_at) * 1000000)::bigint, table_name = 'stock_levels',
           (new_values ->> 'part_id')::bigint, (new_values ->> 'version')::integer
    FROM data_change_logs
    WHERE position > $1 ORDER BY position LIMIT 5000";
/// Asked a hundred times a second, it must cost next to nothing: planned once, and always by the index of the Positions,
/// also while the table has no statistics yet.
const CHEAP: &str = "SET plan_cache_mode = force_generic_plan; SET enable_seqscan = off; SET enable_bitmapscan = off";

/// Returns the newest Position in the log.
pub(super) async fn open(client: &Client) -> Result<String> {
    Ok(client.query_one(NEWEST, &[]).await?.get(0))
}

/// Follows the log until the connection ends.
pub(super) async fn observe(client: Client, mut newest: String, shared: Arc<Shared>) -> Result<()> {
    client.batch_execute(CHEAP).await?;
    let behind = client.prepare(BEHIND).await?;
    loop {
        let rows = client.query(&behind, &[&newest]).await?;
        let arrived = now_us();
        for row in &rows {
            newest = row.get(0);
            shared.latency(Copy::Audit).record(row.get(1), arrived);
            let (is_stock, part, version): (bool, Option<i64>, Option<i32>) = (row.get(2), row.get(3), row.get(4));
            if let (true, Some(part_id), Some(version)) = (is_stock, part, version) {
                StockLevel { part_id, version }.shown(&shared.ledger, Copy::Audit);
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}
