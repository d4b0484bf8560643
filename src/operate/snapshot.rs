//! `highwater snapshot TABLE…`: tables are read again while the pipeline runs, and what vanished from them is deleted in the
//! topics. The request travels in the log of the source, to whichever capture is at work.

use std::fmt;
use std::time::{Duration, Instant};

use highwater_kafka::{Isolation, last_record};
use highwater_postgres::{Connection, Lsn, Session, quote};

use crate::capture::Request;
use crate::capture::progress::Progress;
use crate::config::{Source, instead};
use crate::topics::Topics;

/// How long one question may take.
const ANSWER: Duration = Duration::from_secs(10);
/// How long capture may publish nothing before the command gives up waiting.
const SILENCE: Duration = Duration::from_mins(1);
const SHOW_EVERY: Duration = Duration::from_secs(1);

/// Why a snapshot was not asked for, or not waited for.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The mapping does not name the table.
    #[error("no [[source.map]] entry maps table `{table}`; {instead}")]
    NotMapped {
        /// The table.
        table: String,
        /// What to write instead.
        instead: String,
    },
    /// The configuration's database is no address.
    #[error("[source] database: {0}")]
    Address(String),
    /// The source failed.
    #[error("PostgreSQL: {0}")]
    Source(#[from] highwater_postgres::Error),
    /// Kafka failed.
    #[error("Kafka: {0}")]
    Topics(#[from] highwater_kafka::Error),
    /// A record in the progress topic is none.
    #[error("the newest record of topic `{topic}` is no progress: {error}")]
    Progress {
        /// The topic.
        topic: String,
        /// What serde says.
        error: serde_json::Error,
    },
    /// Capture publishes nothing.
    #[error(
        "capture has published nothing for {} s; the request stands in the log, and is done when `highwater run capture` is at \
         work again",
        SILENCE.as_secs()
    )]
    Silence,
}

/// How far a table is. Its text is one line.
#[derive(Debug, Clone, PartialEq)]
pub struct Advance {
    /// The table.
    pub table: String,
    /// Rows read and committed to the topics.
    pub rows: u64,
    /// Rows that it has, about; none where the server has not counted them.
    pub about: Option<u64>,
    /// Whether it is read to its end, and what vanished is deleted.
    pub done: bool,
    /// Time since the request.
    pub elapsed: Duration,
}

impl fmt::Display for Advance {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { table, rows, about, done, elapsed } = self;
        let ms = u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX).max(1);
        let rate = rows.saturating_mul(1000) / ms;
        if *done {
            return write!(f, "{table}  read again: {rows} rows in {:.1} s", elapsed.as_secs_f64());
        }
        match about {
            Some(about) if rate > 0 => {
                let left = about.saturating_sub(*rows) / rate;
                write!(f, "{table}  {rows} of about {about} rows, {rate} rows/s, {left} s left")
            }
            _ => write!(f, "{table}  {rows} rows, {rate} rows/s"),
        }
    }
}

/// Asks for a snapshot of mapped tables, and waits for it if `wait` says so. `show` is called about once a second.
///
/// It can be dropped at any time: the request stands once it is committed.
///
/// # Errors
/// See [`Error`].
pub async fn snapshot(
    source: &Source,
    topics: &Topics,
    tables: &[String],
    wait: bool,
    show: impl FnMut(&Advance),
) -> Result<(), Error> {
    let mapped = || source.map.iter().map(|entry| entry.table.value.as_str());
    if let Some(table) = tables.iter().find(|table| mapped().all(|mapped| mapped != *table)) {
        return Err(Error::NotMapped { table: table.clone(), instead: instead(table, mapped().collect::<Vec<_>>()) });
    }
    let config = source.database.postgres("highwater snapshot");
    let config = config.map_err(|error| Error::Address(error.to_string()))?.with_statement_timeout(ANSWER);
    let request = Request { tables: tables.to_vec() };
    let asked = tokio::task::spawn_blocking(move || {
        let mut primary = Connection::connect(&config, Session::Ordinary)?;
        request.write(&mut primary, ANSWER)?;
        let about = request.tables.iter().map(|table| about(&mut primary, table)).collect::<Result<Vec<_>, _>>()?;
        // The request's commit stands below it.
        let flushed = primary.simple_query("SELECT pg_current_wal_flush_lsn()", ANSWER)?;
        let flushed: Result<Lsn, _> = flushed.single()?.parse();
        let flushed = flushed.map_err(|_| highwater_postgres::Error::Protocol("a position that is none".to_owned()))?;
        Ok::<_, highwater_postgres::Error>((flushed, about))
    });
    let (behind, about) = asked.await.map_err(|error| Error::Address(error.to_string()))??;
    if wait { Waiting::new(topics, behind, tables, about).until_done(show).await } else { Ok(()) }
}

fn about(primary: &mut Connection, table: &str) -> Result<Option<u64>, highwater_postgres::Error> {
    let (schema, name) = table.split_once('.').unwrap_or(("public", table));
    primary.about_rows(&quote::qualified(schema, name), ANSWER)
}

struct Waiting<'a> {
    topics: &'a Topics,
    behind: Lsn,
    /// Tables with about how many rows; those that are done leave.
    tables: Vec<(String, Option<u64>)>,
    asked: Instant,
    /// When capture last published anything, and up to where.
    heard: (Instant, Option<Progress>),
}

impl<'a> Waiting<'a> {
    fn new(topics: &'a Topics, behind: Lsn, tables: &[String], about: Vec<Option<u64>>) -> Self {
        let now = Instant::now();
        let tables = tables.iter().cloned().zip(about).collect();
        Self { topics, behind, tables, asked: now, heard: (now, None) }
    }

    async fn until_done(mut self, mut show: impl FnMut(&Advance)) -> Result<(), Error> {
        while !self.tables.is_empty() {
            tokio::time::sleep(SHOW_EVERY).await;
            let progress = self.progress().await?;
            if progress != self.heard.1 {
                self.heard = (Instant::now(), progress.clone());
            } else if self.heard.0.elapsed() > SILENCE {
                return Err(Error::Silence);
            }
            // Before capture has seen the request, its ledger speaks of an earlier reading.
            let Some(progress) = progress.filter(|progress| progress.bound.lsn() >= self.behind.0) else { continue };
            let elapsed = self.asked.elapsed();
            self.tables.retain(|(table, about)| {
                let read = progress.snapshot.tables.get(table);
                let (rows, done) = read.map_or((0, false), |read| (read.rows, read.complete));
                show(&Advance { table: table.clone(), rows, about: *about, done, elapsed });
                !done
            });
        }
        Ok(())
    }

    async fn progress(&self) -> Result<Option<Progress>, Error> {
        let topic = self.topics.progress();
        let connection = self.topics.connection("highwater-snapshot");
        let newest = last_record(&connection, &topic, 0, Isolation::ReadCommitted, ANSWER).await?;
        let Some(value) = newest.and_then(|record| record.value) else { return Ok(None) };
        serde_json::from_slice(&value).map(Some).map_err(|error| Error::Progress { topic, error })
    }
}
