//! Where reading begins: which partitions there are, and what the worker says of each.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use highwater_kafka::{Consumer, Error};
use tracing::{info, warn};

use super::backoff::{Backoff, chance};
use super::run::Feed;
use super::worker::{Fault, Partition, Resume, Whence, Worker};
use crate::running::Shutdown;

/// A client that knows nothing after so many attempts is replaced: some never find their brokers again.
const ATTEMPTS: u32 = 8;

/// How long one question to the brokers may take.
pub(super) const ASK: Duration = Duration::from_secs(5);

/// Why the loop is over.
pub(super) enum Ended {
    /// A shutdown, between two batches.
    Drained,
    /// Nothing helps but an operator, for this reason.
    Stopped(String),
}

impl From<Error> for Ended {
    fn from(error: Error) -> Self {
        Self::Stopped(error.to_string())
    }
}

/// Waits until all topics exist and lists their partitions.
pub(super) async fn partitions(
    consumer: &mut Consumer,
    feed: &Feed,
    worker: &'static str,
    shutdown: &Shutdown,
) -> Result<Vec<Partition>, Ended> {
    let mut all = Vec::new();
    for topic in &feed.topics {
        let name: Arc<str> = Arc::from(topic.as_str());
        let mut attempts = 0;
        let count = loop {
            match consumer.partitions(topic, ASK).await {
                Ok(Some(count)) => break count,
                Ok(None) => info!(worker, topic, "waits for the topic; capture makes it"),
                Err(error) if error.is_transient() => warn!(worker, topic, %error, "waits for kafka"),
                Err(error) => return Err(error.into()),
            }
            ask_again(consumer, &mut attempts, shutdown).await?;
        };
        all.extend((0..count).map(|index| Partition { topic: Arc::clone(&name), index }));
    }
    Ok(all)
}

/// Asks the worker and the brokers where to read a partition from, until they answer.
pub(super) async fn begin<W: Worker>(
    worker: &mut W,
    consumer: &mut Consumer,
    feed: &Feed,
    partition: &Partition,
    shutdown: &Shutdown,
) -> Result<(i64, Resume), Ended> {
    let mut attempts = 0;
    loop {
        match try_begin(worker, consumer, feed, partition).await {
            Ok(found) => return Ok(found),
            Err(Fault::Transient(reason)) => {
                warn!(worker = worker.name(), %partition, attempts, reason, "cannot resume yet, will ask again");
            }
            Err(Fault::Rewind) => warn!(worker = worker.name(), %partition, "its copy moves, will ask again"),
            Err(Fault::Poison { reason, .. } | Fault::Fatal(reason)) => {
                return Err(Ended::Stopped(format!("cannot resume {partition}: {reason}")));
            }
        }
        ask_again(consumer, &mut attempts, shutdown).await?;
    }
}

/// Waits before the next attempt, which another client makes where many have failed.
async fn ask_again(consumer: &mut Consumer, attempts: &mut u32, shutdown: &Shutdown) -> Result<(), Ended> {
    pause(attempts, shutdown).await?;
    if attempts.is_multiple_of(ATTEMPTS) {
        consumer.renew()?;
    }
    Ok(())
}

async fn try_begin<W: Worker>(
    worker: &mut W,
    consumer: &Consumer,
    feed: &Feed,
    partition: &Partition,
) -> Result<(i64, Resume), Fault> {
    let since = async |age| {
        let answer = consumer.offset_at(&partition.topic, partition.index, ago(age), ASK).await;
        answer.map_err(|error| fault(&error))
    };
    let (topic, index) = (&*partition.topic, partition.index);
    let ends = consumer.watermarks(topic, index, ASK).await.map_err(|error| fault(&error))?;
    let resume = worker.resume(partition, ends.high).await?;
    let offset = match resume.whence {
        Whence::Beginning => ends.low,
        Whence::Offset(offset) if (ends.low..=ends.high).contains(&offset) => {
            if let Some(remedy) = worker.after_compaction(partition) {
                let whole_from = since(feed.compaction_lag).await?.unwrap_or(ends.high);
                is_whole(offset, whole_from, remedy).map_err(Fault::Fatal)?;
            }
            offset
        }
        Whence::Offset(offset) => return Err(Fault::Fatal(gone(offset, ends.low, ends.high))),
        Whence::Back(age) => since(age).await?.unwrap_or(ends.high),
    };
    Ok((offset, resume))
}

/// Returns the time so long ago, in milliseconds since 1970.
fn ago(age: Duration) -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.saturating_sub(age).as_millis()).unwrap_or(i64::MAX)
}

/// Refuses to go on at an offset behind which compaction may have taken records: those below `whole_from` are older than
/// the compaction lag. Where nothing stands between the two, nothing was taken.
fn is_whole(offset: i64, whole_from: i64, remedy: &str) -> Result<(), String> {
    if offset >= whole_from {
        return Ok(());
    }
    Err(format!(
        "should go on at offset {offset}, but what stands below {whole_from} is older than the compaction lag: changes, deletes \
         among them, may be gone without having been applied; {remedy}"
    ))
}

fn gone(offset: i64, low: i64, high: i64) -> String {
    let what = if offset < low {
        "older records are deleted, so some were never applied"
    } else {
        "the topic is shorter than what was applied: Kafka lost data, or the topic was made anew"
    };
    format!("should go on at offset {offset}, but the partition holds {low} to {high}: {what}; replay this copy")
}

fn fault(error: &Error) -> Fault {
    if error.is_transient() { Fault::Transient(error.to_string()) } else { Fault::Fatal(error.to_string()) }
}

/// Waits before the next attempt.
pub(super) async fn pause(attempts: &mut u32, shutdown: &Shutdown) -> Result<(), Ended> {
    *attempts = attempts.saturating_add(1);
    let delay = Backoff::default().delay(*attempts, chance());
    tokio::select! {
        () = tokio::time::sleep(delay) => Ok(()),
        () = shutdown.cancelled() => Err(Ended::Drained),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_older_than_the_compaction_lag_is_named_and_told_what_to_do() {
        assert_eq!(is_whole(900, 900, "empty it"), Ok(()));
        assert_eq!(is_whole(901, 900, "empty it"), Ok(()));
        let refused = is_whole(7, 900, "empty it").unwrap_err();
        for expected in ["offset 7", "below 900", "compaction lag", "empty it"] {
            assert!(refused.contains(expected), "{refused}");
        }
    }

    #[test]
    fn a_time_ago_is_never_before_1970() {
        assert_eq!(ago(Duration::MAX), 0);
        assert!(ago(Duration::from_mins(1)) < ago(Duration::ZERO));
    }
}
