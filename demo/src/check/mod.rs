//! The checker: once the writes have stopped, is every copy what the database says?
//!
//! It reads the topics, the audit log and Redis by itself, and knows the pipeline by its published forms alone. It waits,
//! with a deadline, until all copies say that they contain everything that was written; what differs then is wrong.

mod audit;
mod cache;
mod history;
mod report;
mod state;
mod tables;
mod topics;

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio_postgres::Client;

use crate::Endpoints;
pub use report::{Report, Section};
use state::State;
use topics::{Body, Isolation, Reading, Record, Until};

/// The state topics.
const STATE_TOPICS: [&str; 3] = ["stock", "prices", "content"];

/// What to check.
#[derive(Debug, Clone, Copy)]
pub struct Options {
    /// How long the copies may take to catch up.
    pub patience: Duration,
    /// What can be asked of the history.
    pub story: Story,
    /// Whether the audit log is kept.
    pub audit: bool,
    /// Whether Redis is kept.
    pub cache: bool,
    /// Whether the state topics were compacted, so that of what was overwritten nothing need be there.
    pub compacted: bool,
}

/// What the history tells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Story {
    /// It goes back to before the first write: nothing may be missing from it.
    Whole,
    /// It begins later.
    Late,
    /// Changes never reached it: only the newest state can be right.
    Gap,
}

impl Default for Options {
    fn default() -> Self {
        Self { patience: Duration::from_mins(1), story: Story::Whole, audit: true, cache: true, compacted: false }
    }
}

/// Checks every copy. Nobody may write to the captured tables meanwhile.
///
/// # Errors
/// A server that cannot be asked. What is wrong with a copy is no error but a difference in the report.
pub async fn everything(endpoints: &Endpoints, options: &Options) -> Result<Report> {
    let mut report = Report::default();
    let mut database = Endpoints::connect(&endpoints.admin_database).await?;
    let token = token(&database).await?;
    let mut section = Section::new("the topics contain all that was written");
    wait_for_topics(endpoints, &token, Instant::now() + options.patience, &mut section).await?;
    let behind = section.differing > 0;
    report.add(section);
    if behind {
        // Of copies that are behind everything differs, which would tell nothing.
        return Ok(report);
    }
    let deadline = Instant::now() + options.patience;
    let mut states = BTreeMap::new();
    let mut partitions = Vec::new();
    for name in STATE_TOPICS {
        let mut section = Section::new(format!("{}: order, marks, each event once", endpoints.topic(name)));
        let reading = read(endpoints, name, Until::Marked(token.clone()), deadline).await?;
        partitions.extend(partitions_of(&endpoints.topic(name), &reading));
        note_behind(&reading, &mut section);
        states.insert(name, state::follow(name, reading.records, options.compacted, &mut section));
        report.add(section);
    }
    // What stands before the committed marks of the state topics stands in the history too.
    let mut section = Section::new(format!("{}: whole transactions in commit order", endpoints.topic("history")));
    let reading = read(endpoints, "history", Until::End, deadline).await?;
    note_behind(&reading, &mut section);
    let last_offset = reading.records.iter().map(|record| record.offset).max();
    let changes = history::follow(reading.records, &mut section);
    report.add(section);

    if options.audit {
        let mut section = Section::new("audit log with history");
        audit::wait(&database, &endpoints.topic("history"), last_offset, deadline, &mut section).await?;
        audit::compare(&database, &changes, &mut section).await?;
        report.add(section);
    }
    if options.story == Story::Whole {
        let mut section = Section::new("history with the writers' own notes");
        audit::compare_with_notes(&database, &changes, &mut section).await?;
        report.add(section);
    }
    let rows = tables::read(&mut database).await?;
    if options.story != Story::Gap {
        let mut section = Section::new("history played, with the database");
        history::play(&changes, &rows, &mut section);
        report.add(section);
    }
    for (name, state) in &states {
        let mut section = Section::new(format!("{}: newest events with the database", endpoints.topic(name)));
        state::compare(name, state, &rows, &mut section);
        if options.story != Story::Gap {
            known_to_history(state, &changes, &mut section);
        }
        report.add(section);
    }
    if options.cache {
        check_cache(endpoints, &partitions, &token, deadline, &rows, &states, &mut report).await?;
    }
    Ok(report)
}

/// Waits until the topics and Redis contain the whole catalogue and everything that was written so far.
///
/// # Errors
/// A server that cannot be asked, or copies that are behind after that time.
pub async fn caught_up(endpoints: &Endpoints, patience: Duration) -> Result<()> {
    let deadline = Instant::now() + patience;
    let token = token(&Endpoints::connect(&endpoints.admin_database).await?).await?;
    let mut section = Section::new("catching up");
    let partitions = wait_for_topics(endpoints, &token, deadline, &mut section).await?;
    let mut redis = cache::connect(endpoints).await?;
    cache::wait(&mut redis, &partitions, &token, deadline, &mut section).await?;
    if section.differing > 0 {
        bail!("the copies are behind after {patience:?}: {}", section.told.join("; "));
    }
    Ok(())
}

