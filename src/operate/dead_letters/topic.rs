//! Reading the dead letters from their beginning to where they end now.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use highwater_kafka::{Consumer, ConsumerSettings, Error, Isolation, Record, Start};

use super::letter::{Entry, Letter, read};
use crate::topics::Topics;

/// How long one question to Kafka may take, and how long nothing may come.
const ANSWER: Duration = Duration::from_secs(10);
const MOST_RECORDS: usize = 500;

/// Reads committed letters: capture's stand in its transactions, and those of one that was aborted are written again.
pub(super) struct Reader {
    topic: String,
    consumer: Consumer,
}

impl Reader {
    pub(super) fn new(topics: &Topics) -> Result<Self, Error> {
        let settings = ConsumerSettings::new("highwater.dead-letters", Isolation::ReadCommitted);
        let consumer = Consumer::new(&topics.connection("highwater-dead-letters"), settings)?;
        Ok(Self { topic: topics.dead_letters(), consumer })
    }

    /// Returns all letters that `wanted` takes, oldest first, without payload: all of those would be too much.
    pub(super) async fn letters(&mut self, wanted: impl Fn(&Letter) -> bool) -> Result<Vec<Letter>, Error> {
        if self.consumer.partitions(&self.topic, ANSWER).await?.is_none() {
            return Ok(Vec::new());
        }
        let ends = self.consumer.watermarks(&self.topic, 0, ANSWER).await?;
        let mut letters = Vec::new();
        let mut settled: HashMap<Vec<u8>, i64> = HashMap::new();
        self.start(ends.low)?;
        while self.is_below(ends.high) {
            for record in self.next().await? {
                match read(&record) {
                    Entry::Note { key, up_to } => {
                        let known = settled.entry(key).or_insert(up_to);
                        *known = up_to.max(*known);
                    }
                    Entry::Letter(mut letter) if wanted(&letter) => {
                        letter.payload = None;
                        letters.push(letter);
                    }
                    Entry::Letter(_) => {}
                }
            }
        }
        for letter in &mut letters {
            letter.settled = settled.get(&letter.key).is_some_and(|up_to| letter.offset <= *up_to);
        }
        Ok(letters)
    }

    /// Returns the record at an offset where a letter was read before.
    pub(super) async fn record(&mut self, offset: i64) -> Result<Option<Record>, Error> {
        self.start(offset)?;
        while self.is_below(offset + 1) {
            let found = self.next().await?.into_iter().next();
            if found.is_some() {
                return Ok(found.filter(|record| record.offset == offset));
            }
        }
        Ok(None)
    }

    fn start(&mut self, offset: i64) -> Result<(), Error> {
        self.consumer.assign(&[Start { topic: self.topic.clone(), partition: 0, offset }])
    }

    fn is_below(&self, end: i64) -> bool {
        // The last offsets can be gaps, which only the end of the partition tells.
        !self.consumer.at_end(&self.topic, 0) && self.consumer.position(&self.topic, 0).is_some_and(|at| at < end)
    }

    /// Returns the next records; none only where the partition's end is reached.
    async fn next(&mut self) -> Result<Vec<Record>, Error> {
        let deadline = Instant::now() + ANSWER;
        loop {
            let records = self.consumer.next_batch(MOST_RECORDS, Duration::from_millis(100)).await?;
            if !records.is_empty() || self.consumer.at_end(&self.topic, 0) {
                return Ok(records);
            }
            if Instant::now() >= deadline {
                return Err(Error::Deadline { what: format!("give the records of {}", self.topic), waited: ANSWER });
            }
        }
    }
}
