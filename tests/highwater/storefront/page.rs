//! A page: the client's side of the WebSocket.

use std::time::{Duration, Instant};

use futures_util::{SinkExt, StreamExt};
use highwater::position::Bound;
use serde_json::Value;
use tokio::net::TcpStream;
use tokio_tungstenite::tungstenite::client::IntoClientRequest;
use tokio_tungstenite::tungstenite::http::HeaderValue;
use tokio_tungstenite::tungstenite::{Error, Message};
use tokio_tungstenite::{MaybeTlsStream, WebSocketStream, connect_async};

use super::TIMEOUT;
use super::gateway::Gateway;

pub(super) struct Page {
    socket: WebSocketStream<MaybeTlsStream<TcpStream>>,
}

/// What a page read: entity and position of each event.
pub(super) struct Slow {
    pub(super) events: Vec<(String, String)>,
    pub(super) resynced: bool,
}

/// The text of the bound at an LSN.
pub(super) fn position(lsn: u64) -> String {
    Bound::at_lsn(1, lsn).to_string()
}

/// A field of a message that is a text.
pub(super) fn text(message: &Value, field: &str) -> String {
    message[field].as_str().unwrap_or_default().to_owned()
}

impl Page {
    pub(super) async fn join(gateway: &Gateway, subscribe: &str) -> Self {
        Self::join_from(gateway, None, subscribe).await
    }

    pub(super) async fn join_from(gateway: &Gateway, origin: Option<&str>, subscribe: &str) -> Self {
        // Whoever asked whether the gateway is ready may still hold the one place that there is.
        let deadline = Instant::now() + TIMEOUT;
        let socket = loop {
            match connect(gateway, origin).await {
                Ok(socket) => break socket,
                Err(Error::Http(answer)) if answer.status().as_u16() == 503 && Instant::now() < deadline => {
                    tokio::time::sleep(Duration::from_millis(20)).await;
                }
                Err(error) => panic!("the gateway does not let the page in: {error}"),
            }
        };
        let mut page = Self { socket };
        page.send(subscribe).await;
        page
    }

    /// Tries to connect, leaves at once, and returns the HTTP status: 101 where it was let in.
    pub(super) async fn refused(gateway: &Gateway, origin: Option<&str>) -> u16 {
        match connect(gateway, origin).await {
            Ok(_) => 101,
            Err(Error::Http(answer)) => answer.status().as_u16(),
            Err(_) => 0,
        }
    }

    pub(super) async fn send(&mut self, message: &str) {
        self.socket.send(Message::text(message)).await.expect("sent");
    }

    /// The next message.
    pub(super) async fn next(&mut self) -> Value {
        serde_json::from_str(&self.next_text().await).expect("JSON")
    }

    pub(super) async fn next_of(&mut self, kind: &str) -> Value {
        loop {
            let message = self.next().await;
            if text(&message, "type") == kind {
                return message;
            }
        }
    }

    pub(super) async fn next_mark(&mut self) -> Value {
        self.next_of("mark").await
    }

    /// The next event, byte for byte.
    pub(super) async fn next_event(&mut self) -> String {
        loop {
            let message = self.next_text().await;
            let read: Value = serde_json::from_str(&message).expect("JSON");
            if text(&read, "type").ends_with(".updated") {
                return message;
            }
        }
    }

    pub(super) async fn read_until_mark(&mut self, position: &str) -> Slow {
        let mut slow = Slow { events: Vec::new(), resynced: false };
        loop {
            let message = self.next().await;
            match text(&message, "type").as_str() {
                "mark" if text(&message, "position") == position => return slow,
                "resync" => slow.resynced = true,
                "stock.updated" => slow.events.push((text(&message, "entity"), text(&message, "position"))),
                _ => {}
            }
        }
    }

    /// Waits for the close frame.
    pub(super) async fn closed(&mut self) -> (u16, String) {
        loop {
            match self.receive().await {
                Some(Ok(Message::Close(Some(frame)))) => return (frame.code.into(), frame.reason.to_string()),
                Some(Ok(_)) => {}
                other => panic!("no close frame: {other:?}"),
            }
        }
    }

    /// Waits until the connection is over, however that is told.
    pub(super) async fn ended(&mut self) {
        while let Some(Ok(_)) = self.receive().await {}
    }

    async fn next_text(&mut self) -> String {
        loop {
            match self.receive().await {
                Some(Ok(Message::Text(text))) => return text.to_string(),
                Some(Ok(Message::Ping(_) | Message::Pong(_))) => {}
                other => panic!("no message: {other:?}"),
            }
        }
    }

    async fn receive(&mut self) -> Option<Result<Message, Error>> {
        tokio::time::timeout(TIMEOUT, self.socket.next()).await.expect("a message in time")
    }
}

type Socket = WebSocketStream<MaybeTlsStream<TcpStream>>;

async fn connect(gateway: &Gateway, origin: Option<&str>) -> Result<Socket, Error> {
    let mut request = format!("ws://{}/v1/ws", gateway.address).into_client_request()?;
    if let Some(origin) = origin {
        request.headers_mut().insert("origin", HeaderValue::from_str(origin).expect("an origin"));
    }
    Ok(connect_async(request).await?.0)
}
