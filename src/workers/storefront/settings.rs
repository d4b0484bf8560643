//! The section `[storefront]`.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use crate::config::Section;

/// Where clients are served and what they are allowed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Settings {
    /// Where `/v1/ws` and `/v1/events` are served.
    pub listen: SocketAddr,
    /// Web origins that may connect, beside pages of the gateway's own host; `*` is any.
    pub origins: Vec<String>,
    /// The most clients at a time.
    pub max_clients: u32,
    /// The most parts in one subscription; more have to follow all.
    pub max_parts: usize,
    /// The largest message of a client, in bytes.
    pub max_message: usize,
    /// The most bytes that wait for one client before older news are dropped and it has to resync.
    pub queue: usize,
    /// What the kernel may hold for one client, in bytes: it is beyond conflation.
    pub send_buffer: u32,
    /// Bytes of recent events kept for resuming clients.
    pub ring: usize,
    /// How far back events are read at the start, so that clients can resume at a restarted gateway.
    pub preload: Duration,
    /// The least time between two marks to one client.
    pub mark: Duration,
    /// How often a client is pinged; after twice that without a sign of life it is dropped.
    pub heartbeat: Duration,
    /// How long one message to a client may take.
    pub write: Duration,
}

impl Settings {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>) -> Self {
        let origins = section.list("origins", &[]);
        for origin in &origins {
            let plain = origin == "*" || origin.starts_with("http://") || origin.starts_with("https://");
            if !plain || origin.ends_with('/') {
                section
                    .error("origins", format!("found {origin:?}; expected \"https://host\" without a path, or \"*\""));
            }
        }
        Self {
            listen: section.listen("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 8080))),
            origins,
            max_clients: section.number("max_clients", 10_000, 1..=1_000_000),
            max_parts: section.number("max_parts", 1_000, 1..=100_000),
            max_message: section.number("max_message_kib", 64_usize, 1..=1_024) * 1_024,
            queue: section.number("queue_kib", 1_024_usize, 16..=1_048_576) * 1_024,
            send_buffer: section.number("send_buffer_kib", 256_u32, 4..=65_536) * 1_024,
            ring: section.mebibytes("ring_mib", 64, 1..=65_536),
            preload: section.seconds("preload_s", 120, 0..=86_400),
            mark: section.millis("mark_ms", 250, 10..=60_000),
            heartbeat: section.seconds("heartbeat_s", 20, 1..=3_600),
            write: section.seconds("write_deadline_s", 30, 1..=3_600),
        }
    }
}
