//! This project: the role `capture` alone, settings as shipped but for what is named here.

use std::net::TcpListener;
use std::process::Command;

use anyhow::{Context, Result};
use serde_json::Value;

use crate::backlog::Progress;
use crate::process::Process;
use crate::source::Path;
use crate::{Bench, PARTITIONS};

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Highwater {
    pub(crate) history: bool,
    pub(crate) path: Path,
    pub(crate) setting: Setting,
}

/// What is set otherwise than as shipped.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Setting {
    Shipped,
    /// Kafka transactions of at most so many milliseconds and records.
    Transactions {
        ms: u32,
        records: u32,
    },
    /// Commits are published before the primary shows them.
    Ahead,
}

impl Highwater {
    /// With the settings as shipped.
    pub(crate) const fn shipped(history: bool, path: Path) -> Self {
        Self { history, path, setting: Setting::Shipped }
    }
}

impl Setting {
    /// What is set, as config.toml has it.
    pub(crate) fn name(self) -> String {
        match self {
            Self::Shipped => "as shipped".to_owned(),
            Self::Transactions { ms, records } => format!("transaction_ms = {ms}, transaction_records = {records}"),
            Self::Ahead => "visible_first = false".to_owned(),
        }
    }

    fn variables(self) -> Vec<(&'static str, String)> {
        match self {
            Self::Shipped => Vec::new(),
            Self::Transactions { ms, records } => vec![
                ("HIGHWATER_CAPTURE_TRANSACTION_MS", ms.to_string()),
                ("HIGHWATER_CAPTURE_TRANSACTION_RECORDS", records.to_string()),
            ],
            Self::Ahead => vec![("HIGHWATER_CAPTURE_VISIBLE_FIRST", false.to_string())],
        }
    }
}

/// Gives the run the progress of the slot that its own is a copy of: the tables were read, and nothing came since.
pub(crate) async fn prepare(bench: &Bench, (key, value): &Progress, run: &str) -> Result<()> {
    let topic = format!("{run}.progress");
    // As capture makes it; it refuses a topic with other settings.
    bench.kafka.make(&topic, 1, &[("cleanup.policy", "compact"), ("max.message.bytes", "16777216")]).await?;
    let mut progress: Value = serde_json::from_slice(value).context("the progress record is no JSON")?;
    // The run's topics are new, and end at nothing.
    progress["ends"] = serde_json::json!({});
    bench.kafka.append(&topic, key, &serde_json::to_vec(&progress)?).await
}

/// Starts capture on a slot, into topics with the prefix `run`.
pub(crate) fn start(bench: &Bench, tool: Highwater, slot: &str, run: &str) -> Result<Process> {
    let source = &bench.source;
    // Nobody asks it; it only must not be another's.
    let listen = TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let mut command = Command::new(&bench.highwater);
    // As shipped: what the caller's environment sets is another pipeline's.
    for (name, _) in std::env::vars().filter(|(name, _)| name.starts_with("HIGHWATER_")) {
        command.env_remove(name);
    }
    command
        .args(["run", "capture", "--config", "config.toml"])
        .env("HIGHWATER_SOURCE_DATABASE", source.capture_address(tool.path)?)
        .env("HIGHWATER_SOURCE_PASSWORD", source.variable("HIGHWATER_SOURCE_PASSWORD")?)
        .env("HIGHWATER_SOURCE_SLOT", slot)
        .env("HIGHWATER_SOURCE_TOPIC_PREFIX", run)
        .env("HIGHWATER_TOPICS_BROKERS", &bench.kafka.brokers)
        .env("HIGHWATER_TOPICS_PARTITIONS", PARTITIONS.to_string())
        .env("HIGHWATER_CAPTURE_HISTORY", tool.history.to_string())
        .env("HIGHWATER_OPERATE_LISTEN", listen.to_string())
        .envs(tool.setting.variables())
        .envs(bench.settings.iter().map(|(name, value)| (name, value)));
    Process::spawn(&mut command, &bench.folder.join("highwater.log"))
}
