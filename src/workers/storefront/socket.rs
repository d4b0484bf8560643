//! One WebSocket: subscriptions in, events out, heartbeats both ways.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket, close_code};
use futures_util::SinkExt;
use metrics::counter;
use tokio::time::{Instant, MissedTickBehavior};

use super::follower::{Follower, Outgoing};
use super::hub::Hub;
use super::message;
use super::settings::Settings;
use crate::running::Shutdown;

/// How long a client may take to say what it follows.
const SUBSCRIBE_WITHIN: Duration = Duration::from_secs(10);
/// How long the close frame of a drain may take.
const CLOSE_WITHIN: Duration = Duration::from_secs(1);
/// Clients are asked to come back spread over this time.
const RECONNECT_WITHIN_MS: u64 = 5_000;

/// Why a connection ends.
enum End {
    /// The client left, or its connection broke.
    Gone,
    /// It did not keep to the rules or gave no sign of life; with the reason that it is told.
    Dropped(u16, &'static str),
    /// The gateway drains.
    Drain,
}

/// Serves one client until it leaves, is dropped, or the gateway drains.
pub(super) async fn serve(socket: WebSocket, hub: Arc<Hub>, settings: Arc<Settings>, shutdown: Shutdown) {
    let mut session = Session { socket, hub, settings, follower: None, heard: Instant::now() };
    let end = tokio::select! {
        biased;
        () = shutdown.cancelled() => End::Drain,
        end = session.run() => end,
    };
    let close = match end {
        End::Gone => return,
        End::Dropped(code, reason) => {
            counter!("highwater_storefront_dropped_total", "reason" => reason).increment(1);
            CloseFrame { code, reason: Utf8Bytes::from_static(reason) }
        }
        End::Drain => {
            let pause = rand_below(RECONNECT_WITHIN_MS);
            // 1012 is "service restart" (IANA WebSocket close codes); the reason says how long to wait.
            CloseFrame { code: close_code::RESTART, reason: format!("{{\"reconnect_ms\":{pause}}}").into() }
        }
    };
    // The client may be gone already, or its window full: it finds out by itself then.
    let _ = tokio::time::timeout(CLOSE_WITHIN, session.socket.send(Message::Close(Some(close)))).await;
}

struct Session {
    socket: WebSocket,
    hub: Arc<Hub>,
    settings: Arc<Settings>,
    follower: Option<Follower>,
    heard: Instant,
}

impl Session {
    async fn run(&mut self) -> End {
        match self.try_run().await {
            Err(end) => end,
            Ok(never) => match never {},
        }
    }

    async fn try_run(&mut self) -> Result<std::convert::Infallible, End> {
        let subscribe_by = Instant::now() + SUBSCRIBE_WITHIN;
        let mut heartbeat = tokio::time::interval(self.settings.heartbeat);
        heartbeat.set_missed_tick_behavior(MissedTickBehavior::Delay);
        heartbeat.reset();
        loop {
            let follower = self.follower.as_mut();
            let joined = follower.is_some();
            let next = async {
                match follower {
                    Some(follower) => follower.next().await,
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                message = self.socket.recv() => self.heard(message).await?,
                outgoing = next => self.send(outgoing).await?,
                _ = heartbeat.tick() => self.beat().await?,
                () = tokio::time::sleep_until(subscribe_by), if !joined => {
                    return Err(End::Dropped(close_code::POLICY, "no subscription"));
                }
            }
        }
    }

    async fn heard(&mut self, message: Option<Result<Message, axum::Error>>) -> Result<(), End> {
        self.heard = Instant::now();
        match message {
            Some(Ok(Message::Text(text))) => self.subscribe(&text).await,
            Some(Ok(Message::Binary(_))) => {
                Err(End::Dropped(close_code::UNSUPPORTED, "binary messages are not understood"))
            }
            // Pings are answered by the library.
            Some(Ok(Message::Ping(_) | Message::Pong(_))) => Ok(()),
            Some(Ok(Message::Close(_)) | Err(_)) | None => Err(End::Gone),
        }
    }

    /// A later subscription takes the place of the one before.
    async fn subscribe(&mut self, text: &str) -> Result<(), End> {
        let first = match message::subscribe(text, self.settings.max_parts) {
            Ok(subscribe) => {
                self.follower = None;
                let (follower, first) = Follower::join(&self.hub, subscribe, self.settings.queue, self.settings.mark);
                self.follower = Some(follower);
                first
            }
            Err(reason) => vec![Outgoing::Text(message::error(&reason))],
        };
        self.send(first).await
    }

    async fn send(&mut self, outgoing: Vec<Outgoing>) -> Result<(), End> {
        let count = outgoing.len() as u64;
        let deadline = Instant::now() + self.settings.write;
        let all = async {
            for outgoing in outgoing {
                let (Outgoing::Text(text) | Outgoing::Mark(super::hub::ClientMark { text, .. })) = outgoing;
                self.socket.feed(Message::Text(text)).await?;
            }
            self.socket.flush().await
        };
        match tokio::time::timeout_at(deadline, all).await {
            Ok(Ok(())) => {
                counter!("highwater_storefront_messages_total").increment(count);
                Ok(())
            }
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Dropped(close_code::POLICY, "too slow")),
        }
    }

    async fn beat(&mut self) -> Result<(), End> {
        if self.heard.elapsed() > 2 * self.settings.heartbeat {
            return Err(End::Dropped(close_code::POLICY, "no sign of life"));
        }
        let ping = self.socket.send(Message::Ping(bytes::Bytes::new()));
        match tokio::time::timeout(self.settings.write, ping).await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(_)) => Err(End::Gone),
            Err(_) => Err(End::Dropped(close_code::POLICY, "too slow")),
        }
    }
}

/// A number below `end` that differs between clients. Not for secrets.
pub(super) fn rand_below(end: u64) -> u64 {
    use std::hash::{BuildHasher, RandomState};
    RandomState::new().hash_one(0_u8) % end
}
