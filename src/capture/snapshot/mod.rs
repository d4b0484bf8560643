//! Rows that stand in the tables already, or are to be read again: in chunks beside the stream, without a lock, a long
//! transaction or an exported snapshot (which can call a transaction committed before the server does).
//!
//! A chunk is read with an ordinary snapshot. Then the bound `high` is asked, and when the stream reaches it, the rows
//! whose key was not published since the read are published just below it. Right only because of *visible first*. Several
//! chunks are read at a time, and published in the order of their keys, so that one key tells how far a table is.
//!
//! A table that is read again may have lost rows while nobody looked: `vanished` finds them in the topics.
//!
//! Somewhat above 400 lines: from asking to publishing, the order of the pieces is one thing, to be read in one place.

mod bound;
mod overtaken;
mod pass;
mod piece;
mod reader;
mod vanished;

use std::collections::VecDeque;
use std::sync::Arc;

use highwater_postgres::{ConnectConfig, Connection};
use metrics::{counter, gauge};
use tokio::runtime::Handle;
use tracing::{error, info, warn};

use bound::next_high;
pub(super) use overtaken::{Overtaken, key_of};
use overtaken::{Place, Touched};
pub(super) use pass::Pass;
use pass::{Advance, Key};
pub(super) use piece::{Content, Ready};
use piece::{Piece, State};
use reader::{Limits, Range, Read, Readers, Ticket};
use vanished::Search;
pub(super) use vanished::Vanished;

use super::error::Error;
use super::feeds::Feeds;
use super::measures::as_f64;
use super::progress::{Ledger, TableSnapshot};
use super::settings::Settings;
use super::settling::Settling;
use super::tables::describe_some;
use crate::events::draft::Draft;
use crate::events::row::{Row, Table};
use crate::position::Bound;
use crate::topics::Topics;

/// The snapshot of all mapped tables.
pub(super) struct Snapshot {
    config: ConnectConfig,
    limits: Limits,
    topics: Arc<Topics>,
    runtime: Handle,
    publication: String,
    /// Started when the first chunk is asked for.
    readers: Option<Readers>,
    /// Those under way when the stream began may have committed below its beginning without being visible yet, so that neither
    /// the stream nor a chunk would have them.
    settling: Settling,
    /// Tables of which more chunks are to be asked for, in order.
    left: VecDeque<String>,
    /// The reading of the first of them.
    pass: Option<(Arc<Pass>, Advance)>,
    passes: u64,
    /// What was asked for, in the order in which it is published.
    pieces: VecDeque<Piece>,
    asked: u64,
    /// Tickets whose answers are still to come.
    unanswered: usize,
}

impl Snapshot {
    /// Begins with the tables that were not read to their ends.
    pub(super) fn begin(
        config: &ConnectConfig,
        settings: &Settings,
        topics: &Topics,
        runtime: &Handle,
        publication: &str,
        feeds: &Feeds,
        ledger: &Ledger,
    ) -> Self {
        let done = |name: &str| ledger.tables.get(name).is_some_and(|table| table.complete);
        let left: VecDeque<String> = feeds.mapped().into_iter().filter(|name| !done(name)).collect();
        if !left.is_empty() {
            info!(tables = left.len(), "snapshot begins");
        }
        let limits = Limits {
            readers: settings.snapshot_readers,
            rows: settings.chunk_rows,
            bytes: settings.chunk_bytes,
            timeout: settings.answer_timeout,
        };
        let settling = if left.is_empty() { Settling::Over } else { Settling::Unasked };
        let (config, topics, runtime) = (config.clone(), Arc::new(topics.clone()), runtime.clone());
        let (pieces, readers, pass) = (VecDeque::new(), None, None);
        Self {
            config,
            limits,
            topics,
            runtime,
            publication: publication.to_owned(),
            readers,
            settling,
            left,
            pass,
            passes: 0,
            pieces,
            asked: 0,
            unanswered: 0,
        }
    }

    /// Whether every mapped table was read.
    pub(super) fn is_done(&self) -> bool {
        self.left.is_empty() && self.pieces.is_empty()
    }

    /// Whether it waits for a commit, and those up to `ended` do not serve it.
    pub(super) fn needs_commit(&self, ended: Bound) -> bool {
        let needs = |piece: &Piece| matches!(piece.state, State::Unsearched { behind, .. } if ended.lsn() < behind);
        self.pieces.front().is_some_and(needs)
    }

