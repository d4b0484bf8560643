//! How far each stage of capture is in the log. Promise: what is known outlives the session that knew it, so that a stage
//! that stands still, or has nobody at work, is seen to fall behind.

use std::sync::atomic::{AtomicU64, Ordering};

use highwater_postgres::Lsn;

/// A stage of a change on its way through capture, in their order.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Stage {
    Read,
    Visible,
    Sent,
    Delivered,
    Committed,
}

impl Stage {
    pub(super) const ALL: [Self; 5] = [Self::Read, Self::Visible, Self::Sent, Self::Delivered, Self::Committed];

    /// Returns its label.
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Read => "read",
            Self::Visible => "visible",
            Self::Sent => "sent",
            Self::Delivered => "delivered",
            Self::Committed => "committed",
        }
    }
}

/// Positions of the log by stage, one object for a process. The session at work writes them, and nobody else; each tells for
/// itself, so that no order between them is needed.
#[derive(Debug, Default)]
pub(super) struct Positions([AtomicU64; Stage::ALL.len()]);

impl Positions {
    /// A session begins at what is committed: what another had read beyond that comes again, and after a promotion places
    /// of the log may be lower than before.
    pub(super) fn begin(&self, Lsn(at): Lsn) {
        self.0.iter().for_each(|position| position.store(at, Ordering::Relaxed));
    }

    /// Everything below `at` has passed the stage. It never goes back: keepalives do after a reconnect.
    pub(super) fn pass(&self, stage: Stage, Lsn(at): Lsn) {
        self.0[stage as usize].fetch_max(at, Ordering::Relaxed);
    }

    /// Returns below where everything has passed the stage; zero while nothing is known.
    pub(super) fn of(&self, stage: Stage) -> Lsn {
        Lsn(self.0[stage as usize].load(Ordering::Relaxed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_stage_never_goes_back_but_where_a_session_begins() {
        let positions = Positions::default();
        positions.begin(Lsn(100));
        positions.pass(Stage::Sent, Lsn(300));
        positions.pass(Stage::Sent, Lsn(200));
        assert_eq!(Stage::ALL.map(|stage| positions.of(stage).0), [100, 100, 300, 100, 100]);
        positions.begin(Lsn(50));
        assert_eq!(Stage::ALL.map(|stage| positions.of(stage).0), [50; 5]);
    }
}
