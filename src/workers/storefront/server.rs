//! The gateway's listener: lets clients in, and says goodbye to them in a drain.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use axum::extract::{Query, State, WebSocketUpgrade};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;
use axum::serve::ListenerExt;
use metrics::counter;
use tokio::net::{TcpListener, TcpSocket};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tracing::{info, warn};

use super::admission::{Refusal, origin_may};
use super::hub::Hub;
use super::settings::Settings;
use super::worker::Reader;
use super::{socket, sse};
use crate::deliver::{Feed, Stopped, deliver};
use crate::running::{Shutdown, Standing};
use crate::topics::Topics;

/// How long clients may take to leave in a drain.
const LEAVE_WITHIN: Duration = Duration::from_secs(3);
/// Connections that the kernel may hold before they are accepted.
const BACKLOG: u32 = 1_024;

/// Why the gateway cannot run.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Its address cannot be listened on.
    #[error("cannot listen on {address} (storefront.listen): {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// The reason.
        source: io::Error,
    },
    /// The topics cannot be read.
    #[error(transparent)]
    Stopped(#[from] Stopped),
}

/// What every request sees.
#[derive(Clone)]
struct Gateway {
    hub: Arc<Hub>,
    settings: Arc<Settings>,
    places: Arc<Semaphore>,
    shutdown: Shutdown,
}

/// Serves clients until `shutdown`, then closes their connections with a hint when to come back.
///
/// `source` is the source's name.
///
/// # Errors
/// If the address cannot be listened on, or the topics cannot be read without a gap.
pub async fn run(
    settings: &Settings,
    topics: &Topics,
    source: &str,
    shutdown: &Shutdown,
    standing: &Standing,
) -> Result<(), Error> {
    let listener = listen(settings).map_err(|source| Error::Listen { address: settings.listen, source })?;
    let hub = Arc::new(Hub::new(source));
    let partitions = usize::try_from(topics.partitions).unwrap_or(1).max(1) * topics.states().len();
    let mut reader = Reader { hub: Arc::clone(&hub), preload: settings.preload, ring: settings.ring / partitions };
    let mut feed =
        Feed::new(topics.connection("highwater-storefront"), topics.states().to_vec(), topics.dead_letters());
    feed.compaction_lag = topics.compaction_lag;
    let gateway = Gateway {
        hub,
        settings: Arc::new(settings.clone()),
        places: Arc::new(Semaphore::new(settings.max_clients as usize)),
        shutdown: shutdown.child_token(),
    };
    let serving = tokio::spawn(serve(listener, gateway.clone()));
    let delivered = deliver(&mut reader, &feed, shutdown, standing).await;
    // Also when reading stopped by itself: clients are better off at another gateway.
    gateway.shutdown.cancel();
    let everybody = gateway.places.acquire_many(settings.max_clients);
    if tokio::time::timeout(LEAVE_WITHIN, everybody).await.is_err() {
        let left = settings.max_clients as usize - gateway.places.available_permits();
        warn!(left, "clients did not leave in time");
    }
    serving.abort();
    delivered.map_err(Error::from)
}

fn listen(settings: &Settings) -> io::Result<TcpListener> {
    let socket = if settings.listen.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
    socket.set_reuseaddr(true)?;
    // Inherited by every connection: what the kernel holds for a slow client goes out however old it is by then.
    socket.set_send_buffer_size(settings.send_buffer)?;
    socket.bind(settings.listen)?;
    socket.listen(BACKLOG)
}

async fn serve(listener: TcpListener, gateway: Gateway) {
    if let Ok(address) = listener.local_addr() {
        info!(%address, "storefront gateway listens");
    }
    let shutdown = gateway.shutdown.clone();
    let router =
        Router::new().route("/v1/ws", get(web_socket)).route("/v1/events", get(server_sent_events)).with_state(gateway);
    let listener = listener.tap_io(|connection| {
        if let Err(error) = connection.set_nodelay(true) {
            warn!(%error, "a connection will be slower than it could be");
        }
    });
    let served = axum::serve(listener, router).with_graceful_shutdown(shutdown.cancelled_owned()).await;
    if let Err(error) = served {
        warn!(%error, "the storefront's listener failed");
    }
}

async fn web_socket(State(gateway): State<Gateway>, headers: HeaderMap, upgrade: WebSocketUpgrade) -> Response {
    let place = match gateway.admit(&headers) {
        Ok(place) => place,
        Err(refusal) => return refuse(refusal),
    };
    let limit = gateway.settings.max_message;
    upgrade.max_message_size(limit).max_frame_size(limit).on_upgrade(async move |socket| {
        socket::serve(socket, gateway.hub, gateway.settings, gateway.shutdown).await;
        drop(place);
    })
}

async fn server_sent_events(
    State(gateway): State<Gateway>,
    headers: HeaderMap,
    Query(query): Query<sse::Query>,
) -> Response {
    let place = match gateway.admit(&headers) {
        Ok(place) => place,
        Err(refusal) => return refuse(refusal),
    };
    let origin = headers.get(header::ORIGIN).cloned();
    match sse::subscribe(&query, &headers, gateway.settings.max_parts) {
        Ok(subscribe) => {
            let stream = sse::serve(subscribe, &gateway.hub, &gateway.settings, gateway.shutdown, place);
            let mut response = stream.into_response();
            if let Some(origin) = origin {
                // It was admitted; without this the browser would hide the answer from the page.
                response.headers_mut().insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, origin);
                response.headers_mut().append(header::VARY, header::HeaderValue::from_static("origin"));
            }
            response
        }
        Err(reason) => (StatusCode::BAD_REQUEST, format!("{reason}\n")).into_response(),
    }
}

impl Gateway {
    fn admit(&self, headers: &HeaderMap) -> Result<OwnedSemaphorePermit, Refusal> {
        if !origin_may(headers, &self.settings.origins) {
            return Err(Refusal::Origin);
        }
        if !self.hub.is_ready() || self.shutdown.is_cancelled() {
            return Err(Refusal::NotReady);
        }
        Arc::clone(&self.places).try_acquire_owned().map_err(|_| Refusal::Full)
    }
}

fn refuse(refusal: Refusal) -> Response {
    counter!("highwater_storefront_refused_total", "reason" => refusal.label()).increment(1);
    let (status, text) = refusal.answer();
    if status == StatusCode::SERVICE_UNAVAILABLE {
        return (status, [(header::RETRY_AFTER, "2")], text).into_response();
    }
    (status, text).into_response()
}
