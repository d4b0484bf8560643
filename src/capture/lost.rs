//! Going on where the log or a topic does not: behind a slot that was lost, past a promotion, and where records are gone. What is
//! missing is named in the log, in the metrics and in the dead letters, and every mapped table is read again.

use highwater_postgres::replication::Timelines;
use highwater_postgres::{Connection, Session};
use metrics::counter;
use tracing::{error, warn};

use super::error::Error;
use super::feeds::Feeds;
use super::progress::Progress;
use super::session::{Plan, config_of};
use super::settings::OnLostSlot;
use super::start::{Lost, Start};
use crate::position::Bound;

impl Plan<'_> {
    /// Whether the operator wants to go on without what is missing.
    pub(super) fn goes_on_behind(&self, lost: &Lost) -> bool {
        self.settings.on_lost_slot == OnLostSlot::Resnapshot && lost.is_gap()
    }

    /// Drops a slot that was made wrongly, if the operator wants to go on without what is missing: the next session finds it lost, and
    /// looks the new one over. Any other fault of decoding is not the slot's, and a newer server may mend it: the slot stays.
    pub(super) fn replaces_slot(&mut self, error: &Error) -> bool {
        let Error::Decoding { slot, reason } = error else { return false };
        let wanted = self.settings.on_lost_slot == OnLostSlot::Resnapshot && error.is_of_a_slot_made_wrongly();
        if self.replaced || !wanted {
            return false;
        }
        error!(slot, %reason, "the slot is dropped: its server cannot decode what stands behind it");
        self.replaced =
            self.drop_slot(slot).inspect_err(|error| warn!(%error, slot, "it could not be dropped")).is_ok();
        self.replaced
    }

    /// Drops a slot that nobody reads.
    pub(super) fn drop_slot(&self, slot: &str) -> Result<(), Error> {
        let mut replication = Connection::connect(&config_of(self.source.log())?, Session::Replication)?;
        Ok(replication.drop_slot(slot, false, self.settings.answer_timeout)?)
    }

    /// Drops the slot where it cannot be used, and returns how to start.
    pub(super) fn start_behind(&self, lost: &Lost, replication: &mut Connection) -> Result<Start, Error> {
        match lost {
            Lost::Gap { slot_bound, .. } => return Ok(Start::AtSlot(*slot_bound)),
            Lost::SlotInvalidated { slot, .. } => replication.drop_slot(slot, false, self.settings.answer_timeout)?,
            _ => {}
        }
        Ok(Start::Fresh)
    }

    /// Moves the progress behind the gap, to where the slot goes on, and has every table read again. Returns what is missing.
    pub(super) fn go_on_behind(
        &self,
        lost: &Lost,
        server: &str,
        slot_bound: Bound,
        progress: &mut Progress,
        feeds: &Feeds,
    ) -> Result<String, Error> {
        let bound = progress.bound;
        if slot_bound < bound {
            let (topic, server) = (self.topics.progress(), server.to_owned());
            return Err(self.refused(Lost::WentBack { topic, bound, server, slot_bound }));
        }
        let missing =
            format!("changes from {bound} up to {slot_bound} are missing: {lost}; every mapped table is read again");
        counter!("highwater_capture_gaps_total", "reason" => "lost_slot").increment(1);
        error!(%missing, "capture goes on behind a gap");
        progress.reach(slot_bound);
        read_all_again(progress, feeds, slot_bound);
        Ok(missing)
    }
}

/// Has every table read again because records are gone. Returns what is missing.
pub(super) fn restore_records(lost: &Lost, progress: &mut Progress, feeds: &Feeds) -> String {
    let missing = format!("records that were committed are missing: {lost}; every mapped table is read again");
    counter!("highwater_capture_gaps_total", "reason" => "lost_records").increment(1);
    error!(%missing, "capture fills a topic again");
    read_all_again(progress, feeds, progress.bound);
    missing
}

/// Has every table read again if something was published that no server has any more. Returns what that is.
pub(super) fn read_phantoms_again(progress: &mut Progress, timelines: &Timelines, feeds: &Feeds) -> Option<String> {
    let switch = progress.phantoms(timelines)?;
    let missing = format!(
        "changes at and past {switch} up to {} were published and then lost by a promotion: history holds them all the same; \
         every mapped table is read again",
        progress.bound
    );
    counter!("highwater_capture_gaps_total", "reason" => "promotion").increment(1);
    error!(%missing, "the source was promoted before it had everything");
    progress.reach(switch);
    read_all_again(progress, feeds, switch);
    Some(missing)
}

fn read_all_again(progress: &mut Progress, feeds: &Feeds, since: Bound) {
    for table in feeds.mapped() {
        progress.snapshot.tables.entry(table).or_default().read_again(since, true);
    }
}
