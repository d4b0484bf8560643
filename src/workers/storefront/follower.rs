//! One client's view of the hub: what to send next.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::Utf8Bytes;
use metrics::counter;
use tokio::sync::watch;
use tokio::time::Instant;

use super::hub::{ClientMark, Hub, Joined, Marks};
use super::message::{self, Subscribe};
use super::outbox::{Outbox, Taken};
use crate::position::Bound;

/// Bytes handed out at once.
const CHUNK: usize = 64 * 1024;

/// Follows until it is dropped.
#[derive(Debug)]
pub(super) struct Follower {
    hub: Arc<Hub>,
    id: u64,
    outbox: Arc<Outbox>,
    marks: watch::Receiver<Marks>,
    /// The token that the client has.
    token: Option<Bound>,
    next_mark: Instant,
    between_marks: Duration,
}

/// What a client is to be sent.
#[derive(Debug)]
pub(super) enum Outgoing {
    /// An event or a message.
    Text(Utf8Bytes),
    /// A mark, its bound being the client's token once it has it.
    Mark(ClientMark),
}

impl Follower {
    /// Joins, and returns the welcome to send first.
    pub(super) fn join(
        hub: &Arc<Hub>,
        subscribe: Subscribe,
        queue: usize,
        between_marks: Duration,
    ) -> (Self, Vec<Outgoing>) {
        let token = subscribe.resume;
        let Joined { id, outbox, marks, from, resumed } = hub.join(subscribe.interest, token, queue);
        let mut first = vec![Outgoing::Text(message::welcome(from, resumed))];
        if token.is_some() && !resumed {
            counter!("highwater_storefront_resyncs_total", "reason" => "token").increment(1);
            first.push(Outgoing::Text(message::resync(from)));
        }
        let token = token.filter(|_| resumed);
        let hub = Arc::clone(hub);
        (Self { hub, id, outbox, marks, token, next_mark: Instant::now(), between_marks }, first)
    }

    /// Waits for what comes next. To be called when all it returned before was handed to the connection.
    ///
    /// Safe to cancel.
    pub(super) async fn next(&mut self) -> Vec<Outgoing> {
        loop {
            // The mark first: what it speaks of is in the outbox by then, or was sent.
            let mark = self.newer_mark();
            let taken = self.outbox.take(CHUNK);
            if !taken.is_empty() {
                return outgoing(&taken);
            }
            let due = Instant::now() >= self.next_mark;
            if let Some(mark) = mark.filter(|_| due) {
                self.token = Some(mark.bound);
                self.next_mark = Instant::now() + self.between_marks;
                return vec![Outgoing::Mark(mark)];
            }
            tokio::select! {
                () = self.outbox.wake.notified() => {}
                () = tokio::time::sleep_until(self.next_mark), if !due => {}
                changed = self.marks.changed(), if due => {
                    if changed.is_err() {
                        // The hub is gone, and so is the process.
                        std::future::pending::<()>().await;
                    }
                }
            }
        }
    }

    fn newer_mark(&mut self) -> Option<ClientMark> {
        let marks = self.marks.borrow_and_update();
        let mark = marks[self.outbox.topics.number()].as_ref()?;
        self.token.is_none_or(|token| token < mark.bound).then(|| mark.clone())
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.hub.leave(self.id);
    }
}

fn outgoing(taken: &Taken) -> Vec<Outgoing> {
    let resync = taken.resync.map(message::resync);
    let events = taken.events.iter().map(|event| event.text.clone());
    resync.into_iter().chain(events).map(Outgoing::Text).collect()
}
