//! Streamed transactions until their end: kept as they came, first in memory, then in files. Promise: memory and disk stay
//! within their limits, what comes out is what went in, and what was rolled back does not come out.
//!
//! `block` is the form on disk, `file` writes and reads one transaction's blocks, `folder` keeps sessions apart, `streamed`
//! decides what survives, `claims` who did it. `room` asks beforehand whether there is a place for them.

mod block;
mod claims;
mod error;
mod file;
mod folder;
mod room;
mod streamed;
#[cfg(test)]
mod tests;

use std::collections::HashMap;
use std::path::Path;

use highwater_postgres::pgoutput::{StreamAbort, StreamStart};
use metrics::{counter, gauge};

pub use error::SpillError;
pub(super) use room::room_in;
pub(super) use streamed::Replay;

use super::error::Error;
use super::measures::as_f64;
use file::Blocks;
use folder::Folder;
use streamed::Streamed;

/// How much is kept, and where.
#[derive(Debug, Clone, Copy)]
pub(super) struct Limits {
    /// Bytes of one transaction in memory before they are written.
    pub(super) block: usize,
    /// Bytes of all transactions in memory.
    pub(super) memory: usize,
    /// Bytes of all files.
    pub(super) disk: u64,
    /// Rolled-back savepoints that are remembered, of all transactions.
    pub(super) savepoints: usize,
}

impl Limits {
    /// Returns the limits of a process that is to stay small.
    pub(super) fn with_disk(bytes: u64) -> Self {
        Self { block: 128 * 1024, memory: 4 * 1024 * 1024, disk: bytes, savepoints: 1_000_000 }
    }
}

/// The streamed transactions of a session that have not ended.
#[derive(Debug)]
pub(super) struct Spill {
    // Before the folder, so that files go before their session does.
    open: HashMap<u32, Streamed>,
    /// The transaction whose piece is being read.
    current: Option<Streamed>,
    folder: Folder,
    limits: Limits,
    on_disk: u64,
    rolled_back: usize,
}

impl Spill {
    /// Makes the folder if need be, and removes what sessions that have ended left there.
    pub(super) fn open(folder: &Path, limits: Limits) -> Result<Self, SpillError> {
        let folder = Folder::open(folder)?;
        let spill = Self { open: HashMap::new(), current: None, folder, limits, on_disk: 0, rolled_back: 0 };
        spill.show();
        Ok(spill)
    }

    /// Whether the stream is inside of a piece of a transaction in progress.
    pub(super) fn in_piece(&self) -> bool {
        self.current.is_some()
    }

    /// Begins a piece. Pieces and ordinary transactions are numbered in the order of the stream.
    pub(super) fn start(&mut self, start: StreamStart, number: u64) -> Result<(), Error> {
        let known = self.open.remove(&start.xid);
        let mut streamed = match known {
            Some(streamed) if !start.first => streamed,
            None if !start.first => return Err(contradiction("goes on with", start.xid)),
            earlier => {
                // Of an earlier transaction of this id, whose end the server did not tell.
                if let Some(earlier) = earlier {
                    self.roll_back(&earlier);
                }
                Streamed::new(start.xid, Blocks::new(self.folder.file_of(start.xid), start.xid))
            }
        };
        streamed.begin_piece(number);
        self.current = Some(streamed);
        self.show();
        Ok(())
    }

    /// Keeps a message of the piece.
    pub(super) fn keep(&mut self, payload: &[u8]) -> Result<(), Error> {
        let Some(streamed) = &mut self.current else {
            return Err(Error::Unexpected("a streamed change outside of a piece".to_owned()));
        };
        streamed.keep(payload);
        if streamed.in_memory() >= self.limits.block {
            write(streamed, &self.folder, &self.limits, &mut self.on_disk)?;
        }
        Ok(())
    }

    /// Ends the piece.
    pub(super) fn stop(&mut self) -> Result<(), Error> {
        if let Some(mut streamed) = self.current.take() {
            if streamed.on_disk() > 0 {
                write(&mut streamed, &self.folder, &self.limits, &mut self.on_disk)?;
            }
            streamed.rest();
            self.open.insert(streamed.xid, streamed);
        }
        let mut in_memory: usize = self.open.values().map(Streamed::in_memory).sum();
        while in_memory > self.limits.memory {
            let Some(largest) = self.open.values_mut().max_by_key(|streamed| streamed.in_memory()) else { break };
            in_memory -= largest.in_memory();
            write(largest, &self.folder, &self.limits, &mut self.on_disk)?;
            largest.rest();
        }
        self.show();
        Ok(())
    }

    /// Rolls back a transaction or one of its savepoints. One that was never seen is passed over: PostgreSQL 18 names such.
    pub(super) fn abort(&mut self, abort: StreamAbort) -> Result<(), Error> {
        if abort.subxid == abort.xid {
            if let Some(streamed) = self.open.remove(&abort.xid) {
                self.roll_back(&streamed);
                self.show();
            }
        } else if let Some(streamed) = self.open.get_mut(&abort.xid) {
            streamed.roll_back(abort.subxid);
            if streamed.in_memory() >= self.limits.block {
                write(streamed, &self.folder, &self.limits, &mut self.on_disk)?;
                streamed.rest();
            }
            self.rolled_back += 1;
            if self.rolled_back > self.limits.savepoints {
                return Err(SpillError::Savepoints { limit: self.limits.savepoints }.into());
            }
        }
        Ok(())
    }

    /// Takes out a transaction that has committed; [`Self::replayed`] gives back what it occupies.
    pub(super) fn commit(&mut self, xid: u32) -> Result<Replay, Error> {
        let streamed = self.open.remove(&xid).ok_or_else(|| contradiction("commits", xid))?;
        self.show();
        Ok(streamed.replay())
    }

    /// Ends a replay: its file goes.
    pub(super) fn replayed(&mut self, replay: Replay) {
        rolled_back_changes(replay.dropped());
        self.on_disk -= replay.on_disk();
        self.rolled_back -= replay.rolled_back();
        drop(replay);
        self.show();
    }

    /// Takes note that a transaction goes with all its changes.
    fn roll_back(&mut self, streamed: &Streamed) {
        rolled_back_changes(streamed.changes);
        self.on_disk -= streamed.on_disk();
        self.rolled_back -= streamed.rolled_back();
    }

    fn show(&self) {
        gauge!("highwater_capture_spilled_bytes").set(as_f64(self.on_disk));
        let open = self.open.len() + usize::from(self.current.is_some());
        gauge!("highwater_capture_streamed_transactions").set(as_f64(open as u64));
    }
}

fn write(streamed: &mut Streamed, folder: &Folder, limits: &Limits, on_disk: &mut u64) -> Result<(), SpillError> {
    let bytes = streamed.in_memory() as u64;
    if *on_disk + bytes > limits.disk {
        return Err(SpillError::Full { folder: folder.path().to_owned(), limit: limits.disk });
    }
    streamed.write()?;
    *on_disk += bytes;
    counter!("highwater_capture_spilled_bytes_total").increment(bytes);
    Ok(())
}

fn rolled_back_changes(count: u64) {
    counter!("highwater_capture_streamed_changes_rolled_back_total").increment(count);
}

fn contradiction(what: &str, xid: u32) -> Error {
    Error::Unexpected(format!("the server {what} a streamed transaction {xid} that it never began"))
}
