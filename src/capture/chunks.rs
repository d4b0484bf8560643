//! What the snapshot read or found missing, on its way to events just below its bound.

use highwater_postgres::{KeptRows, Lsn, Timestamp};
use metrics::counter;
use smallvec::SmallVec;

use super::error::Error;
use super::rows::{Values, learn, note_refused, reference};
use super::snapshot::{Content, Overtaken, Pass, Vanished, key_of};
use super::work::Work;
use crate::events::draft::{Draft, Stamp};
use crate::events::envelope::Envelope;
use crate::events::json::commit_time;
use crate::events::row::{Change, Value};
use crate::events::state::{write_state_events, write_vanished};

impl Work {
    /// Lets the snapshot move on as far as it can without waiting.
    pub(super) fn advance_snapshot(&mut self) -> Result<(), Error> {
        let (ledger, committed) = (&self.publisher.progress.snapshot, self.publisher.committed());
        self.snapshot.advance(&mut self.primary, &mut self.feeds, ledger, committed)
    }

    /// Publishes what belongs before everything at or above `lsn`.
    pub(super) fn publish_due(&mut self, lsn: Lsn) -> Result<(), Error> {
        // All that is due has one bound; its rows are numbered through.
        let mut seq = 0;
        while let Some(ready) = self.snapshot.due(lsn.0, &self.publisher.progress.snapshot)? {
            let lsn = ready.high - 1;
            let bound = self.publisher.progress.bound;
            if ready.high < bound.lsn() {
                let high = Lsn(ready.high);
                return Err(Error::Unexpected(format!(
                    "rows of the snapshot at {high}, below {bound}, which is published"
                )));
            }
            let source = self.publisher.source();
            let timeline = self.branch.timeline_of(Lsn(lsn))?;
            let (time, ahead) = (commit_time(Timestamp::now().0), self.publisher.progress.ahead);
            let stamp = Stamp { source: &source, timeline, lsn, time, xid: None, ahead };
            let ledger = &mut self.publisher.progress.snapshot.tables;
            ledger.insert(ready.pass.table().to_owned(), ready.progress);
            match &ready.content {
                Content::Rows(rows, overtaken) => self.publish_rows(&ready.pass, rows, overtaken, &stamp, &mut seq)?,
                Content::Vanished(vanished) => self.publish_vanished(&ready.pass, vanished, &stamp, &mut seq)?,
            }
            // The next chunks are read while the rest of these are published.
            let ledger = &self.publisher.progress.snapshot;
            self.snapshot.ask(&mut self.primary, &mut self.feeds, ledger)?;
        }
        Ok(())
    }

    fn publish_rows(
        &mut self,
        pass: &Pass,
        rows: &KeptRows,
        overtaken: &Overtaken,
        stamp: &Stamp<'_>,
        seq: &mut u32,
    ) -> Result<(), Error> {
        let feed = &pass.feed;
        let mut events = SmallVec::<[Draft; 2]>::new();
        for row in rows.iter() {
            let at = std::mem::replace(seq, *seq + 2);
            let row: Values<'_> = row.values().map(|value| value.map_or(Value::Null, Value::Text)).collect();
            let change = Change::Snapshot { new: &row };
            let mut place = (0, key_of(&feed.table, &row));
            let mut overtaken = |entry| {
                place.0 = entry;
                overtaken.contains(&place)
            };
            if !(0..feed.entries.len()).any(&mut overtaken) {
                learn(&mut self.through, feed, change);
            }
            for (number, entry) in feed.entries.iter().enumerate() {
                if overtaken(number) {
                    continue;
                }
                let mut through = self.through.with(&mut self.primary, self.timeout);
                let drafts = self.publisher.drafts();
                let outcome = write_state_events(entry, change, stamp, at, &mut through, drafts, &mut events);
                if let Some(error) = self.through.failure() {
                    return Err(error.into());
                }
                if let Err(error) = outcome {
                    let row = reference(&feed.table, change);
                    note_refused(&mut self.publisher.progress, &feed.table.name);
                    self.publisher.dead_letter(stamp.position(at), &row, &format!("{}: {error}", entry.name))?;
                }
                for draft in events.drain(..) {
                    if draft.lacks_values() {
                        let row = reference(&feed.table, change);
                        self.publisher.dead_letter_of_values(stamp.position(at), &row, &entry.name)?;
                    }
                    self.publisher.send(draft)?;
                }
            }
        }
        Ok(())
    }

    fn publish_vanished(
        &mut self,
        pass: &Pass,
        vanished: &[Vanished],
        stamp: &Stamp<'_>,
        seq: &mut u32,
    ) -> Result<(), Error> {
        for row in vanished {
            let at = std::mem::replace(seq, *seq + 2);
            let newest = Envelope::parse(&row.event)
                .map_err(|error| Error::Unexpected(format!("a record of the topics is no event: {error}")))?;
            let drafts = self.publisher.drafts();
            let draft = write_vanished(drafts, row.family, &newest, stamp, at, row.partition)
                .map_err(|error| Error::Unexpected(format!("a record of the topics: {error}")))?;
            self.publisher.send(draft)?;
            counter!("highwater_capture_snapshot_vanished_total", "table" => pass.table().to_owned()).increment(1);
        }
        Ok(())
    }
}
