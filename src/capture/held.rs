//! What the topics hold, against what the progress says of them: somebody may have deleted a topic, and Kafka may have lost records.

use std::time::{Duration, Instant};

use highwater_kafka::{Consumer, ConsumerSettings, Isolation, last_record};

use super::error::Error;
use super::progress::{Ends, Progress, Shorter};
use super::session::Plan;
use super::start::Lost;
use crate::events::draft::Topic;

/// How long a partition must look too short: a new leader may not know its end at once (KIP-207).
const BELIEVED_AFTER: Duration = Duration::from_secs(2);
/// Between two looks.
const LOOK_EVERY: Duration = Duration::from_millis(100);

impl Plan<'_> {
    /// Notes in the progress where each partition ends. Returns one that ends before what was committed to it.
    pub(super) fn compare_with_topics(&self, progress: &mut Progress) -> Result<Option<Lost>, Error> {
        let deadline = Instant::now() + BELIEVED_AFTER;
        loop {
            let ends = self.ends()?;
            let shorter = progress.shorter(&ends);
            if shorter.is_none() || Instant::now() >= deadline {
                progress.ends = ends;
                return Ok(shorter.map(|shorter| self.lost_records(shorter)));
            }
            std::thread::sleep(LOOK_EVERY);
        }
    }

    fn lost_records(&self, Shorter { suffix, partition, end, expected }: Shorter) -> Lost {
        Lost::Records { topic: self.topics.name(&suffix), partition, end, expected, progress: self.topics.progress() }
    }

    /// Returns a topic that holds events. Bare ends do not tell: what a first session sent and never committed stands there too.
    pub(super) fn topic_with_events(&self) -> Result<Option<String>, Error> {
        let connection = self.topics.connection("highwater-capture");
        let timeout = self.settings.answer_timeout;
        for (suffix, ends) in self.ends()? {
            let topic = self.topics.name(&suffix);
            for partition in (0..).zip(&ends).filter_map(|(partition, &end)| (end > 0).then_some(partition)) {
                let record = last_record(&connection, &topic, partition, Isolation::ReadCommitted, timeout);
                if self.runtime.block_on(record)?.is_some() {
                    return Ok(Some(topic));
                }
            }
        }
        Ok(None)
    }

    /// Asks where each partition that events go to ends.
    fn ends(&self) -> Result<Ends, Error> {
        let of_topic = |topic| match topic {
            Topic::State(_) => self.topics.partitions,
            Topic::History => 1,
        };
        let partitions: Vec<(Topic, i32)> =
            Topic::ALL.into_iter().flat_map(|topic| (0..of_topic(topic)).map(move |at| (topic, at))).collect();
        let named: Vec<(String, i32)> =
            partitions.iter().map(|&(topic, partition)| (self.topics.name(topic.suffix()), partition)).collect();
        let settings = ConsumerSettings::new("highwater.ends", Isolation::ReadUncommitted);
        let consumer = Consumer::new(&self.topics.connection("highwater-capture"), settings)?;
        let found = self.runtime.block_on(consumer.ends(&named, self.settings.answer_timeout))?;
        let mut ends = Ends::new();
        for ((topic, _), end) in partitions.into_iter().zip(found) {
            ends.entry(topic.suffix().to_owned()).or_default().push(end);
        }
        Ok(ends)
    }
}
