//! Commit → browser: a WebSocket client of the storefront gateway, as an open page is one.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use futures_util::{SinkExt, StreamExt};
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::Message;
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::Shared;
use super::clock::{event_time_us, now_us};
use super::kafka::Seen;
use crate::Endpoints;
use crate::ledger::Copy;

/// How long the welcome may take.
const WELCOME: Duration = Duration::from_secs(10);
/// Marks come at least once a second: after this much silence the gateway is not there.
const SILENCE: Duration = Duration::from_secs(15);

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

/// Subscribes to every part and waits for the welcome.
pub(super) async fn open(endpoints: &Endpoints) -> Result<Socket> {
    let address = format!("{}/v1/ws", endpoints.storefront.replacen("http", "ws", 1));
    let unreachable = || format!("cannot reach the storefront gateway at {address}");
    let (mut socket, _) = connect_async(&address).await.with_context(unreachable)?;
    socket.send(Message::text(r#"{"type":"subscribe","topics":["stock","prices","content"]}"#)).await?;
    let first = tokio::time::timeout(WELCOME, next(&mut socket)).await.with_context(unreachable)??;
    if !first.contains(r#""welcome""#) {
        bail!("the storefront gateway answered a subscription with {first}");
    }
    Ok(socket)
}

/// Follows the events until the connection ends.
pub(super) async fn observe(mut socket: Socket, shared: Arc<Shared>) -> Result<()> {
    loop {
        let text =
            tokio::time::timeout(SILENCE, next(&mut socket)).await.context("the storefront gateway is silent")??;
        let arrived = now_us();
        let Ok(event) = serde_json::from_str::<Seen<'_>>(&text) else { continue };
        let Some(committed) = event_time_us(event.time).filter(|_| event.is_change()) else { continue };
        shared.latency(Copy::Browser).record(committed, arrived);
        if let Some(level) = event.stock() {
            level.shown(&shared.ledger, Copy::Browser);
        }
    }
}

async fn next(socket: &mut Socket) -> Result<String> {
    loop {
        match socket.next().await {
            Some(Ok(Message::Text(text))) => return Ok(text.to_string()),
            Some(Ok(Message::Close(why))) => bail!("the storefront gateway closed the connection: {why:?}"),
            Some(Ok(_)) => {}
            Some(Err(error)) => return Err(error).context("the connection to the storefront gateway broke"),
            None => bail!("the storefront gateway ended the connection"),
        }
    }
}
