//! How a session begins: what the slot and the newest committed progress say together.

use highwater_postgres::Lsn;
use highwater_postgres::replication::{self, Timelines, WalStatus};

use super::progress::Progress;
use crate::position::Bound;

/// What the slot and the newest committed progress record say together at the start.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Start {
    /// No slot, no progress: make the slot and begin.
    Fresh,
    /// The slot stands, nothing was published yet: begin where the slot does.
    AtSlot(Bound),
    /// Both agree: go on from the progress.
    Resume(Progress),
}

/// Why capture does not start. Nothing is skipped silently: the operator decides.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Lost {
    /// The topics hold progress, and there is no slot that goes on from it.
    #[error("slot `{slot}` is missing on {server}, but topic `{topic}` holds progress up to {bound}")]
    SlotMissing {
        /// The slot.
        slot: String,
        /// The server's address.
        server: String,
        /// The progress topic.
        topic: String,
        /// What the topics hold.
        bound: Bound,
    },
    /// The server gave the slot up.
    #[error("slot `{slot}` is lost: {why}")]
    SlotInvalidated {
        /// The slot.
        slot: String,
        /// Why.
        why: Invalidation,
    },
    /// The slot begins after what the topics hold: it was made anew, or Kafka lost its newest records.
    #[error(
        "slot `{slot}` goes on from {slot_bound}, but topic `{topic}` holds progress only up to {bound}: \
         the slot was made anew, or Kafka lost records"
    )]
    Gap {
        /// The slot.
        slot: String,
        /// Where the slot goes on.
        slot_bound: Bound,
        /// The progress topic.
        topic: String,
        /// What the topics hold.
        bound: Bound,
    },
    /// The server is on an older timeline than what was published: a promotion left it behind.
    #[error(
        "topic `{topic}` holds progress of timeline {published}, but {server} is on timeline {timeline}: a promotion left it behind"
    )]
    LeftBehind {
        /// The progress topic.
        topic: String,
        /// Timeline of the progress.
        published: u32,
        /// The server's address.
        server: String,
        /// Its timeline.
        timeline: u32,
    },
    /// The server's log ends before what was published.
    #[error(
        "a new slot on {server} begins at {slot_bound}, below what topic `{topic}` holds ({bound}): the server was restored \
         from a backup"
    )]
    WentBack {
        /// The progress topic.
        topic: String,
        /// What the topics hold.
        bound: Bound,
        /// The server's address.
        server: String,
        /// Where the slot begins.
        slot_bound: Bound,
    },
    /// A partition ends before what was committed to it.
    #[error(
        "topic `{topic}`, partition {partition}, ends at offset {end}, but topic `{progress}` says that it goes up to {expected} at \
         least: the topic was deleted or made anew, or Kafka lost records"
    )]
    Records {
        /// The topic.
        topic: String,
        /// The partition.
        partition: usize,
        /// Where it ends.
        end: u64,
        /// Where it has to end at least.
        expected: u64,
        /// The progress topic.
        progress: String,
    },
    /// The topics hold events, and nothing tells up to where.
    #[error(
        "topic `{topic}` holds events, but topic `{progress}` holds no progress: it was deleted or made anew, or Kafka lost it"
    )]
    Progress {
        /// A topic with events.
        topic: String,
        /// The progress topic.
        progress: String,
    },
    /// The progress was made from another server.
    #[error("topic `{topic}` holds progress of system {published}, but the source is system {source_system}")]
    OtherSystem {
        /// The progress topic.
        topic: String,
        /// System identifier in the progress.
        published: String,
        /// System identifier of the source.
        source_system: String,
    },
}

impl Lost {
    /// Returns what the operator can do.
    #[must_use]
    pub fn choices(&self, prefix: &str) -> String {
        let anew = format!(
            "to begin anew with a snapshot, stop all roles, delete the topics `{prefix}.*`, drop the slot, empty the cache and \
             the table highwater.audit_progress, which speak of the old topics, then start"
        );
        match self {
            Self::OtherSystem { .. } | Self::LeftBehind { .. } => {
                format!("point [source] at the right server; or, {anew}")
            }
            Self::WentBack { .. } | Self::Progress { .. } => anew,
            Self::Records { .. } => format!(
                "to have every mapped table read again, set [capture] on_lost_slot = \"resnapshot\" (what history held does \
                 not come back); or, {anew}"
            ),
            Self::SlotMissing { .. } | Self::SlotInvalidated { .. } | Self::Gap { .. } => {
                format!(
                    "changes between the two are not in the topics; to go on without them and read every mapped table again, \
                     set [capture] on_lost_slot = \"resnapshot\"; or, {anew}"
                )
            }
        }
    }

