//! The reader: topics into the hub.

use std::sync::Arc;
use std::time::{Duration, SystemTime};

use axum::extract::ws::Utf8Bytes;
use metrics::histogram;

use super::event::{Event, topic_number};
use super::hub::{Hub, Read};
use super::progress::Marked;
use crate::deliver::{Batch, Fault, Item, Partition, Resume, Whence, Worker};
use crate::events::envelope::Envelope;
use crate::position::Bound;
use crate::workers::commit_age;

/// Gives what it reads to the hub. It keeps nothing, so it begins a little in the past each time.
#[derive(Debug)]
pub(super) struct Reader {
    pub(super) hub: Arc<Hub>,
    /// How far back it begins.
    pub(super) preload: Duration,
    /// Bytes of recent events for each partition.
    pub(super) ring: usize,
}

impl Worker for Reader {
    fn name(&self) -> &'static str {
        "storefront"
    }

    async fn resume(&mut self, partition: &Partition, _: i64) -> Result<Resume, Fault> {
        let topic = number(partition).ok_or_else(|| Fault::Fatal(format!("{partition} is no state topic")))?;
        self.hub.add_partition(topic, partition.index, self.ring);
        Ok(Resume { whence: Whence::Back(self.preload), newest: None })
    }

    async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<(), Fault>> {
        let mut all = Vec::new();
        let mut outcomes = Vec::with_capacity(batches.len());
        for batch in batches {
            let read: Result<Vec<Read>, Fault> =
                batch.items.iter().filter_map(|item| read(batch.partition, item).transpose()).collect();
            outcomes.push(read.map(|read| all.extend(read)));
        }
        self.hub.publish(all);
        if self.hub.is_ready() {
            let now = SystemTime::now();
            let latency = histogram!("database_sync_latency_ms", "operation" => "storefront");
            let times = batches.iter().flat_map(|batch| batch.items).filter_map(commit_time);
            for age in times.filter_map(|time| commit_age(time, now)) {
                latency.record(age.as_secs_f64() * 1_000.0);
            }
        }
        outcomes
    }

    fn caught_up(&mut self) {
        self.hub.set_ready();
    }
}

fn number(partition: &Partition) -> Option<usize> {
    topic_number(partition.topic.rsplit('.').next()?)
}

/// Takes from a record what goes to clients; a tombstone says nothing that its delete did not.
fn read(partition: &Partition, item: &Item<'_>) -> Result<Option<Read>, Fault> {
    let (Some(event), Some(value), Some(topic)) = (&item.event, &item.record.value, number(partition)) else {
        return Ok(None);
    };
    if event.is_mark() {
        let bound = Bound::at_lsn(event.position.timeline, event.position.lsn);
        let marked = Marked { bound, time: Arc::from(event.time.as_ref()) };
        return Ok(Some(Read::Mark { topic, partition: partition.index, marked }));
    }
    let text = Utf8Bytes::try_from(value.clone())
        .map_err(|_| Fault::Poison { offset: item.record.offset, reason: "the event is not UTF-8".to_owned() })?;
    Ok(Some(Read::Event(Event {
        position: event.position,
        topic,
        partition: partition.index,
        key: item.record.key.clone(),
        part: event.subject.as_deref().and_then(|subject| subject.strip_prefix("part/")).map(Box::from),
        text,
        whole: event.unavailable.is_none(),
        truncation: event.truncated_table().is_some(),
    })))
}

/// The time of a change's commit; a snapshot row was read, not committed then.
fn commit_time<'a>(item: &'a Item<'_>) -> Option<&'a str> {
    let event: &Envelope<'_> = item.event.as_ref()?;
    (!event.is_mark() && event.family_and_verb().1 != "snapshot").then_some(event.time.as_ref())
}
