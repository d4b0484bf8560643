//! One reader, many clients: every event goes to those who follow its topic and part.
//!
//! Joining and sending on exclude each other, so that a client gets every event from its welcome's bound on.

use std::collections::{BTreeSet, HashMap};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use axum::extract::ws::Utf8Bytes;
use tokio::sync::watch;

use super::event::{Event, Topics};
use super::message;
use super::outbox::Outbox;
use super::progress::{Marked, Progress};
use super::ring::Ring;
use crate::position::Bound;

/// What a client follows.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Interest {
    pub(super) topics: Topics,
    /// `None` is all parts, and what is of no part.
    pub(super) parts: Option<BTreeSet<Box<str>>>,
}

impl Interest {
    fn covers(&self, event: &Event) -> bool {
        let of_part = |parts: &BTreeSet<_>| event.part.as_ref().is_some_and(|part| parts.contains(part));
        self.topics.contains(event.topic) && (event.truncation || self.parts.as_ref().is_none_or(of_part))
    }
}

/// A mark as it goes to clients.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct ClientMark {
    pub(super) bound: Bound,
    pub(super) text: Utf8Bytes,
}

/// The marks for each set of topics.
pub(super) type Marks = [Option<ClientMark>; Topics::SETS];

/// How a client was let in.
#[derive(Debug)]
pub(super) struct Joined {
    pub(super) id: u64,
    pub(super) outbox: Arc<Outbox>,
    pub(super) marks: watch::Receiver<Marks>,
    /// It will have every event from here on.
    pub(super) from: Bound,
    /// It also has every event since its token.
    pub(super) resumed: bool,
}

/// What the reader and the clients share.
#[derive(Debug)]
pub(super) struct Hub {
    state: Mutex<State>,
    marks: watch::Sender<Marks>,
    ready: AtomicBool,
    /// CloudEvents `source` of marks to clients.
    source: String,
}

#[derive(Debug, Default)]
struct State {
    progress: Progress,
    rings: HashMap<(usize, i32), Ring>,
    clients: HashMap<u64, Client>,
    /// Those who follow all parts, and those who follow each part.
    all: BTreeSet<u64>,
    by_part: HashMap<Box<str>, BTreeSet<u64>>,
    next_id: u64,
}

#[derive(Debug)]
struct Client {
    interest: Interest,
    outbox: Arc<Outbox>,
}

impl Hub {
    pub(super) fn new(source: &str) -> Self {
        Self {
            state: Mutex::default(),
            marks: watch::Sender::new(Marks::default()),
            ready: AtomicBool::new(false),
            source: format!("/highwater/{source}"),
        }
    }

    /// Whether every partition was read to its end once: before that, clients would be told old news.
    pub(super) fn is_ready(&self) -> bool {
        self.ready.load(Ordering::Acquire)
    }

    pub(super) fn set_ready(&self) {
        self.ready.store(true, Ordering::Release);
    }

    /// Starts a partition, or starts it again: what was kept of it is forgotten.
    pub(super) fn add_partition(&self, topic: usize, index: i32, ring: usize) {
        let mut state = self.state();
        if state.rings.insert((topic, index), Ring::new(ring)).is_none() {
            state.progress.add(topic, index);
        }
    }

    /// Sends on what was read, in its order.
    pub(super) fn publish(&self, read: impl IntoIterator<Item = Read>) {
        let marks = {
            let mut state = self.state();
            for read in read {
                match read {
                    Read::Event(event) => state.send_on(&Arc::new(event)),
                    Read::Mark { topic, partition, marked } => {
                        if let Some(ring) = state.rings.get_mut(&(topic, partition)) {
                            ring.mark(marked.bound);
                        }
                        state.progress.mark(topic, partition, marked);
                    }
                }
            }
            let mark = |topics| {
                let Marked { bound, time } = state.progress.least(topics)?;
                Some((bound, time))
            };
            Topics::all_sets().map(|topics| if topics.is_empty() { None } else { mark(topics) }).collect::<Vec<_>>()
        };
        // After the events: whoever sees a mark and then an empty outbox has sent all below it.
        self.marks.send_if_modified(|shown| {
            let mut moved = false;
            for (shown, mark) in shown.iter_mut().zip(marks) {
                let Some((bound, time)) = mark else { continue };
                if shown.as_ref().is_none_or(|shown| shown.bound < bound) {
                    *shown = Some(ClientMark { bound, text: message::mark(&self.source, bound, &time) });
                    moved = true;
                }
            }
            moved
        });
    }

    /// Lets a client in; with a token it gets what it missed, where that is still here.
    pub(super) fn join(&self, interest: Interest, token: Option<Bound>, queue: usize) -> Joined {
        let mut state = self.state();
        let topics = interest.topics;
        let outbox = Arc::new(Outbox::new(topics, queue));
        let from = state.progress.next(topics);
        let resumed = token.is_some_and(|token| state.replay(&interest, token, &outbox, from));
        let id = state.next_id;
        state.next_id += 1;
        match &interest.parts {
            None => {
                state.all.insert(id);
            }
            Some(parts) => {
                for part in parts {
                    state.by_part.entry(part.clone()).or_default().insert(id);
                }
            }
        }
        state.clients.insert(id, Client { interest, outbox: Arc::clone(&outbox) });
        show_clients(state.clients.len());
        Joined { id, outbox, marks: self.marks.subscribe(), from, resumed }
    }

    pub(super) fn leave(&self, id: u64) {
        let mut state = self.state();
        let Some(client) = state.clients.remove(&id) else { return };
        state.all.remove(&id);
        for part in client.interest.parts.iter().flatten() {
            if let Some(followers) = state.by_part.get_mut(part) {
                followers.remove(&id);
                if followers.is_empty() {
                    state.by_part.remove(part);
                }
            }
        }
        show_clients(state.clients.len());
    }

    fn state(&self) -> MutexGuard<'_, State> {
        // A panic in between could leave a client out of an index, which only its own leaving looks at again.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What the reader found.
#[derive(Debug)]
pub(super) enum Read {
    Event(Event),
    Mark { topic: usize, partition: i32, marked: Marked },
}

impl State {
    fn send_on(&mut self, event: &Arc<Event>) {
        self.progress.event(event.topic, event.partition, event.position);
        if let Some(ring) = self.rings.get_mut(&(event.topic, event.partition)) {
            ring.push(event);
        }
        let of_part = event.part.as_ref().and_then(|part| self.by_part.get(part));
        let progress = &self.progress;
        let send = |client: &Client| {
            if client.interest.covers(event) {
                client.outbox.offer(event, || progress.next(client.outbox.topics));
            }
        };
        if event.truncation {
            self.clients.values().for_each(send);
        } else {
            self.all.iter().chain(of_part.into_iter().flatten()).filter_map(|id| self.clients.get(id)).for_each(send);
        }
    }

    /// Puts what a client missed since its token into its outbox; false if not all of it is still here.
    fn replay(&self, interest: &Interest, token: Bound, outbox: &Outbox, from: Bound) -> bool {
        let rings =
            || self.rings.iter().filter(|((topic, _), _)| interest.topics.contains(*topic)).map(|(_, ring)| ring);
        if !rings().all(|ring| ring.reaches(token)) {
            return false;
        }
        for event in rings().flat_map(|ring| ring.since(token)).filter(|event| interest.covers(event)) {
            // Too much for the queue becomes a resync by itself.
            outbox.offer(event, || from);
        }
        true
    }
}

fn show_clients(count: usize) {
    metrics::gauge!("highwater_storefront_clients").set(u32::try_from(count).map_or(f64::MAX, f64::from));
}

#[cfg(test)]
mod tests;
