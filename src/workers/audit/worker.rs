//! The shell around the mapping and the log: takes batches of the history, keeps the connection.

use std::collections::BTreeSet;
use std::time::{Duration, Instant, SystemTime};

use highwater_postgres::{ConnectConfig, Error, ServerError, client};
use metrics::{counter, histogram};
use tracing::warn;

use super::row::{AuditRow, audit_row};
use super::settings::Settings;
use super::sink::{Appended, Log, Place, Progress};
use crate::deliver::{self, Batch, Fault, Partition, Resume, Whence};
use crate::position::{Bound, Position};
use crate::workers::commit_age;

/// The label of this worker in metrics.
const OPERATION: &str = "audit";
/// How often the partitions of the days ahead are looked after, besides the start.
const DAYS_EVERY: Duration = Duration::from_hours(1);

/// Appends the history to the audit log.
pub struct Worker {
    connect: ConnectConfig,
    answer_timeout: Duration,
    log: Option<Log>,
    held: Option<Held>,
    days: Days,
}

/// What the worker knows of the history's partition.
struct Held {
    partition: Partition,
    progress: Progress,
}

/// Days whose partition is there.
#[derive(Default)]
struct Days {
    known: BTreeSet<String>,
    looked_after: Option<Instant>,
}

impl Worker {
    /// Makes a worker, which connects when it is asked for its progress.
    ///
    /// # Errors
    /// A database URL that the connector does not know.
    pub fn new(settings: &Settings) -> Result<Self, highwater_postgres::ConfigError> {
        Ok(Self {
            connect: settings.connect_config()?,
            answer_timeout: settings.answer_timeout,
            log: None,
            held: None,
            days: Days::default(),
        })
    }

    /// Connects, and finds out how far the log is.
    async fn open(&mut self, partition: &Partition) -> Result<(Log, Progress), Error> {
        let place = Place { topic: partition.topic.to_string(), partition: partition.index };
        let mut log = Log::open(client::connect(&self.connect).await?, place).await?;
        let progress = log.progress().await?;
        Ok((log, progress))
    }

    async fn append(&mut self, batch: &Batch<'_>, from: Progress, rows: &[AuditRow]) -> Result<Appended, Error> {
        let mut log = match self.log.take() {
            Some(log) => log,
            None => self.open(batch.partition).await?.0,
        };
        self.days.make(&log, rows).await?;
        let newest = rows.last().and_then(|row| row.position.parse::<Position>().ok());
        let position = newest.map_or(from.position, Position::after).max(from.position);
        let to = Progress { next_offset: batch.next_offset, position };
        let appended = log.append(from, to, rows).await?;
        if let (Appended::Rows(_), Some(held)) = (appended, &mut self.held) {
            held.progress = to;
        }
        // Only a connection whose answers all came is used again: another may be in the middle of a transaction.
        self.log = Some(log);
        Ok(appended)
    }

    async fn apply_batch(&mut self, batch: &Batch<'_>) -> Result<(), Fault> {
        let Some(from) = self.held.as_ref().map(|held| held.progress) else {
            return Err(Fault::Rewind);
        };
        let rows = rows(batch)?;
        match within(self.answer_timeout, self.append(batch, from, &rows)).await {
            Ok(Appended::Rows(new)) => {
                counter!("highwater_audit_rows_total").increment(new);
                note_latency(batch);
                Ok(())
            }
            Ok(Appended::Elsewhere(stands)) => {
                let (partition, stands) = (batch.partition.to_string(), stands.next_offset);
                warn!(partition, stands, "the audit log is elsewhere than was appended, will read on from there");
                Err(Fault::Rewind)
            }
            Err(error) => Err(fault(&error)),
        }
    }
}

impl deliver::Worker for Worker {
    fn name(&self) -> &'static str {
        OPERATION
    }

    async fn resume(&mut self, partition: &Partition, _end: i64) -> Result<Resume, Fault> {
        if let Some(held) = &self.held
            && held.partition != *partition
        {
            return Err(Fault::Fatal(format!("the history has one partition, but there is {partition} too")));
        }
        let timeout = self.answer_timeout;
        let (log, progress) = within(timeout, self.open(partition)).await.map_err(|error| fault(&error))?;
        self.log = Some(log);
        self.held = Some(Held { partition: partition.clone(), progress });
        let whence = match progress.next_offset {
            0 => Whence::Beginning,
            next => Whence::Offset(next),
        };
        Ok(Resume { whence, newest: newest_below(progress.position) })
    }

    async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<(), Fault>> {
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            outcomes.push(self.apply_batch(batch).await);
        }
        outcomes
    }
}

impl Days {
    /// Makes the partitions that the rows need, and now and then those of the days ahead.
    async fn make(&mut self, log: &Log, rows: &[AuditRow]) -> Result<(), tokio_postgres::Error> {
        let needed: BTreeSet<String> =
            rows.iter().filter_map(|row| row.changed_at.get(..10)).map(str::to_owned).collect();
        let due = self.looked_after.is_none_or(|last| last.elapsed() > DAYS_EVERY);
        if due || !needed.is_subset(&self.known) {
            log.make_days(&needed).await?;
            self.known.extend(needed);
            self.looked_after = Some(Instant::now());
        }
        Ok(())
    }
}

fn rows(batch: &Batch<'_>) -> Result<Vec<AuditRow>, Fault> {
    let events = batch.items.iter().filter_map(|item| Some((item.record.offset, item.event.as_ref()?)));
    events
        .filter(|(_, event)| !event.is_mark())
        .map(|(offset, event)| audit_row(event).map_err(|why| Fault::Poison { offset, reason: why.to_string() }))
        .collect()
}

fn note_latency(batch: &Batch<'_>) {
    let now = SystemTime::now();
    for event in batch.items.iter().filter_map(|item| item.event.as_ref()) {
        if let Some(age) = commit_age(&event.time, now) {
            histogram!("database_sync_latency_ms", "operation" => OPERATION).record(age.as_secs_f64() * 1000.0);
        }
    }
}

pub(super) async fn within<T>(timeout: Duration, answer: impl Future<Output = Result<T, Error>>) -> Result<T, Error> {
    let late = Error::Timeout { waiting_for: "the answer of the audit log".to_owned(), after: timeout };
    tokio::time::timeout(timeout, answer).await.unwrap_or(Err(late))
}

/// A server that is away or busy comes back; a missing table or privilege stays until somebody acts.
fn fault(error: &Error) -> Fault {
    let passing = error.is_transient() || error.server().is_some_and(ServerError::is_transient);
    if passing {
        Fault::Transient(error.to_string())
    } else {
        Fault::Fatal(format!("the audit log refuses what is appended: {error}"))
    }
}

/// Returns the newest Position that a bound contains, which is known where the bound was set right after a change.
fn newest_below(bound: Bound) -> Option<Position> {
    let after: Position = bound.to_string().parse().ok()?;
    Some(Position { seq: after.seq.checked_sub(1)?, ..after })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_newest_change_below_its_own_bound_is_itself() {
        let change = Position { timeline: 1, lsn: 7, seq: 4 };
        assert_eq!(newest_below(change.after()), Some(change));
        assert_eq!(newest_below(Bound::at_lsn(1, 7)), None);
        assert_eq!(newest_below(Bound::ZERO), None);
    }
}
