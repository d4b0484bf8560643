//! The tools that are measured. Each is started on a slot of its own, and says what it writes and when it is done.

pub(crate) mod ceiling;
pub(crate) mod debezium;
pub(crate) mod highwater;

use anyhow::Result;

use crate::Bench;
use crate::backlog::Progress;
use crate::process::Process;
use crate::source::Path;
use debezium::Debezium;
use highwater::{Highwater, Setting};

/// A tool in one configuration.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Tool {
    /// `pg_recvlogical` with pgoutput to nowhere.
    Ceiling(Path),
    Highwater(Highwater),
    Debezium(Debezium),
}

impl Tool {
    /// All of them, in the order of a round.
    pub(crate) const ALL: [Self; 8] = [
        Self::Ceiling(Path::Tcp),
        Self::Ceiling(Path::Socket),
        Self::Highwater(Highwater::shipped(false, Path::Tcp)),
        Self::Highwater(Highwater::shipped(false, Path::Socket)),
        Self::Highwater(Highwater::shipped(true, Path::Tcp)),
        Self::Highwater(Highwater::shipped(true, Path::Socket)),
        Self::Debezium(Debezium::Default),
        Self::Debezium(Debezium::Tuned),
    ];

    pub(crate) fn name(self) -> String {
        let path = |path| if path == Path::Tcp { "TCP" } else { "socket" };
        match self {
            Self::Ceiling(way) => format!("pg_recvlogical to nowhere, {}", path(way)),
            Self::Highwater(tool) => {
                let history = if tool.history { "on" } else { "off" };
                let settings =
                    if tool.setting == Setting::Shipped { String::new() } else { format!(", {}", tool.setting.name()) };
                format!("Highwater, history {history}, {}{settings}", path(tool.path))
            }
            Self::Debezium(tool) => format!("Debezium, {}, TCP", tool.name()),
        }
    }

    /// Starts the tool on a slot, whose log ends at `end`; what it writes stands in topics with the prefix `run`.
    pub(crate) async fn start(
        self,
        bench: &Bench,
        progress: &Progress,
        end: &str,
        slot: &str,
        run: &str,
    ) -> Result<Process> {
        match self {
            Self::Ceiling(path) => ceiling::start(bench, path, slot, end),
            Self::Highwater(tool) => {
                highwater::prepare(bench, progress, run).await?;
                highwater::start(bench, tool, slot, run)
            }
            Self::Debezium(tool) => debezium::start(bench, tool, slot, run).await,
        }
    }

    /// Topics that each change is written to.
    pub(crate) fn topics(self, run: &str) -> Vec<String> {
        match self {
            Self::Ceiling(_) => Vec::new(),
            Self::Highwater(Highwater { history: false, .. }) => vec![format!("{run}.stock")],
            Self::Highwater(Highwater { history: true, .. }) => vec![format!("{run}.stock"), format!("{run}.history")],
            Self::Debezium(_) => vec![debezium::topic(run)],
        }
    }
}
