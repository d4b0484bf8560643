//! The backlog: written once, read by every run through a copy of one slot.
//!
//! The slot is made by Highwater itself on empty tables, with its snapshot done and its progress committed. Every run of
//! Highwater starts from that progress record, so that no run reads a table.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use highwater_demo::schema::CAPTURED_TABLES;
use serde_json::Value;

use crate::source::Path;
use crate::tools::highwater::{Highwater, start};
use crate::{Arguments, Bench};

/// The slot that all runs copy, and the prefix of the topics of the run that made it.
pub(crate) const ORIGIN: &str = "bench_origin";
/// Row changes in one transaction.
pub(crate) const ROWS_PER_TRANSACTION: u64 = 100;
/// How long the snapshot of empty tables may take.
const SNAPSHOT_WITHIN: Duration = Duration::from_mins(1);

/// What Highwater goes on from: key and value of its newest progress record.
pub(crate) type Progress = (Vec<u8>, Vec<u8>);

pub(crate) struct Backlog {
    /// Row changes.
    pub(crate) rows: u64,
    /// Where the log ended when all was written.
    pub(crate) end: String,
    /// Bytes of log.
    pub(crate) log_bytes: u64,
    pub(crate) progress: Progress,
}

/// Half of a transaction's changes give new parts their stock level, the other half move it: a warehouse that is filled.
/// Each is sent by itself: a block that commits may not stand in a transaction with others. Foreign keys and triggers are
/// off, so that the stock levels can be all there is.
const WRITE: [&str; 5] = [
    "SET session_replication_role = replica",
    "SET synchronous_commit = off",
    "DO $$
     BEGIN
         FOR number IN 0 .. @TRANSACTIONS@ - 1 LOOP
             INSERT INTO stock_levels (id, part_id, current_stock, reserved_quantity, min_stock_level)
                 SELECT part, part, part % 500, part % 7, 10
                 FROM generate_series(1000000 + number * @HALF@, 1000000 + number * @HALF@ + @HALF@ - 1) AS part;
             UPDATE stock_levels
                 SET current_stock = current_stock + 1, version = version + 1, updated_at = clock_timestamp()
                 WHERE id BETWEEN 1000000 + number * @HALF@ AND 1000000 + number * @HALF@ + @HALF@ - 1;
             COMMIT;
         END LOOP;
     END $$",
    "SET synchronous_commit = on",
    "RESET session_replication_role",
];

impl Backlog {
    /// Empties the tables, makes the slot, and writes.
    pub(crate) async fn write(bench: &Bench, arguments: &Arguments) -> Result<Self> {
        let source = &bench.source;
        let half = ROWS_PER_TRANSACTION / 2;
        let transactions = arguments.rows / ROWS_PER_TRANSACTION;
        if transactions * ROWS_PER_TRANSACTION != arguments.rows || transactions == 0 {
            bail!("--rows has to be a multiple of {ROWS_PER_TRANSACTION}");
        }
        eprintln!("bench: making the slot, and a backlog of {} row changes", arguments.rows);
        let progress = origin(bench).await?;
        let begins = source.text("SELECT pg_current_wal_insert_lsn()").await?;
        for statement in WRITE {
            let sql =
                statement.replace("@TRANSACTIONS@", &transactions.to_string()).replace("@HALF@", &half.to_string());
            source.client.batch_execute(&sql).await.context("the backlog could not be written")?;
        }
        let end = source.text("SELECT pg_current_wal_insert_lsn()").await?;
        let log_bytes = source.text(&format!("SELECT pg_wal_lsn_diff('{end}', '{begins}')")).await?.parse()?;
        // What would otherwise run beside the first measurements.
        source.client.batch_execute("VACUUM ANALYZE stock_levels").await?;
        source.client.batch_execute("CHECKPOINT").await?;
        Ok(Self { rows: arguments.rows, end, log_bytes, progress })
    }
}

/// Empties the tables and lets Highwater make the slot on them; returns the progress that it leaves.
pub(crate) async fn origin(bench: &Bench) -> Result<Progress> {
    bench.source.drop_slot(ORIGIN).await?;
    let tables = CAPTURED_TABLES.join(", ");
    bench.source.client.batch_execute(&format!("TRUNCATE {tables} CASCADE")).await?;
    bench.kafka.delete_prefix(ORIGIN).await?;
    let tool = Highwater::shipped(false, Path::Tcp);
    let mut process = start(bench, tool, ORIGIN, ORIGIN)?;
    let topic = format!("{ORIGIN}.progress");
    let deadline = Instant::now() + SNAPSHOT_WITHIN;
    loop {
        process.still_runs()?;
        if let Some((_, value)) = bench.kafka.last_record(&topic)?
            && is_complete(&value)
        {
            break;
        }
        if Instant::now() > deadline {
            bail!("the snapshot of empty tables was not done within {SNAPSHOT_WITHIN:?}\n{}", process.last_lines());
        }
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    let status = process.terminate()?;
    if !status.success() {
        bail!("capture did not drain: {status}\n{}", process.last_lines());
    }
    let progress = bench.kafka.last_record(&topic)?.context("the progress is gone")?;
    bench.kafka.delete_prefix(ORIGIN).await?;
    Ok(progress)
}

/// Whether a progress record says that every captured table was read.
pub(crate) fn is_complete(record: &[u8]) -> bool {
    let progress: Value = serde_json::from_slice(record).unwrap_or_default();
    CAPTURED_TABLES.iter().all(|table| progress["snapshot"]["tables"][*table]["complete"] == true)
}

/// Returns progress as of a place in the log, `X/Y`: all before it counts as published.
pub(crate) fn progress_at((key, value): &Progress, lsn: &str) -> Result<Progress> {
    let mut progress: Value = serde_json::from_slice(value).context("the progress record is no JSON")?;
    let (high, low) = lsn.split_once('/').context("a place in the log has two parts")?;
    let place = (u64::from_str_radix(high, 16)? << 32) | u64::from_str_radix(low, 16)?;
    let bound = progress["bound"].as_str().context("the progress has no bound")?;
    progress["bound"] = format!("{}-{place:016X}-00000000", &bound[..8]).into();
    Ok((key.clone(), serde_json::to_vec(&progress)?))
}

/// Replaces all rows by so many stock levels, from id 1 on.
pub(crate) async fn fill(bench: &Bench, rows: u64) -> Result<()> {
    eprintln!("bench: filling stock_levels with {rows} rows");
    let tables = CAPTURED_TABLES.join(", ");
    let fill = format!(
        "TRUNCATE {tables} CASCADE;
         SET session_replication_role = replica; SET synchronous_commit = off;
         INSERT INTO stock_levels (id, part_id, current_stock, reserved_quantity, min_stock_level)
             SELECT part, part, part % 500, part % 7, 10 FROM generate_series(1, {rows}) AS part;
         SET synchronous_commit = on; RESET session_replication_role"
    );
    bench.source.client.batch_execute(&fill).await.context("the table could not be filled")?;
    bench.source.client.batch_execute("VACUUM ANALYZE stock_levels").await?;
    bench.source.client.batch_execute("CHECKPOINT").await?;
    Ok(())
}
