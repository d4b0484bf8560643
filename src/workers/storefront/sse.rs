//! The same events as Server-Sent Events, for who cannot have a WebSocket: `/v1/events?topics=stock,prices&parts=1,2`.
//!
//! The `id` of the stream is the last mark, so that a browser's own `Last-Event-ID` resumes.

use std::collections::BTreeSet;
use std::collections::VecDeque;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;

use axum::http::HeaderMap;
use axum::response::sse::{Event, KeepAlive, Sse};
use futures_util::Stream;
use serde::Deserialize;
use tokio::sync::OwnedSemaphorePermit;

use super::follower::{Follower, Outgoing};
use super::hub::{ClientMark, Hub};
use super::message::{self, Subscribe};
use super::settings::Settings;
use super::socket::rand_below;
use crate::running::Shutdown;

/// The query of a request.
#[derive(Debug, Deserialize)]
pub(super) struct Query {
    topics: String,
    parts: Option<String>,
    resume: Option<String>,
}

/// Reads a request.
///
/// # Errors
/// What is wrong, for the client to read.
pub(super) fn subscribe(query: &Query, headers: &HeaderMap, max_parts: usize) -> Result<Subscribe, String> {
    let parts = query.parts.as_deref().filter(|&parts| parts != "all");
    let parts =
        parts.map(|parts| parts.split(',').filter(|part| !part.is_empty()).map(Box::from).collect::<BTreeSet<_>>());
    let last = headers.get("last-event-id").and_then(|id| id.to_str().ok()).or(query.resume.as_deref());
    message::interest(query.topics.split(','), parts, last, max_parts)
}

/// Serves one client until it leaves or the gateway drains.
pub(super) fn serve(
    subscribe: Subscribe,
    hub: &Arc<Hub>,
    settings: &Settings,
    shutdown: Shutdown,
    permit: OwnedSemaphorePermit,
) -> Sse<impl Stream<Item = Result<Event, Infallible>> + use<>> {
    let (follower, first) = Follower::join(hub, subscribe, settings.queue, settings.mark);
    let state = State { follower, waiting: first.into(), shutdown, drained: false, _permit: permit };
    let stream = futures_util::stream::unfold(state, async |mut state| Some((Ok(state.next().await?), state)));
    Sse::new(stream).keep_alive(KeepAlive::new().interval(settings.heartbeat))
}

struct State {
    follower: Follower,
    waiting: VecDeque<Outgoing>,
    shutdown: Shutdown,
    drained: bool,
    /// Its place among the clients.
    _permit: OwnedSemaphorePermit,
}

impl State {
    async fn next(&mut self) -> Option<Event> {
        if self.drained {
            return None;
        }
        while self.waiting.is_empty() {
            tokio::select! {
                biased;
                () = self.shutdown.cancelled() => {
                    self.drained = true;
                    return Some(Event::default().retry(Duration::from_millis(rand_below(5_000))));
                }
                outgoing = self.follower.next() => self.waiting.extend(outgoing),
            }
        }
        Some(match self.waiting.pop_front()? {
            Outgoing::Text(text) => Event::default().data(text.as_str()),
            Outgoing::Mark(ClientMark { bound, text }) => Event::default().id(bound.to_string()).data(text.as_str()),
        })
    }
}
