//! A worker that notes what it is given and fails when it is told to.

use std::collections::{BTreeMap, VecDeque};
use std::time::Duration;

use highwater::deliver::{Batch, Fault, Feed, Partition, Resume, Stopped, Whence, Worker, deliver};
use highwater::position::Position;
use highwater::running::{Readiness, Shutdown};

use super::TIMEOUT;
use super::source::{Source, at};

/// One applied event.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Seen {
    position: Position,
    entity: String,
}

impl Seen {
    pub(super) fn event(n: u64) -> Self {
        Self { position: at(n), entity: n.to_string() }
    }
}

type Enough = Box<dyn Fn(&[Seen], i64) -> bool + Send>;

#[derive(Default)]
pub(super) struct Witness {
    seen: Vec<Seen>,
    /// Behind what was applied last.
    offset: i64,
    resume: Option<Resume>,
    after_compaction: Option<&'static str>,
    faults: BTreeMap<i32, VecDeque<Fault>>,
    enough: Option<Enough>,
    shutdown: Shutdown,
}

impl Witness {
    /// The next batch of this partition fails so.
    pub(super) fn fault(&mut self, partition: i32, fault: Fault) {
        self.faults.entry(partition).or_default().push_back(fault);
    }

    pub(super) fn restore(&mut self, resume: Resume) {
        self.resume = Some(resume);
    }

    pub(super) fn needs_deletes(&mut self, remedy: &'static str) {
        self.after_compaction = Some(remedy);
    }

    pub(super) fn stop(&mut self) {
        self.shutdown.cancel();
    }

    /// Runs the loop until `enough`, and returns what was applied.
    pub(super) async fn run_until(
        &mut self,
        source: &Source,
        enough: impl Fn(&[Seen]) -> bool + Send + 'static,
    ) -> Vec<Seen> {
        self.enough = Some(Box::new(move |seen, _| enough(seen)));
        self.shutdown = Shutdown::new();
        self.run_to_its_end(source).await.expect("drained");
        std::mem::take(&mut self.seen)
    }

    pub(super) async fn run_until_offset(&mut self, source: &Source, offset: i64) {
        self.enough = Some(Box::new(move |_, reached| reached >= offset));
        self.run_to_its_end(source).await.expect("drained");
    }

    pub(super) fn seen(&self) -> &[Seen] {
        &self.seen
    }

    pub(super) async fn run_to_its_end(&mut self, source: &Source) -> Result<(), Stopped> {
        self.run(&source.feed(), TIMEOUT).await
    }

    /// Runs the loop on any feed until it has seen so many events, for which it has so long.
    pub(super) async fn run_on(
        &mut self,
        feed: &Feed,
        patience: Duration,
        enough: impl Fn(&[Seen]) -> bool + Send + 'static,
    ) -> Vec<Seen> {
        self.enough = Some(Box::new(move |seen, _| enough(seen)));
        self.run(feed, patience).await.expect("drained");
        std::mem::take(&mut self.seen)
    }

    async fn run(&mut self, feed: &Feed, patience: Duration) -> Result<(), Stopped> {
        let (shutdown, standing) = (self.shutdown.clone(), Readiness::of(["cache"]).role("cache"));
        let outcome = tokio::time::timeout(patience, deliver(self, feed, &shutdown, &standing)).await;
        outcome.unwrap_or_else(|_| panic!("not enough after {patience:?}: {:?}", self.seen))
    }

    fn apply_one(&mut self, batch: &Batch<'_>) -> Result<(), Fault> {
        if let Some(fault) = self.faults.get_mut(&batch.partition.index).and_then(VecDeque::pop_front) {
            return Err(fault);
        }
        let events = batch.items.iter().filter_map(|item| item.event.as_ref());
        self.seen.extend(events.map(|event| Seen {
            position: event.position,
            entity: event.entity.clone().unwrap_or_default().into_owned(),
        }));
        self.offset = batch.next_offset;
        Ok(())
    }
}

impl Worker for Witness {
    fn name(&self) -> &'static str {
        "witness"
    }

    async fn resume(&mut self, _: &Partition, _: i64) -> Result<Resume, Fault> {
        Ok(self.resume.unwrap_or(Resume { whence: Whence::Beginning, newest: None }))
    }

    fn after_compaction(&self, _: &Partition) -> Option<&'static str> {
        self.after_compaction
    }

    async fn apply(&mut self, batches: &[Batch<'_>]) -> Vec<Result<(), Fault>> {
        let outcomes = batches.iter().map(|batch| self.apply_one(batch)).collect();
        if self.enough.as_ref().is_some_and(|enough| enough(&self.seen, self.offset)) {
            self.shutdown.cancel();
        }
        outcomes
    }
}
