//! The questions behind a status.

use std::collections::BTreeMap;

use highwater_kafka::{Admin, Connection, Consumer, ConsumerSettings, Isolation, last_record};
use highwater_postgres::Error as Database;
use highwater_redis::Cache;
use tokio_postgres::Client;

use super::{Published, Slot, Status, Topic, Worker};
use crate::capture::SlotServers;
use crate::capture::progress::Progress;
use crate::operate::database::{self, ANSWER, within};
use crate::roles::Config;

/// Ends of partitions, by topic and partition.
type Ends = BTreeMap<(String, i32), i64>;

const AUDIT: &str =
    "SELECT topic, partition, next_offset, position::text FROM highwater.audit_progress WHERE topic = $1";

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Asks every server once.
pub async fn status(config: &Config) -> Status {
    let mut status = Status::default();
    match slot(config).await {
        Ok(slot) => status.slot = Some(slot),
        Err(error) => status.errors.push(format!("source: {error}")),
    }
    let connection = config.topics.connection("highwater-status");
    let ends = match topics(config, &connection, &mut status).await {
        Ok(ends) => ends,
        Err(error) => {
            status.errors.push(format!("topics: {error}"));
            return status;
        }
    };
    match cache(config, &ends).await {
        Ok(worker) => status.workers.push(worker),
        Err(error) => status.errors.push(format!("cache: {error}")),
    }
    match audit(config, &ends).await {
        Ok(worker) => status.workers.push(worker),
        Err(error) => status.errors.push(format!("audit: {error}")),
    }
    status
}

async fn slot(config: &Config) -> Result<Slot, Problem> {
    let name = config.source.slot.clone();
    let servers = SlotServers::connect(&config.source, "highwater status", ANSWER).await?;
    let standing = within(async { servers.ask(&name).await.map_err(Database::from) }).await?;
    let Some(standing) = standing else {
        let (confirmed, behind_bytes, retained_bytes, wal) = (None, None, None, None);
        return Ok(Slot { name, state: "missing", confirmed, behind_bytes, retained_bytes, wal });
    };
    Ok(Slot {
        name,
        state: if standing.active { "held" } else { "free" },
        confirmed: standing.confirmed,
        behind_bytes: standing.behind_bytes,
        retained_bytes: standing.retained_bytes,
        wal: standing.wal,
    })
}

/// Asks for the topics and what capture has published; returns where the partitions end.
async fn topics(config: &Config, connection: &Connection, status: &mut Status) -> Result<Ends, Problem> {
    let cluster = Admin::new(connection)?.cluster(ANSWER).await?;
    let consumer = Consumer::new(connection, ConsumerSettings::new("highwater.status", Isolation::ReadUncommitted))?;
    let mut ends = Ends::new();
    for spec in config.topics.specs() {
        if let Some(why) = cluster.unavailable.get(&spec.name) {
            status.errors.push(format!("topics: {} {why}", spec.name));
        }
        let Some(&partitions) = cluster.topics.get(&spec.name) else { continue };
        let mut offsets = 0;
        for partition in 0..partitions {
            let watermarks = consumer.watermarks(&spec.name, partition, ANSWER).await?;
            offsets += watermarks.high - watermarks.low;
            ends.insert((spec.name.clone(), partition), watermarks.high);
        }
        status.topics.push(Topic { name: spec.name, partitions, offsets });
    }
    let progress = config.topics.progress();
    if ends.contains_key(&(progress.clone(), 0)) {
        let newest = last_record(connection, &progress, 0, Isolation::ReadCommitted, ANSWER).await?;
        status.published = newest.and_then(|record| record.value).map(|value| published(&value)).transpose()?;
    }
    Ok(ends)
}

