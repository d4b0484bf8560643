//! Commit → Redis: keyspace notifications tell that a key was written, the entry itself tells what it shows.
//!
//! An arrival is the time of the answer with the entry, one round trip after the notification, so that it is never taken
//! for earlier than it was.

use std::collections::BTreeSet;
use std::sync::Arc;

use ::redis::aio::{MultiplexedConnection, PubSub};
use anyhow::{Context, Result};
use futures_util::{FutureExt, StreamExt};

use super::clock::now_us;
use super::{Shared, StockLevel};
use crate::Endpoints;
use crate::ledger::Copy;

const KEYSPACE: &str = "__keyspace@0__:";

/// Subscribes to the stock keys.
pub(super) async fn open(endpoints: &Endpoints) -> Result<(PubSub, MultiplexedConnection)> {
    let client = ::redis::Client::open(endpoints.cache.as_str())?;
    let unreachable = || format!("cannot reach Redis at {}", endpoints.cache);
    let mut connection = client.get_multiplexed_async_connection().await.with_context(unreachable)?;
    // Keyspace notifications of hashes. The demo's own Redis; a shared one would be asked for its setting first.
    let set: ::redis::RedisResult<()> =
        ::redis::cmd("CONFIG").arg("SET").arg("notify-keyspace-events").arg("Kh").query_async(&mut connection).await;
    set.context("Redis refuses notifications")?;
    let mut notifications = client.get_async_pubsub().await.with_context(unreachable)?;
    notifications.psubscribe(format!("{KEYSPACE}part:*:stock")).await?;
    Ok((notifications, connection))
}

/// Follows the notifications until the connection ends.
pub(super) async fn observe(
    notifications: PubSub,
    mut connection: MultiplexedConnection,
    shared: Arc<Shared>,
) -> Result<()> {
    let mut notifications = notifications.into_on_message();
    while let Some(first) = notifications.next().await {
        let mut keys = BTreeSet::from([first.get_channel_name().to_owned()]);
        // Those that have come meanwhile are asked for together.
        while let Some(Some(more)) = notifications.next().now_or_never() {
            keys.insert(more.get_channel_name().to_owned());
        }
        let mut ask = ::redis::pipe();
        for key in &keys {
            ask.cmd("HMGET").arg(key.trim_start_matches(KEYSPACE)).arg("v").arg("l");
        }
        let entries: Vec<(Option<String>, Option<String>)> = ask.query_async(&mut connection).await?;
        let arrived = now_us();
        for (value, bound) in entries {
            let (Some(value), Some(bound)) = (value, bound) else { continue };
            let Ok(level) = serde_json::from_str::<StockLevel>(&value) else { continue };
            level.shown(&shared.ledger, Copy::Redis);
            for committed in shared.sightings.read(level.part_id, &bound, arrived) {
                shared.latency(Copy::Redis).record(committed, arrived);
            }
        }
    }
    Ok(())
}
