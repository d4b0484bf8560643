//! One assigned partition: its records, its end and its errors, each said to be its own.

use std::sync::Arc;
use std::time::Duration;

use rdkafka::consumer::base_consumer::PartitionQueue;
use rdkafka::error::{KafkaError, RDKafkaErrorCode};

use crate::connection::Events;
use crate::error::Error;
use crate::record::Record;

/// The records of a partition that were fetched ahead.
pub(crate) struct Queue {
    pub(crate) topic: Arc<str>,
    pub(crate) partition: i32,
    pub(crate) inner: PartitionQueue<Events>,
    /// The next offset expected.
    pub(crate) position: i64,
    /// The last thing the broker said was that nothing stands at `position` yet.
    pub(crate) at_end: bool,
    /// Records are left where they are for now.
    pub(crate) held: bool,
}

impl Queue {
    /// Takes the next record that is there.
    pub(crate) fn take(&mut self) -> Result<Option<Record>, Error> {
        loop {
            let error = match self.inner.poll(Duration::ZERO) {
                None => return Ok(None),
                Some(Ok(message)) => {
                    let record = Record::of(&self.topic, &message);
                    self.position = record.offset + 1;
                    self.at_end = false;
                    return Ok(Some(record));
                }
                Some(Err(error)) => error,
            };
            match error {
                KafkaError::PartitionEOF(_) => self.at_end = true,
                other => return Err(self.name(other)),
            }
        }
    }

    fn name(&self, error: KafkaError) -> Error {
        use RDKafkaErrorCode as C;
        let topic = self.topic.to_string();
        match error.rdkafka_error_code() {
            Some(C::AutoOffsetReset | C::OffsetOutOfRange | C::NoOffset | C::LogTruncation) => {
                Error::OffsetOutOfRange { topic, partition: self.partition, offset: self.position }
            }
            Some(C::UnknownTopicOrPartition | C::UnknownPartition | C::UnknownTopic) => {
                Error::UnknownPartition { topic, partition: self.partition }
            }
            _ => Error::of(format!("read {topic}[{}]", self.partition), error),
        }
    }
}

/// Returns the queue of an assigned partition.
pub(crate) fn find<'a>(queues: &'a mut [Queue], topic: &str, partition: i32) -> Result<&'a mut Queue, Error> {
    queues
        .iter_mut()
        .find(|q| q.partition == partition && *q.topic == *topic)
        .ok_or_else(|| Error::UnknownPartition { topic: topic.to_owned(), partition })
}
