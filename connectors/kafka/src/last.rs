//! The newest record of a partition. Control records and aborted transactions take offsets too, so the
//! last offset is rarely the last record: look back in windows that grow.

use std::time::{Duration, Instant};

use crate::connection::{Connection, Isolation};
use crate::consumer::Consumer;
use crate::error::Error;
use crate::record::{ConsumerSettings, Record, Start};

const FIRST_WINDOW: i64 = 64;
const BATCH_RECORDS: usize = 1000;

/// Returns the newest record of `topic[partition]` that `isolation` shows, or `None` for a partition without any.
///
/// Under `ReadCommitted` an open transaction hides what stands behind its start, so ask after
/// [`crate::TransactionalProducer::init`] has ended the predecessor's.
///
/// # Errors
///
/// [`Error::Deadline`] when `timeout` ends first; others as the reader's.
pub async fn last_record(
    connection: &Connection,
    topic: &str,
    partition: i32,
    isolation: Isolation,
    timeout: Duration,
) -> Result<Option<Record>, Error> {
    let deadline = Instant::now() + timeout;
    let mut consumer = Consumer::new(connection, ConsumerSettings::new("highwater.last-record", isolation))?;
    let ends = consumer.watermarks(topic, partition, timeout).await?;
    let mut window = FIRST_WINDOW;
    let mut start = ends.high;
    let mut newest = None;
    while newest.is_none() && start > ends.low {
        start = (ends.high - window).max(ends.low);
        consumer.assign(&[Start { topic: topic.to_owned(), partition, offset: start }])?;
        // A writer beside us could move the end for ever: `ends.high` is where this search stops.
        while !consumer.at_end(topic, partition) && consumer.position(topic, partition).is_some_and(|p| p < ends.high) {
            let left = deadline.saturating_duration_since(Instant::now());
            if left.is_zero() {
                return Err(Error::Deadline {
                    what: format!("give the last record of {topic}[{partition}]"),
                    waited: timeout,
                });
            }
            newest = consumer.next_batch(BATCH_RECORDS, left.min(Duration::from_millis(100))).await?.pop().or(newest);
        }
        window = window.saturating_mul(4);
    }
    consumer.leave();
    Ok(newest)
}
