//! How far behind a worker is, asked beside the reading; with that, whether Kafka answers at all.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant};

use highwater_kafka::Probe;
use metrics::gauge;
use tokio::task::AbortHandle;

use super::start::ASK;
use super::worker::Partition;

/// How often lag is measured and offsets are shown.
pub(super) const MEASURE: Duration = Duration::from_secs(5);
/// Without a whole measurement for so long, nobody knows how far behind the worker is.
const SILENCE: Duration = Duration::from_secs(15);

const UNKNOWN: i64 = -1;

/// What the measuring task and the loop share; the task ends with it.
pub(super) struct Lag {
    shared: Arc<Shared>,
    task: AbortHandle,
}

struct Shared {
    partitions: Vec<Measured>,
    /// When all partitions had answered last.
    answered: Mutex<Instant>,
}

struct Measured {
    partition: Partition,
    /// Behind what is applied.
    applied: AtomicI64,
    /// The high watermark, when it was asked last; [`UNKNOWN`] before the first answer.
    end: AtomicI64,
}

impl Lag {
    /// Begins to measure partitions, of each of which everything below an offset is applied.
    pub(super) fn measure(probe: Probe, partitions: Vec<(Partition, i64)>, worker: &'static str) -> Self {
        let measured =
            |(partition, applied)| Measured { partition, applied: AtomicI64::new(applied), end: UNKNOWN.into() };
        let partitions = partitions.into_iter().map(measured).collect();
        let shared = Arc::new(Shared { partitions, answered: Mutex::new(Instant::now()) });
        let task = tokio::spawn(measure(probe, Arc::clone(&shared), worker)).abort_handle();
        Self { shared, task }
    }

    pub(super) fn applied(&self, index: usize, offset: i64) {
        self.shared.partitions[index].applied.store(offset, Ordering::Relaxed);
    }

    /// Returns where a partition ended when it was asked last; `None` before the first answer.
    pub(super) fn end(&self, index: usize) -> Option<i64> {
        Some(self.shared.partitions[index].end.load(Ordering::Relaxed)).filter(|&end| end != UNKNOWN)
    }

    /// Reports whether Kafka owes an answer for so long that the lag is not known any more.
    pub(super) fn is_unknown(&self) -> bool {
        self.shared.answered.lock().unwrap_or_else(PoisonError::into_inner).elapsed() > SILENCE
    }
}

impl Drop for Lag {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// Publishes how many offsets are not applied yet. Control records count, so a caught-up reader can show a few.
async fn measure(probe: Probe, shared: Arc<Shared>, worker: &'static str) {
    loop {
        let mut all = true;
        for Measured { partition, applied, end } in &shared.partitions {
            let Ok(ends) = probe.watermarks(&partition.topic, partition.index, ASK).await else {
                all = false;
                continue;
            };
            end.store(ends.high, Ordering::Relaxed);
            let lag = ends.high.saturating_sub(applied.load(Ordering::Relaxed)).max(0);
            let labels = [
                ("worker", worker.to_owned()),
                ("topic", partition.topic.to_string()),
                ("partition", partition.index.to_string()),
            ];
            #[expect(clippy::cast_precision_loss, reason = "a lag is far below 2^52")]
            gauge!("highwater_delivery_lag_records", &labels).set(lag as f64);
        }
        if all {
            *shared.answered.lock().unwrap_or_else(PoisonError::into_inner) = Instant::now();
        }
        tokio::time::sleep(MEASURE).await;
    }
}
