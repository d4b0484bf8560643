//! Threads that read chunks, each on a connection of its own and with a snapshot of its own.
//!
//! They share one boundary: who takes the next ticket finds where its chunk ends, by the index, and lets the others go on
//! from there. So chunks are handed out in the order of their keys without anybody knowing the table beforehand.

use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use highwater_postgres::{ConnectConfig, Connection, Error, KeptRows, Session};

use super::pass::{Key, Pass};

/// Rows of the first chunk of a table, before it is known how long they are.
const FIRST_ROWS: u32 = 1000;

/// How chunks are read.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Connections that read at once.
    pub(super) readers: usize,
    /// Most rows of a chunk.
    pub(super) rows: u32,
    /// About how many bytes a chunk has. It is cut off where it has twice as many.
    pub(super) bytes: usize,
    pub(super) timeout: Duration,
}

/// What a reader is asked for.
pub(super) struct Ticket {
    pub(super) chunk: u64,
    pub(super) pass: Arc<Pass>,
    pub(super) range: Range,
}

/// Which rows.
pub(super) enum Range {
    /// Those behind the chunk before; for the first one of a pass, behind this key.
    Next { start: Key },
    /// Exactly those behind the first key, up to the second or to the table's end.
    Exactly { after: Key, upto: Option<Key> },
}

/// What a reader read.
pub(super) struct Answer {
    pub(super) chunk: u64,
    pub(super) read: Result<Option<Read>, Error>,
}

/// A chunk; none where the chunk before was the last.
#[derive(Debug)]
pub(super) struct Read {
    pub(super) rows: KeptRows,
    pub(super) after: Key,
    /// Where the chunk ends; none for the table's end.
    pub(super) upto: Option<Key>,
    /// The rows were too long: they end at this key, and the rest is still to be read.
    pub(super) cut: Option<Key>,
}

/// The readers of one session; they end with it.
pub(super) struct Readers {
    tickets: SyncSender<Ticket>,
    answers: Receiver<Answer>,
}

impl Readers {
    pub(super) fn start(config: &ConnectConfig, limits: Limits, most_tickets: usize) -> std::io::Result<Self> {
        let (tickets, inbox) = sync_channel(most_tickets);
        let (outbox, answers) = sync_channel(most_tickets);
        let desk = Arc::new(Mutex::new(Desk { inbox, pass: 0, after: Key::new(), ended: false }));
        let rows = Arc::new(AtomicU32::new(FIRST_ROWS.min(limits.rows)));
        for number in 0..limits.readers {
            let (config, desk, rows, outbox) = (config.clone(), Arc::clone(&desk), Arc::clone(&rows), outbox.clone());
            let reader = Reader { config, limits, connection: None, desk, rows, outbox };
            std::thread::Builder::new().name(format!("snapshot-{number}")).spawn(move || reader.run())?;
        }
        Ok(Self { tickets, answers })
    }

    /// Asks for a chunk. There are never more tickets than the readers' queue has room for.
    pub(super) fn ask(&self, ticket: Ticket) -> Result<(), Error> {
        self.tickets.try_send(ticket).map_err(|_| Error::Protocol("the snapshot's readers are gone".to_owned()))
    }

    /// Returns what has been read by now, in any order.
    pub(super) fn answer(&self) -> Result<Option<Answer>, Error> {
        match self.answers.try_recv() {
            Ok(answer) => Ok(Some(answer)),
            Err(TryRecvError::Empty) => Ok(None),
            Err(TryRecvError::Disconnected) => {
                Err(Error::Protocol("the snapshot's readers ended without an answer".to_owned()))
            }
        }
    }
}

/// Where the readers take their tickets, one at a time.
struct Desk {
    inbox: Receiver<Ticket>,
    /// The pass that `after` is of.
    pass: u64,
    /// Where the last chunk that was handed out ends.
    after: Key,
    /// It was the table's last.
    ended: bool,
}

struct Reader {
    config: ConnectConfig,
    limits: Limits,
    connection: Option<Connection>,
    desk: Arc<Mutex<Desk>>,
    /// Rows of the next chunk. Not on the desk, which is held by whoever waits there for a ticket.
    rows: Arc<AtomicU32>,
    outbox: SyncSender<Answer>,
}

impl Reader {
    fn run(mut self) {
        while let Some((chunk, read)) = self.next() {
            if read.is_err() {
                self.connection = None;
            }
            if self.outbox.send(Answer { chunk, read }).is_err() {
                return;
            }
        }
    }

    /// Reads the next chunk; none once nobody asks any more.
    fn next(&mut self) -> Option<(u64, Result<Option<Read>, Error>)> {
        let desk = Arc::clone(&self.desk);
        let mut desk = desk.lock().unwrap_or_else(PoisonError::into_inner);
        let ticket = desk.inbox.recv().ok()?;
        let (rows, timeout) = (self.rows.load(Ordering::Relaxed), self.limits.timeout);
        let range = match self.connected().and_then(|connection| desk.range(connection, &ticket, rows, timeout)) {
            Ok(Some(range)) => range,
            Ok(None) => return Some((ticket.chunk, Ok(None))),
            Err(error) => return Some((ticket.chunk, Err(error))),
        };
        drop(desk);
        Some((ticket.chunk, self.read(&ticket.pass, range).map(Some)))
    }

    fn connected(&mut self) -> Result<&mut Connection, Error> {
        if self.connection.as_ref().is_none_or(Connection::is_broken) {
            self.connection = Some(Connection::connect(&self.config, Session::Ordinary)?);
        }
        self.connection.as_mut().ok_or_else(|| Error::Protocol("no connection".to_owned()))
    }

    fn read(&mut self, pass: &Pass, (after, upto): (Key, Option<Key>)) -> Result<Read, Error> {
        let (most, timeout) = (self.limits.bytes * 2, self.limits.timeout);
        let sql = pass.rows(&after, upto.as_deref());
        let (rows, cut) = self.connected()?.keep_rows(&sql, most, timeout)?;
        self.rows.store(rows_that_fit(&rows, self.limits), Ordering::Relaxed);
        let cut = if cut { rows.iter().next_back().map(|row| pass.key_of(row)) } else { None };
        Ok(Read { rows, after, upto, cut })
    }
}

/// Returns how many rows like these a chunk may have.
fn rows_that_fit(rows: &KeptRows, limits: Limits) -> u32 {
    if rows.is_empty() {
        return limits.rows;
    }
    let each = (rows.bytes() / rows.len()).max(1);
    u32::try_from(limits.bytes / each).unwrap_or(u32::MAX).clamp(1, limits.rows)
}

impl Desk {
    /// Returns the rows that a ticket is for; none where the table has no more.
    fn range(
        &mut self,
        connection: &mut Connection,
        ticket: &Ticket,
        rows: u32,
        timeout: Duration,
    ) -> Result<Option<(Key, Option<Key>)>, Error> {
        let start = match &ticket.range {
            Range::Exactly { after, upto } => return Ok(Some((after.clone(), upto.clone()))),
            Range::Next { start } => start,
        };
        if self.pass != ticket.pass.number {
            (self.pass, self.after, self.ended) = (ticket.pass.number, start.clone(), false);
        }
        if self.ended {
            return Ok(None);
        }
        let rows = connection.simple_query(&ticket.pass.boundary(&self.after, rows), timeout)?;
        let upto: Option<Key> = rows.rows.into_iter().next().map(|row| row.into_iter().flatten().collect());
        let after = self.after.clone();
        match &upto {
            Some(upto) => self.after.clone_from(upto),
            None => self.ended = true,
        }
        Ok(Some((after, upto)))
    }
}