/// Counts the events of the state topics, committed or not, whose data contain a text.
///
/// # Errors
/// A broker that cannot be asked, or topics whose ends are not seen within a minute.
pub async fn events_with(endpoints: &Endpoints, text: &str) -> Result<usize> {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut count = 0;
    for name in STATE_TOPICS {
        let reading = read_as(endpoints, name, Until::End, Isolation::Any, deadline).await?;
        if !reading.behind.is_empty() {
            bail!("not read to its end: {}", reading.behind.join("; "));
        }
        let has = |record: &&Record| match &record.body {
            Body::Event(event) => event.data.as_ref().is_some_and(|data| data.get().contains(text)),
            _ => false,
        };
        count += reading.records.iter().filter(has).count();
    }
    Ok(count)
}

/// Waits until every partition of the state topics has a mark at the token or above; returns the partitions.
async fn wait_for_topics(
    endpoints: &Endpoints,
    token: &str,
    deadline: Instant,
    section: &mut Section,
) -> Result<Vec<String>> {
    let mut partitions = Vec::new();
    for name in STATE_TOPICS {
        let reading = read(endpoints, name, Until::Complete(token.to_owned()), deadline).await?;
        section.compared();
        partitions.extend(partitions_of(&endpoints.topic(name), &reading));
        note_behind(&reading, section);
    }
    Ok(partitions)
}

async fn check_cache(
    endpoints: &Endpoints,
    partitions: &[String],
    token: &str,
    deadline: Instant,
    rows: &tables::Rows,
    states: &BTreeMap<&'static str, State>,
    report: &mut Report,
) -> Result<()> {
    let mut redis = cache::connect(endpoints).await?;
    let mut section = Section::new("Redis: written keys with the database");
    cache::wait(&mut redis, partitions, token, deadline, &mut section).await?;
    cache::compare_written(&mut redis, rows, &mut section).await?;
    report.add(section);
    let mut section = Section::new("Redis: fences of the invalidated keys");
    cache::compare_fences(&mut redis, states, &mut section).await?;
    report.add(section);
    Ok(())
}

/// Returns the bound below which everything written so far lies, in the form of a Position.
async fn token(client: &Client) -> Result<String> {
    // The name of a WAL file starts with its timeline.
    let statement = "SELECT left(pg_walfile_name(pg_current_wal_flush_lsn()), 8),
                            (pg_current_wal_flush_lsn() - '0/0'::pg_lsn)::bigint";
    let row = client.query_one(statement, &[]).await?;
    let (timeline, lsn): (String, i64) = (row.get(0), row.get(1));
    Ok(format!("{timeline}-{lsn:016X}-00000000"))
}

async fn read(endpoints: &Endpoints, name: &str, until: Until, deadline: Instant) -> Result<Reading> {
    read_as(endpoints, name, until, Isolation::Committed, deadline).await
}

async fn read_as(
    endpoints: &Endpoints,
    name: &str,
    until: Until,
    isolation: Isolation,
    deadline: Instant,
) -> Result<Reading> {
    let (endpoints, topic) = (endpoints.clone(), endpoints.topic(name));
    let reading = tokio::task::spawn_blocking(move || topics::read(&endpoints, &topic, &until, isolation, deadline));
    reading.await.context("the reader panicked")?
}

fn note_behind(reading: &Reading, section: &mut Section) {
    for words in &reading.behind {
        section.differs(|| words.clone());
    }
}

fn partitions_of(topic: &str, reading: &Reading) -> Vec<String> {
    let numbers: std::collections::BTreeSet<i32> = reading.records.iter().map(|record| record.partition).collect();
    numbers.into_iter().map(|number| format!("{topic}/{number}")).collect()
}

/// Every live event comes from a change of the history: of two events of one change, the second has the odd number.
fn known_to_history(state: &State, changes: &[history::Change], section: &mut Section) {
    let known: std::collections::HashSet<&str> = changes.iter().map(|change| change.position.as_str()).collect();
    let of_change = |position: &str| -> Option<String> {
        let (commit, seq) = position.rsplit_once('-')?;
        Some(format!("{commit}-{:08X}", u32::from_str_radix(seq, 16).ok()? & !1))
    };
    for position in &state.positions {
        section.compared();
        if of_change(position).is_none_or(|change| !known.contains(change.as_str())) {
            section.differs(|| format!("{position}: no such change in the history"));
        }
    }
}
