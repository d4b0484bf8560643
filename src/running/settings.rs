//! The section `[operate]`: how a process is watched, started and stopped.

use std::net::{Ipv4Addr, SocketAddr};
use std::time::Duration;

use tracing::Level;

use super::Patience;
use crate::config::Section;

/// The section `[operate]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// Where `/metrics`, `/healthz` and `/readyz` are served.
    pub listen: SocketAddr,
    /// The least important level that is logged.
    pub log: Level,
    /// How a log line is written.
    pub log_format: LogFormat,
    /// How servers that are down at the start are tried.
    pub start: Patience,
    /// How long a drain may take before the process ends without it.
    pub drain: Duration,
}

/// How a log line is written.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum LogFormat {
    /// For a person.
    Text,
    /// One JSON object for each line.
    Json,
}

impl Settings {
    /// Reads the section.
    pub fn read(section: &mut Section<'_>) -> Self {
        let levels = [
            ("error", Level::ERROR),
            ("warn", Level::WARN),
            ("info", Level::INFO),
            ("debug", Level::DEBUG),
            ("trace", Level::TRACE),
        ];
        let formats = [("text", LogFormat::Text), ("json", LogFormat::Json)];
        Self {
            listen: section.listen("listen", SocketAddr::from((Ipv4Addr::LOCALHOST, 9187))),
            log: section.choice("log", &levels, Level::INFO),
            log_format: section.choice("log_format", &formats, LogFormat::Text),
            start: Patience {
                first: section.millis("start_retry_ms", 200, 1..=60_000),
                longest: section.millis("start_retry_most_ms", 5_000, 1..=600_000),
                deadline: section.seconds("start_deadline_s", 60, 0..=86_400),
            },
            drain: section.seconds("drain_deadline_s", 20, 1..=3_600),
        }
    }
}
