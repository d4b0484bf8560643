//! Applies letters again, each by the way of the worker that could not.

use std::collections::HashMap;
use std::fmt;

use highwater_kafka::{Error, Record, Writer};
use highwater_redis::Cache;

use super::letter::{Letter, Origin, SETTLES, original};
use super::topic::Reader;
use crate::deliver::dead_letter::WORKER;
use crate::events::envelope::Envelope;
use crate::operate::snapshot;
use crate::roles::Config;
use crate::workers::audit::{self, append_late, audit_row};
use crate::workers::cache::{Incoming, Plan, changes_of};

/// Which letters are retried.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// Those at these offsets of the dead letters, settled or not.
    Offsets(Vec<i64>),
    /// All of a worker that are not settled.
    Worker(String),
    /// All that are not settled.
    All,
}

impl Chosen {
    fn takes(&self, letter: &Letter) -> bool {
        match self {
            Self::Offsets(offsets) => offsets.contains(&letter.offset),
            Self::Worker(worker) => letter.worker == *worker,
            Self::All => true,
        }
    }
}

/// What became of one letter. Its text is one line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// The letter's offset.
    pub offset: i64,
    /// Its worker.
    pub worker: String,
    /// What was done, or why not; then the letter stays as it was.
    pub result: Result<&'static str, String>,
}

impl fmt::Display for Outcome {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { offset, worker, result } = self;
        match result {
            Ok(done) => write!(f, "{offset}  {worker}: {done}"),
            Err(why) => write!(f, "{offset}  {worker}: not done, the letter stays: {why}"),
        }
    }
}

/// Retries letters, oldest first, and notes behind the letter what worked. `show` is called for each.
///
/// # Errors
/// What Kafka says, and an offset at which no letter stands. What was done until then stands, and can be done again.
pub async fn retry(config: &Config, chosen: &Chosen, mut show: impl FnMut(&Outcome)) -> Result<Vec<Outcome>, Error> {
    let topics = &config.topics;
    let mut reader = Reader::new(topics)?;
    let writer = Writer::new(&topics.connection("highwater-dead-letters"))?;
    let mut letters = reader.letters(|letter| chosen.takes(letter)).await?;
    match chosen {
        Chosen::Offsets(offsets) => {
            let missing = offsets.iter().find(|offset| letters.iter().all(|letter| letter.offset != **offset));
            if let Some(&offset) = missing {
                return Err(Error::OffsetOutOfRange { topic: topics.dead_letters(), partition: 0, offset });
            }
        }
        Chosen::Worker(_) | Chosen::All => letters.retain(|letter| !letter.settled),
    }
    let mut ways = Ways { config, cache: None, asked: HashMap::new() };
    let mut outcomes = Vec::with_capacity(letters.len());
    for letter in letters {
        let result = match reader.record(letter.offset).await? {
            Some(record) => ways.apply(&letter, &record).await,
            None => Err("it is not there any more".to_owned()),
        };
        if result.is_ok() {
            let (offset, worker) = (letter.offset.to_string(), letter.worker.as_bytes());
            let headers = [(SETTLES, offset.as_bytes()), (WORKER, worker)];
            writer.send(&topics.dead_letters(), 0, &letter.key, None, &headers).await?;
        }
        let outcome = Outcome { offset: letter.offset, worker: letter.worker, result };
        show(&outcome);
        outcomes.push(outcome);
    }
    Ok(outcomes)
}

/// The workers' ways into their copies.
struct Ways<'a> {
    config: &'a Config,
    /// Connected when the first letter needs it.
    cache: Option<(Cache, Plan)>,
    /// Tables that were asked for in this run: each request begins a table's reading anew.
    asked: HashMap<String, Result<&'static str, String>>,
}

impl Ways<'_> {
    async fn apply(&mut self, letter: &Letter, record: &Record) -> Result<&'static str, String> {
        let Some(record) = original(letter, record) else { return self.read_table_again(letter).await };
        if letter.worker == "storefront" {
            let why = "the gateway keeps no copy: pages that were open have passed the event, and each page gets the newest state \
                       when it loads or resyncs";
            return Err(why.to_owned());
        }
        let event = record.value.as_deref().map(Envelope::parse).transpose();
        let event = event.map_err(|error| format!("the record is no event: {error}"))?;
        match letter.worker.as_str() {
            "cache" => self.apply_to_cache(&record, event.as_ref()).await,
            "audit" => self.append_to_audit(&record, event.as_ref()).await,
            other => Err(format!("there is no worker {other} to give it to")),
        }
    }

    async fn apply_to_cache(&mut self, record: &Record, event: Option<&Envelope<'_>>) -> Result<&'static str, String> {
        if self.cache.is_none() {
            let cache = Cache::connect(&self.config.cache.options()).await.map_err(|error| error.to_string())?;
            self.cache = Some((cache, Plan::new(self.config.cache.rules.clone())));
        }
        let Some((cache, plan)) = &self.cache else { return Err("no cache".to_owned()) };
        let incoming = [Incoming { offset: record.offset.unsigned_abs(), event }];
        let changes = changes_of(plan, &incoming);
        if let Some(poison) = changes.poison {
            return Err(poison.reason);
        }
        let mut older = 0;
        for call in &changes.calls {
            older += cache.replay(call).await.map_err(|error| error.to_string())?.older;
        }
        Ok(if older > 0 { "applied; the cache knew something newer, which stays" } else { "applied to the cache" })
    }

    async fn append_to_audit(&self, record: &Record, event: Option<&Envelope<'_>>) -> Result<&'static str, String> {
        let Some(event) = event.filter(|event| !event.is_mark()) else {
            return Ok("holds no change: nothing to append");
        };
        let row = audit_row(event).map_err(|error| error.to_string())?;
        let place = audit::Place { topic: record.topic.to_string(), partition: record.partition };
        let appended = append_late(&self.config.audit, place, row).await.map_err(|error| error.to_string())?;
        Ok(if appended { "appended to the audit log" } else { "stands in the audit log already" })
    }

    /// Asks for the table of a letter that refers to a row and holds no event.
    async fn read_table_again(&mut self, letter: &Letter) -> Result<&'static str, String> {
        let row = match &letter.origin {
            Origin::Row(row) => row,
            Origin::History(_) => {
                let why = "history is written once: the change stands there without the row's longest values, whose newest are in \
                           the table";
                return Err(why.to_owned());
            }
            Origin::Record { .. } | Origin::Unknown => return Err("it does not tell what it is of".to_owned()),
        };
        let table = row.split_once('/').map_or(row.as_str(), |(table, _)| table).to_owned();
        let Config { source, topics, .. } = self.config;
        if source.map.iter().all(|entry| entry.table.value != table) {
            return Err(format!(
                "it holds no event, and `{row}` names no mapped table; mend what the reason names, then run `highwater snapshot` \
                 with the tables that it concerns"
            ));
        }
        if let Some(asked) = self.asked.get(&table) {
            return asked.clone();
        }
        let asked = match snapshot::snapshot(source, topics, std::slice::from_ref(&table), false, |_| {}).await {
            Ok(()) => Ok("its table will be read again, beside live changes"),
            Err(error) => Err(error.to_string()),
        };
        self.asked.insert(table, asked.clone());
        asked
    }
}