fn published(value: &[u8]) -> Result<Published, serde_json::Error> {
    let progress: Progress = serde_json::from_slice(value)?;
    let tables = progress.snapshot.tables.values();
    Ok(Published {
        bound: progress.bound.to_string(),
        tables_complete: tables.clone().filter(|table| table.complete).count(),
        tables: tables.len(),
        snapshot_rows: tables.map(|table| table.rows).sum(),
    })
}

async fn cache(config: &Config, ends: &Ends) -> Result<Worker, Problem> {
    let cache = Cache::connect(&config.cache.options()).await?;
    let states = config.topics.states();
    let mut tally = Tally::default();
    for ((topic, partition), end) in ends.iter().filter(|((topic, _), _)| states.contains(topic)) {
        let progress = cache.progress(&format!("{topic}/{partition}")).await?;
        let progress = progress.map(|progress| {
            let offset = i64::try_from(progress.offset).unwrap_or(i64::MAX);
            (offset, progress.mark.map(|mark| mark.as_str().to_owned()))
        });
        tally.add(*end, progress);
    }
    Ok(tally.of("cache"))
}

async fn audit(config: &Config, ends: &Ends) -> Result<Worker, Problem> {
    let client = database::connect(&config.audit.database, "highwater status").await?;
    let history = config.topics.history();
    let rows = within(async { client.query(AUDIT, &[&history]).await.map_err(Database::from) }).await;
    let rows = match rows {
        Ok(rows) => rows,
        Err(error) => return Err(explained(&client, error).await),
    };
    let progress: BTreeMap<i32, (i64, Option<String>)> =
        rows.iter().map(|row| (row.get(1), (row.get(2), Some(row.get(3))))).collect();
    let mut tally = Tally::default();
    for ((_, partition), end) in ends.iter().filter(|((topic, _), _)| *topic == history) {
        tally.add(*end, progress.get(partition).cloned());
    }
    Ok(tally.of("audit"))
}

/// Adds to an answer that did not come who was waited for, and what ends that.
async fn explained(client: &Client, error: Database) -> Problem {
    let Some(holders) = database::holders(client, &error).await else { return error.into() };
    format!("{error}{}: {}", database::waited_for(&holders), database::end_of(&holders)).into()
}

/// What a worker's partitions add up to.
#[derive(Default)]
struct Tally {
    read: usize,
    with_progress: usize,
    behind: i64,
    least: Option<String>,
    lacks_bound: bool,
}

impl Tally {
    /// Adds a partition that ends at `end`, with the next offset to read and the bound if there is progress.
    fn add(&mut self, end: i64, progress: Option<(i64, Option<String>)>) {
        self.read += 1;
        self.with_progress += usize::from(progress.is_some());
        let (next, bound) = progress.unwrap_or_default();
        self.behind += (end - next).max(0);
        match bound {
            // The text of positions sorts as they do.
            Some(bound) if self.least.as_ref().is_none_or(|least| bound < *least) => self.least = Some(bound),
            Some(_) => {}
            None => self.lacks_bound = true,
        }
    }

    fn of(self, name: &'static str) -> Worker {
        Worker {
            name,
            partitions: self.with_progress,
            partitions_read: self.read,
            behind_offsets: self.behind,
            bound: self.least.filter(|_| !self.lacks_bound),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_worker_is_complete_only_below_its_least_bound() {
        let mut tally = Tally::default();
        tally.add(10, Some((7, Some("B".into()))));
        tally.add(5, Some((5, Some("A".into()))));
        let worker = tally.of("cache");
        assert_eq!((worker.behind_offsets, worker.bound.as_deref()), (3, Some("A")));
    }

    #[test]
    fn a_partition_without_progress_leaves_the_worker_complete_below_nothing() {
        let mut tally = Tally::default();
        tally.add(10, Some((10, Some("B".into()))));
        tally.add(4, None);
        let worker = tally.of("cache");
        assert_eq!((worker.partitions, worker.partitions_read, worker.behind_offsets), (1, 2, 4));
        assert_eq!(worker.bound, None);
    }
}
