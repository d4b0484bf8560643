//! Requests of operators to read tables again. They travel in the log itself, so that whichever capture is at work gets
//! them, exactly once, at a place in the log.

use std::time::Duration;

use highwater_postgres::{Connection, Error, quote};
use serde::{Deserialize, Serialize};
use tracing::{info, warn};

use super::work::Work;
use crate::position::Bound;

/// Prefix of the transactional logical message that asks for a snapshot; its content is a [`Request`] as JSON.
pub(super) const SNAPSHOT_PREFIX: &[u8] = b"highwater.snapshot";

/// Which tables are to be read again.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Request {
    /// Their names, as the mapping has them.
    pub tables: Vec<String>,
}

impl Request {
    /// Writes the request into the log.
    ///
    /// # Errors
    /// As the server says.
    pub fn write(&self, primary: &mut Connection, timeout: Duration) -> Result<(), Error> {
        let content = serde_json::to_string(self).map_err(|error| Error::Protocol(error.to_string()))?;
        let (prefix, content) = (quote::literal(&String::from_utf8_lossy(SNAPSHOT_PREFIX)), quote::literal(&content));
        primary.simple_query(&format!("SELECT pg_logical_emit_message(true, {prefix}, {content})"), timeout).map(drop)
    }
}

impl Work {
    /// Begins to read tables again, as a message in the log asks.
    pub(super) fn read_again(&mut self, content: &[u8], since: Bound) {
        let request: Request = match serde_json::from_slice(content) {
            Ok(request) => request,
            Err(error) => {
                warn!(%since, %error, "a request for a snapshot in the log is not understood, and left alone");
                return;
            }
        };
        let mapped = self.feeds.mapped();
        for table in &request.tables {
            if !mapped.contains(table) {
                warn!(%since, table, "a request for a snapshot names a table that no [[source.map]] entry maps");
                continue;
            }
            info!(%since, table, "a table is read again, as the log asks");
            self.read_table_again(table, since, false);
        }
    }

    /// Has a table read again whose rows went over to another part with a row of another table, which the log does not say of them. If it
    /// is being read for that, it is read once more behind it, so that it comes to its end however often rows move.
    pub(super) fn child_moved(&mut self, table: &str, since: Bound) {
        let ledger = &mut self.publisher.progress.snapshot.tables;
        match ledger.get_mut(table).and_then(|table| table.again.as_mut()) {
            Some(again) if !again.stands => again.moved = again.moved.max(Some(since)),
            _ => {
                info!(%since, table, "a table is read again: rows one step away moved to another part");
                self.read_table_again(table, since, true);
            }
        }
    }

    /// Begins to read a table again; with a `gap`, what the topics hold of it is not right until that is done.
    fn read_table_again(&mut self, table: &str, since: Bound, gap: bool) {
        if self.publisher.progress.ahead && self.snapshot.is_done() {
            self.snapshot.settle_first();
        }
        let ledger = &mut self.publisher.progress.snapshot.tables;
        ledger.entry(table.to_owned()).or_default().read_again(since, gap);
        self.snapshot.read_again(table);
    }
}