    /// Whether changes are missing and nothing else is wrong, so that reading all tables again mends the copies.
    #[must_use]
    pub fn is_gap(&self) -> bool {
        use Lost as L;
        matches!(self, L::SlotMissing { .. } | L::SlotInvalidated { .. } | L::Gap { .. } | L::Records { .. })
    }
}

/// Why a slot cannot be read any more (manual: `pg_replication_slots.invalidation_reason`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Invalidation {
    /// There was too much of it.
    #[error("the server removed WAL that it still needed (max_slot_wal_keep_size)")]
    LogRemoved,
    /// It stands on a standby, and the primary did what makes it unreadable.
    #[error(
        "the primary removed rows that it needed on this standby (hot_standby_feedback), or took its wal_level below logical"
    )]
    Conflict,
    /// Nobody read it.
    #[error("nobody read it for too long (idle_replication_slot_timeout)")]
    Idle,
    /// A reason of a newer server.
    #[error("the server gave it up, see pg_replication_slots.invalidation_reason")]
    Other,
}

impl Invalidation {
    /// Returns why a slot is lost, if it is.
    #[must_use]
    pub fn of(slot: &replication::SlotState) -> Option<Self> {
        match (slot.invalidation.as_deref(), slot.wal_status) {
            (Some("wal_removed"), _) | (None, Some(WalStatus::Lost)) => Some(Self::LogRemoved),
            (Some("rows_removed" | "wal_level_insufficient"), _) => Some(Self::Conflict),
            (Some("idle_timeout"), _) => Some(Self::Idle),
            (Some(_), _) => Some(Self::Other),
            (None, _) => None,
        }
    }
}

/// What the server says of the slot.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum SlotState {
    /// There is none of that name.
    Missing,
    /// The server gave it up.
    Invalidated(Invalidation),
    /// It goes on from here.
    At(Bound),
}

impl SlotState {
    /// Places a slot of a server on its timelines.
    #[must_use]
    pub fn of(slot: Option<&replication::SlotState>, timelines: &Timelines) -> Self {
        let Some(slot) = slot else { return Self::Missing };
        match (Invalidation::of(slot), slot.confirmed_flush) {
            (None, Some(lsn)) => Self::At(end_of_log_read(lsn, timelines)),
            (why, _) => Self::Invalidated(why.unwrap_or(Invalidation::Other)),
        }
    }
}

/// Returns the bound of a slot that was read up to `lsn`. It is of the timeline that it ends: where a promotion followed the very
/// last record, nothing stands between the two timelines.
pub(super) fn end_of_log_read(Lsn(lsn): Lsn, timelines: &Timelines) -> Bound {
    Bound::at_lsn(timelines.timeline_of(Lsn(lsn.saturating_sub(1))), lsn)
}

/// Who serves the log.
#[derive(Debug, Clone, Copy)]
pub struct Serving<'a> {
    /// Name of the slot.
    pub slot: &'a str,
    /// The server's address.
    pub server: &'a str,
    /// Its system identifier.
    pub system: &'a str,
    /// The timeline that it is on.
    pub timeline: u32,
}

/// Decides how to start. Pure, so that every pair of states can be tested.
///
/// # Errors
/// The two do not fit together.
pub fn decide_start(
    from: Serving<'_>,
    topic: &str,
    slot: SlotState,
    progress: Option<Progress>,
) -> Result<Start, Lost> {
    let Serving { slot: slot_name, server, system, timeline } = from;
    let Some(progress) = progress else {
        return match slot {
            SlotState::Missing => Ok(Start::Fresh),
            SlotState::Invalidated(why) => Err(Lost::SlotInvalidated { slot: slot_name.to_owned(), why }),
            SlotState::At(bound) => Ok(Start::AtSlot(bound)),
        };
    };
    if progress.system != system {
        return Err(Lost::OtherSystem {
            topic: topic.to_owned(),
            published: progress.system,
            source_system: system.to_owned(),
        });
    }
    if progress.bound.timeline() > timeline {
        return Err(Lost::LeftBehind {
            topic: topic.to_owned(),
            published: progress.bound.timeline(),
            server: server.to_owned(),
            timeline,
        });
    }
    match slot {
        SlotState::Missing => Err(Lost::SlotMissing {
            slot: slot_name.to_owned(),
            server: server.to_owned(),
            topic: topic.to_owned(),
            bound: progress.bound,
        }),
        SlotState::Invalidated(why) => Err(Lost::SlotInvalidated { slot: slot_name.to_owned(), why }),
        SlotState::At(slot_bound) if slot_bound > progress.bound => {
            Err(Lost::Gap { slot: slot_name.to_owned(), slot_bound, topic: topic.to_owned(), bound: progress.bound })
        }
        SlotState::At(_) => Ok(Start::Resume(progress)),
    }
}