    /// Reads a table from its beginning, again or for the first time. The ledger has it as not complete.
    pub(super) fn read_again(&mut self, table: &str) {
        self.pieces.retain(|piece| piece.pass.table() != table);
        if self.pass.as_ref().is_some_and(|(pass, _)| pass.table() == table) {
            self.pass = None;
        }
        if self.left.iter().all(|left| left != table) {
            self.left.push_back(table.to_owned());
        }
    }

    /// Lets it begin only when all is visible that is under way now: of what was published ahead, a chunk may not have all.
    pub(super) fn settle_first(&mut self) {
        self.settling = Settling::Unasked;
    }

    /// Whether rows of a table are on their way, or will be.
    fn concerns(&self, table: &str) -> bool {
        self.pieces.iter().any(|piece| piece.pass.table() == table)
    }

    /// Takes note that the stream published these events of a change of a table, which is of these rows.
    pub(super) fn overtake(&mut self, table: &Table, entry: usize, rows: &[Row<'_>], events: &[Draft]) {
        if !self.concerns(&table.name) {
            return;
        }
        let places: Vec<Place> = rows.iter().map(|row| (entry, key_of(table, row))).collect();
        for piece in self.pieces.iter_mut().filter(|piece| piece.pass.table() == table.name) {
            piece.overtake(&places, events);
        }
    }

    /// Takes note that the stream emptied this table: nothing read before stands any more.
    pub(super) fn truncated(&mut self, table: &str) {
        self.pieces.iter_mut().filter(|piece| piece.pass.table() == table).for_each(Piece::overtake_all);
    }

    /// Moves on as far as possible without waiting. `primary` is asked for bounds; below `committed` all is in the topics.
    pub(super) fn advance(
        &mut self,
        primary: &mut Connection,
        feeds: &mut Feeds,
        ledger: &Ledger,
        committed: Bound,
    ) -> Result<(), Error> {
        if self.is_done() || !self.settling.is_over(primary, self.limits.timeout)? {
            return Ok(());
        }
        self.take_answers()?;
        self.search(committed)?;
        self.ask(primary, feeds, ledger)?;
        self.bound(primary)
    }

    /// Takes what the readers have read.
    fn take_answers(&mut self) -> Result<(), Error> {
        let Some(readers) = &self.readers else { return Ok(()) };
        let mut cut = Vec::new();
        while let Some(answer) = readers.answer().map_err(Error::Snapshot)? {
            self.unanswered = self.unanswered.saturating_sub(1);
            let read = answer.read.map_err(Error::Snapshot)?;
            let Some(at) = self.pieces.iter().position(|piece| piece.number == answer.chunk) else { continue };
            let Some(read) = read else {
                // The chunk before was the table's last.
                self.pieces.remove(at);
                continue;
            };
            let piece = &mut self.pieces[at];
            if read.upto.is_none() && self.pass.as_ref().is_some_and(|(pass, _)| pass.number == piece.pass.number) {
                self.left.pop_front();
                piece.advance = self.pass.take().map(|(_, advance)| advance);
            }
            cut.extend(read.cut.clone().map(|after| (answer.chunk, after, read.upto.clone())));
            piece.step(|state| match state {
                State::Reading { overtaken } => State::Read { overtaken, read },
                other => other,
            });
        }
        cut.into_iter().try_for_each(|(chunk, after, upto)| self.ask_for_the_rest(chunk, after, upto))
    }

    /// Asks for what was cut off a chunk; it is published right behind it.
    fn ask_for_the_rest(&mut self, chunk: u64, after: Key, upto: Option<Key>) -> Result<(), Error> {
        let Some(at) = self.pieces.iter().position(|piece| piece.number == chunk) else { return Ok(()) };
        let piece = &mut self.pieces[at];
        if let State::Read { read, .. } = &mut piece.state {
            read.upto = Some(after.clone());
        }
        let (pass, advance) = (Arc::clone(&piece.pass), piece.advance.take());
        let number = self.next_number();
        let state = State::default();
        self.pieces.insert(at + 1, Piece { number, pass: Arc::clone(&pass), advance, state });
        self.send(Ticket { chunk: number, pass, range: Range::Exactly { after, upto } })
    }

    fn next_number(&mut self) -> u64 {
        self.asked += 1;
        self.asked
    }

    fn send(&mut self, ticket: Ticket) -> Result<(), Error> {
        if self.readers.is_none() {
            let started = Readers::start(&self.config, self.limits, self.most_tickets());
            let readers = started
                .map_err(|error| Error::Unexpected(format!("could not start the snapshot's threads: {error}")))?;
            self.readers = Some(readers);
        }
        self.unanswered += 1;
        self.readers.as_ref().map_or(Ok(()), |readers| readers.ask(ticket)).map_err(Error::Snapshot)
    }

    /// Chunks at once: for each reader one that it reads, and one that waits to be published.
    fn most_pieces(&self) -> usize {
        2 * self.limits.readers
    }

    /// A piece may be cut in two, or belong to a reading that was begun anew.
    fn most_tickets(&self) -> usize {
        4 * self.most_pieces()
    }

    /// Asks for chunks, as long as there is room for them.
    pub(super) fn ask(&mut self, primary: &mut Connection, feeds: &mut Feeds, ledger: &Ledger) -> Result<(), Error> {
        while self.pieces.len() < self.most_pieces() && self.unanswered < 2 * self.most_pieces() {
            let Some(table) = self.left.front().cloned() else { break };
            if self.pass.is_none() && !self.begin_pass(primary, feeds, &table)? {
                continue;
            }
            let Some((pass, _)) = &self.pass else { break };
            let pass = Arc::clone(pass);
            let number = self.next_number();
            let start = ledger.tables.get(&table).map(|table| table.after.clone()).unwrap_or_default();
            // From here on, so that no change between asking and reading is missed.
            let state = State::default();
            self.pieces.push_back(Piece { number, pass: Arc::clone(&pass), advance: None, state });
            self.send(Ticket { chunk: number, pass, range: Range::Next { start } })?;
        }
        gauge!("highwater_capture_snapshot_tables_left").set(as_f64(self.left.len() as u64));
        Ok(())
    }

    /// Begins to read a table as it is now; `false` where its mapping does not fit it any more.
    fn begin_pass(&mut self, primary: &mut Connection, feeds: &mut Feeds, table: &str) -> Result<bool, Error> {
        // It may have waited long, unchanged, while its columns or what the publication has of it became others.
        let names = feeds.with_steps(table);
        let described = describe_some(primary, &self.publication, &names, None, self.limits.timeout)?;
        feeds.describe_some(&names, None, described);
        let Some((described, feed)) = feeds.mapped_now(table).filter(|(_, feed)| feed.broken.is_none()) else {
            error!(table, "the mapping does not fit the table any more: it is not read until capture starts again");
            self.left.pop_front();
            return Ok(false);
        };
        self.passes += 1;
        let others = feeds.entries_beside(table);
        let pass = Arc::new(Pass { number: self.passes, described, feed, others });
        let about = primary.about_rows(&pass.qualified(), self.limits.timeout)?;
        info!(table, about, "snapshot of a table begins");
        self.pass = Some((pass, Advance::new(about)));
        Ok(true)
    }

    /// Asks for the bound of what is at the front and has been read. One question serves all of it.
    fn bound(&mut self, primary: &mut Connection) -> Result<(), Error> {
        let is_read = |piece: &Piece| matches!(piece.state, State::Read { .. } | State::Found { .. });
        if !self.pieces.front().is_some_and(is_read) {
            return Ok(());
        }
        let high = next_high(primary, self.limits.timeout)?;
        for piece in self.pieces.iter_mut().take_while(|piece| is_read(piece)) {
            piece.step(|state| match state {
                State::Read { overtaken, read } => State::Waiting { overtaken, read, high },
                State::Found { touched, since, found } => State::Deleting { touched, since, found, high },
                other => other,
            });
        }
        Ok(())
    }

    /// Begins to search for what vanished, and takes what was found.
    fn search(&mut self, committed: Bound) -> Result<(), Error> {
        let Some(piece) = self.pieces.front_mut() else { return Ok(()) };
        let (topics, runtime, timeout) = (&self.topics, &self.runtime, self.limits.timeout);
        piece.search(committed, |pass, since| Search {
            topics: Arc::clone(topics),
            runtime: runtime.clone(),
            pass: Arc::clone(pass),
            since,
            timeout,
        })
    }

    /// Returns what must be published before anything at or above `lsn`, if there is anything.
    pub(super) fn due(&mut self, lsn: u64, ledger: &Ledger) -> Result<Option<Ready>, Error> {
        let reached = |piece: &Piece| matches!(piece.state, State::Waiting { high, .. } | State::Deleting { high, .. } if high <= lsn);
        if !self.pieces.front().is_some_and(reached) {
            return Ok(None);
        }
        let Some(Piece { number, pass, mut advance, state }) = self.pieces.pop_front() else { return Ok(None) };
        let mut progress = ledger.tables.get(pass.table()).cloned().unwrap_or_default();
        progress.shape.get_or_insert_with(|| pass.described.shape());
        match state {
            State::Waiting { overtaken, read, .. } if overtaken.too_many => {
                self.again(number, pass, advance, read)?;
                Ok(None)
            }
            State::Waiting { overtaken, read, high } => {
                self.count(&pass, &mut advance, &read, &mut progress);
                if let Some(upto) = read.upto {
                    progress.after = upto;
                } else {
                    if let Some(last) = read.rows.iter().next_back() {
                        progress.after = pass.key_of(last);
                    }
                    self.end_of_rows(&pass, advance, &mut progress, high);
                }
                Ok(Some(Ready { pass, high, content: Content::Rows(read.rows, overtaken), progress }))
            }
            State::Deleting { touched, since, mut found, high } => {
                if touched.too_many {
                    info!(table = pass.table(), "the stream overtook the search for vanished rows; it begins anew");
                    self.search_behind(pass, since, high);
                    return Ok(None);
                }
                // Whoever was published meanwhile may have been so elsewhere, of another part: the next search tells.
                let all = found.vanished.len();
                found.vanished.retain(|row| !touched.contains(&row.entity));
                let more = found.more || found.vanished.len() < all;
                let refused = has_refused(&pass, &progress);
                if more && !refused {
                    self.search_behind(Arc::clone(&pass), since, high);
                } else {
                    self.complete(&pass, &mut progress);
                }
                let vanished = if refused { Vec::new() } else { found.vanished };
                Ok(Some(Ready { pass, high, content: Content::Vanished(vanished), progress }))
            }
            _ => Ok(None),
        }
    }

    /// Reads a chunk again that the stream overtook by too much.
    fn again(&mut self, number: u64, pass: Arc<Pass>, advance: Option<Advance>, read: Read) -> Result<(), Error> {
        info!(table = pass.table(), "the stream overtook a chunk of the snapshot; it is read again");
        counter!("highwater_capture_snapshot_chunks_read_again_total").increment(1);
        let state = State::default();
        self.put_first(Piece { number, pass: Arc::clone(&pass), advance, state });
        let range = Range::Exactly { after: read.after, upto: read.upto };
        self.send(Ticket { chunk: number, pass, range })
    }

    fn count(&mut self, pass: &Pass, ended: &mut Option<Advance>, read: &Read, progress: &mut TableSnapshot) {
        let rows = read.rows.len() as u64;
        progress.rows += rows;
        counter!("highwater_capture_snapshot_rows_total", "table" => pass.table().to_owned()).increment(rows);
        let current = self.pass.as_mut().filter(|(current, _)| current.number == pass.number);
        if let Some(advance) = ended.as_mut().or(current.map(|(_, advance)| advance)) {
            advance.add(pass.table(), rows, progress.rows);
        }
    }

    /// The table's last row was published just below `high`.
    fn end_of_rows(&mut self, pass: &Arc<Pass>, advance: Option<Advance>, progress: &mut TableSnapshot, high: u64) {
        let rate = advance.map_or(0, |advance| advance.rate());
        info!(table = pass.table(), rows = progress.rows, rows_per_s = rate, "the rows of a table are read");
        match &progress.again {
            Some(again) if !has_refused(pass, progress) => self.search_behind(Arc::clone(pass), again.since, high),
            _ => self.complete(pass, progress),
        }
    }

    /// What is published from here on is no longer surely found in the topics: it is taken note of.
    fn search_behind(&mut self, pass: Arc<Pass>, since: Bound, behind: u64) {
        let number = self.next_number();
        let state = State::Unsearched { touched: Touched::default(), since, behind };
        self.put_first(Piece { number, pass, advance: None, state });
    }

    fn complete(&mut self, pass: &Pass, progress: &mut TableSnapshot) {
        info!(table = pass.table(), rows = progress.rows, "snapshot of a table is done");
        match progress.again.take().and_then(|again| again.moved) {
            Some(since) => {
                progress.read_again(since, true);
                self.left.push_back(pass.table().to_owned());
            }
            None => progress.complete = true,
        }
    }

    /// Puts a piece before all others. Those that had a bound already get another one: the stream passes it meanwhile.
    fn put_first(&mut self, piece: Piece) {
        self.pieces.iter_mut().for_each(Piece::lose_bound);
        self.pieces.push_front(piece);
    }
}

/// Whether rows of a table went to the dead letters while it was read again: they have no newer event, like those that vanished.
fn has_refused(pass: &Pass, progress: &TableSnapshot) -> bool {
    let refused = progress.again.as_ref().map_or(0, |again| again.refused);
    if refused > 0 {
        warn!(
            table = pass.table(),
            refused,
            "rows went to the dead letters while the table was read again: those that vanished are not told from them, and stay \
             in the topics; mend what the letters name, then read the table once more"
        );
    }
    refused > 0
}
