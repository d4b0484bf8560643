//! What waits for one client.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use tokio::sync::Notify;

use super::conflate::{ConflatingQueue, Pushed};
use super::event::{Event, Topics};
use crate::position::Bound;

/// Written by the hub, emptied by the client's follower.
#[derive(Debug)]
pub(super) struct Outbox {
    pub(super) topics: Topics,
    state: Mutex<State>,
    /// Something waits.
    pub(super) wake: Notify,
}

#[derive(Debug)]
struct State {
    queue: ConflatingQueue,
    /// Older events were dropped: the client must be told, and events are complete from this bound on.
    resync: Option<Bound>,
}

/// What was taken out.
#[derive(Debug, Default)]
pub(super) struct Taken {
    /// To be told before the events.
    pub(super) resync: Option<Bound>,
    pub(super) events: Vec<Arc<Event>>,
}

impl Outbox {
    pub(super) fn new(topics: Topics, limit: usize) -> Self {
        let state = State { queue: ConflatingQueue::new(limit), resync: None };
        Self { topics, state: Mutex::new(state), wake: Notify::new() }
    }

    /// Adds an event. Where there is no room, all that waits is dropped and the client told to fetch the state again;
    /// `next` is the bound from which it will have every event then.
    pub(super) fn offer(&self, event: &Arc<Event>, next: impl FnOnce() -> Bound) {
        {
            let mut state = self.state();
            match state.queue.push(Arc::clone(event)) {
                Pushed::Queued => {}
                Pushed::Conflated | Pushed::Stale => {
                    metrics::counter!("highwater_storefront_conflated_total").increment(1);
                }
                Pushed::Full => {
                    metrics::counter!("highwater_storefront_resyncs_total", "reason" => "slow").increment(1);
                    state.queue.clear();
                    state.resync = Some(next());
                }
            }
        }
        self.wake.notify_one();
    }

    /// Takes out what waits, up to about so many bytes.
    pub(super) fn take(&self, bytes: usize) -> Taken {
        let mut state = self.state();
        let mut taken = Taken { resync: state.resync.take(), events: Vec::new() };
        let mut size = 0;
        while size < bytes
            && let Some(event) = state.queue.pop()
        {
            size += event.text.len();
            taken.events.push(event);
        }
        taken
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // Every change leaves the state whole, a panic between two included.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Taken {
    pub(super) fn is_empty(&self) -> bool {
        self.resync.is_none() && self.events.is_empty()
    }
}