#[cfg(test)]
mod tests {
    use super::super::progress::tests::{at, progress};
    use super::*;

    fn decide(slot: SlotState, progress: Option<Progress>) -> Result<Start, Lost> {
        let from = Serving { slot: "s", server: "db:5432", system: "7", timeline: 1 };
        decide_start(from, "catalog.progress", slot, progress)
    }

    #[test]
    fn a_server_that_a_promotion_left_behind_is_refused() {
        let mut newer = progress(10);
        newer.bound = Bound::at_lsn(2, 10);
        assert!(matches!(decide(SlotState::At(at(10)), Some(newer)), Err(Lost::LeftBehind { .. })));
    }

    #[test]
    fn a_promotion_right_behind_what_was_published_is_no_gap() {
        let timelines = Timelines::parse(2, "1\t0/10\tno recovery target specified").expect("a history");
        let state = |lsn| SlotState::At(end_of_log_read(Lsn(lsn), &timelines));
        let from = Serving { slot: "s", server: "db:5432", system: "7", timeline: 2 };
        let decide = |lsn| decide_start(from, "catalog.progress", state(lsn), Some(progress(0x10)));
        assert_eq!(decide(0x10), Ok(Start::Resume(progress(0x10))));
        assert!(matches!(decide(0x11), Err(Lost::Gap { .. })), "something of the new timeline was read");
    }

    #[test]
    fn each_reason_for_which_a_server_gives_a_slot_up_is_told() {
        let cases = [
            (None, Some(WalStatus::Reserved), None),
            (None, Some(WalStatus::Lost), Some(Invalidation::LogRemoved)),
            (Some("wal_removed"), Some(WalStatus::Lost), Some(Invalidation::LogRemoved)),
            (Some("rows_removed"), Some(WalStatus::Lost), Some(Invalidation::Conflict)),
            (Some("wal_level_insufficient"), Some(WalStatus::Lost), Some(Invalidation::Conflict)),
            (Some("idle_timeout"), Some(WalStatus::Lost), Some(Invalidation::Idle)),
            (Some("of_a_newer_server"), None, Some(Invalidation::Other)),
        ];
        for (invalidation, wal_status, why) in cases {
            let slot = replication::SlotState {
                name: "s".into(),
                kind: replication::SlotKind::Logical,
                plugin: None,
                database: None,
                temporary: false,
                active_pid: None,
                restart_lsn: None,
                confirmed_flush: Some(Lsn(7)),
                wal_status,
                safe_wal_size: None,
                two_phase: false,
                failover: false,
                synced: false,
                invalidation: invalidation.map(str::to_owned),
            };
            assert_eq!(Invalidation::of(&slot), why, "{invalidation:?}");
        }
    }

    #[test]
    fn a_slot_behind_the_progress_resumes_and_one_past_it_is_a_gap() {
        assert_eq!(decide(SlotState::At(at(9)), Some(progress(10))), Ok(Start::Resume(progress(10))));
        assert_eq!(decide(SlotState::At(at(10)), Some(progress(10))), Ok(Start::Resume(progress(10))));
        assert!(matches!(decide(SlotState::At(at(11)), Some(progress(10))), Err(Lost::Gap { .. })));
    }

    #[test]
    fn a_missing_slot_is_made_only_where_the_topics_hold_nothing() {
        assert_eq!(decide(SlotState::Missing, None), Ok(Start::Fresh));
        assert!(matches!(decide(SlotState::Missing, Some(progress(10))), Err(Lost::SlotMissing { .. })));
        assert_eq!(decide(SlotState::At(at(5)), None), Ok(Start::AtSlot(at(5))));
    }

    #[test]
    fn progress_of_another_server_is_refused() {
        let mut other = progress(10);
        other.system = "8".to_owned();
        assert!(matches!(decide(SlotState::At(at(10)), Some(other)), Err(Lost::OtherSystem { .. })));
    }
}
