//! `[capture]`: how changes are captured. What is captured stands in `[source]`.

use std::path::PathBuf;
use std::time::Duration;

use crate::config::Section;
use crate::events::mapping::spec::{EntrySpec, PartSpec};

/// `[capture]`.
#[derive(Debug, Clone, PartialEq)]
pub struct Settings {
    /// How long a Kafka transaction is kept open: the delay of `read_committed` readers.
    pub transaction: Duration,
    /// After how many records it is committed anyway, at the next end of a source transaction.
    pub transaction_records: usize,
    /// Least time between two rounds of marks while changes come; idle partitions get one every second.
    pub mark: Duration,
    /// How long the producer waits for more records before it sends a batch.
    pub linger: Duration,
    /// Whether every change of every captured table goes to the history topic.
    pub history: bool,
    /// How long a change waits for others on its way to the history topic.
    pub history_gather: Duration,
    /// Whether the server hands out large transactions before they end.
    pub streaming: bool,
    /// Where they are kept until then; by default below the system's temporary folder, by the source's name.
    pub spill_folder: Option<PathBuf>,
    /// Limit of the files in it, bytes.
    pub spill_bytes: u64,
    /// Connections that a snapshot reads with.
    pub snapshot_readers: usize,
    /// Most rows that it reads at once.
    pub chunk_rows: u32,
    /// About how many bytes it reads at once.
    pub chunk_bytes: usize,
    /// What to do where the slot does not go on from the progress.
    pub on_lost_slot: OnLostSlot,
    /// Whether a commit is published only when the primary shows it.
    pub visible_first: bool,
    /// After how long a commit that is not visible yet is named in the log.
    pub visible_warning: Duration,
    /// Longest wait for an answer of PostgreSQL or Kafka.
    pub answer_timeout: Duration,
}

/// What to do where changes between the topics and the slot are missing.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum OnLostSlot {
    /// Stop, and name the choices.
    Error,
    /// Name the gap, and read every mapped table again from a new slot.
    Resnapshot,
}

impl Settings {
    /// Returns where streamed transactions of a source are kept.
    #[must_use]
    pub fn spill_folder_of(&self, source: &str) -> PathBuf {
        let by_name = || std::env::temp_dir().join(format!("highwater-{source}"));
        self.spill_folder.clone().unwrap_or_else(by_name)
    }

    /// Returns the ordinary connections to the primary, at most: a session's, that of who measures the slot, and one of each reader
    /// of a snapshot. The stream has its own, a replication connection.
    #[must_use]
    pub fn connections(&self) -> usize {
        2 + self.snapshot_readers
    }

    /// Reads `[capture]`.
    ///
    /// With `visible_first = false` no part of `map` may stand one step away: it is asked of the primary.
    pub fn read(section: &mut Section<'_>, map: &[EntrySpec]) -> Self {
        let visible_first = section.flag("visible_first", true);
        let asks = |entry: &&EntrySpec| matches!(entry.part.value, PartSpec::Through { .. });
        if !visible_first && let Some(entry) = map.iter().find(asks) {
            let message = format!(
                "found false; expected true, since the part of `{}` ({}) is asked of the primary, which would not have it yet",
                entry.table.value, entry.part.place
            );
            section.error("visible_first", message);
        }
        Self {
            transaction: section.millis("transaction_ms", 2000, 10..=60_000),
            transaction_records: section.number("transaction_records", 100_000, 1..=10_000_000),
            mark: section.millis("mark_ms", 200, 1..=1000),
            linger: section.millis("linger_ms", 1, 0..=1000),
            history: section.flag("history", true),
            history_gather: section.millis("history_gather_ms", 25, 0..=1000),
            streaming: section.flag("streaming", true),
            spill_folder: Some(section.text("spill_folder", "")).filter(|path| !path.is_empty()).map(PathBuf::from),
            spill_bytes: section.mebibytes("spill_mib", 8192, 1..=16_777_216) as u64,
            snapshot_readers: section.number("snapshot_readers", 2, 1..=16),
            chunk_rows: section.number("chunk_rows", 10_000, 1..=1_000_000),
            chunk_bytes: section.mebibytes("chunk_mib", 1, 1..=64),
            on_lost_slot: section.choice(
                "on_lost_slot",
                &[("error", OnLostSlot::Error), ("resnapshot", OnLostSlot::Resnapshot)],
                OnLostSlot::Error,
            ),
            visible_first,
            visible_warning: section.millis("visible_warning_ms", 1000, 1..=600_000),
            answer_timeout: section.seconds("answer_timeout_s", 30, 1..=600),
        }
    }
}
