//! An own blocking session with the server, for the thread that reads the log and those that read snapshots.

mod kept_rows;
mod query;
mod startup;

use std::collections::BTreeMap;
use std::io;
use std::time::{Duration, Instant};

use bytes::BytesMut;
use postgres_protocol::message::frontend;

pub use kept_rows::KeptRows;
pub use query::{ColumnDescription, DataRow, Rows};

use crate::config::ConnectConfig;
use crate::error::{Error, Result, ServerError};
use crate::lsn::Lsn;
use crate::socket::{Channel, Socket, Whole, after};
use crate::visibility::Snapshot;

/// How long the system may take to accept what is sent. Requests are small; a server that does not read them is gone.
const SEND_TIMEOUT: Duration = Duration::from_secs(10);

/// What a session is for.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Session {
    /// SQL.
    Ordinary,
    /// Logical replication in one database; SQL works there, too (manual: Streaming Replication Protocol).
    Replication,
}

/// Where a session stands between two statements.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum TransactionStatus {
    /// In no transaction.
    Idle,
    /// In a transaction block.
    Open,
    /// In a transaction block that failed, and takes nothing but its end.
    Failed,
}

/// A session with the server. It belongs to one thread; every wait has a deadline.
///
/// After any error but [`Error::Server`] it is broken (see [`Connection::is_broken`]) and every further call fails.
#[derive(Debug)]
pub struct Connection {
    socket: Socket,
    address: String,
    parameters: BTreeMap<String, String>,
    backend_pid: i32,
    status: TransactionStatus,
    broken: bool,
}

impl Connection {
    /// Opens a session at the first of the configured endpoints that takes it.
    ///
    /// # Errors
    ///
    /// Of the last endpoint tried, if none takes it by the configuration's deadline: [`Error::Unreachable`],
    /// [`Error::Tls`], [`Error::Refused`], [`Error::Server`], [`Error::Timeout`]. A refused login is not tried again
    /// elsewhere.
    pub fn connect(config: &ConnectConfig, session: Session) -> Result<Self> {
        startup::connect(config, session)
    }

    /// Returns the server's version as a number, such as 150006.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.parameter("server_version").map_or(0, version_number)
    }

    /// Returns what the server reported of a setting, such as `in_hot_standby`; those that it reports are few.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// Returns the server process that serves the session.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.backend_pid
    }

    /// Returns the endpoint that was connected to.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Returns whether what is sent is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        matches!(self.socket.channel(), Channel::Tls(_))
    }

    /// Returns where the session stood after the last statement.
    #[must_use]
    pub fn transaction_status(&self) -> TransactionStatus {
        self.status
    }

    /// Returns whether the session cannot be used any more.
    #[must_use]
    pub fn is_broken(&self) -> bool {
        self.broken
    }

    /// Asks which transactions are still in progress.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn current_snapshot(&mut self, timeout: Duration) -> Result<Snapshot> {
        let rows = self.simple_query("SELECT pg_current_snapshot()", timeout)?;
        let text = rows.single()?;
        text.parse().map_err(|error: crate::visibility::ParseSnapshotError| Error::Protocol(error.to_string()))
    }

    /// Takes a transaction id, 64 bits: every transaction that has one already has a lower one. Writes nothing that anybody
    /// waits for.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn next_transaction_id(&mut self, timeout: Duration) -> Result<u64> {
        let rows = self.simple_query("SELECT pg_current_xact_id()", timeout)?;
        let text = rows.single()?;
        text.parse().map_err(|_| Error::Protocol(format!("pg_current_xact_id() gave `{text}`")))
    }

    /// Asks about how many rows a table has, its partitions together, by the last VACUUM or ANALYZE; none where that is not
    /// known. `table` is as SQL has it, quoted.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn about_rows(&mut self, table: &str, timeout: Duration) -> Result<Option<u64>> {
        let sql = format!(
            "SELECT sum(greatest(c.reltuples, 0))::bigint FROM pg_partition_tree({}::regclass) t JOIN pg_class c ON c.oid = t.relid
             WHERE t.isleaf",
            crate::quote::literal(table)
        );
        let rows = self.simple_query(&sql, timeout)?;
        Ok(rows.single().ok().and_then(|text| text.parse().ok()).filter(|rows| *rows > 0))
    }

    /// Asks whether the server is a standby.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn in_recovery(&mut self, timeout: Duration) -> Result<bool> {
        Ok(self.simple_query("SELECT pg_is_in_recovery()", timeout)?.single()? == "t")
    }

    /// Asks up to where a standby has replayed the log; none on a server that never was one.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`].
    pub fn replayed(&mut self, timeout: Duration) -> Result<Option<Lsn>> {
        let rows = self.simple_query("SELECT coalesce(pg_last_wal_replay_lsn()::text, '')", timeout)?;
        match rows.single()? {
            "" => Ok(None),
            text => {
                text.parse().map(Some).map_err(|_| Error::Protocol(format!("pg_last_wal_replay_lsn() gave `{text}`")))
            }
        }
    }

    pub(crate) fn socket(&self) -> &Socket {
        &self.socket
    }

    /// Builds a message and sends it.
    pub(crate) fn send_message(&mut self, build: impl FnOnce(&mut BytesMut) -> io::Result<()>) -> Result<()> {
        let mut message = BytesMut::new();
        build(&mut message).map_err(|error| Error::Protocol(format!("a request cannot be sent: {error}")))?;
        self.send(&message)
    }

    pub(crate) fn send(&mut self, bytes: &[u8]) -> Result<()> {
        self.usable()?;
        self.socket.send(bytes, SEND_TIMEOUT).map_err(|error| self.lost(error))
    }

    fn usable(&self) -> Result<()> {
        if self.broken {
            return Err(self.lost_error(io::Error::new(io::ErrorKind::NotConnected, "an earlier failure closed it")));
        }
        Ok(())
    }

    /// Waits for the next message that is the caller's business; what the server says on the side is noted here.
    pub(crate) fn receive(&mut self, wait: &Wait) -> Result<Whole> {
        self.usable()?;
        loop {
            let message = self.socket.message(wait.deadline).map_err(|error| self.failed_wait(error, wait))?;
            if !self.note(message)? {
                return Ok(message);
            }
        }
    }

    /// The same, but None if nothing whole came in time.
    pub(crate) fn receive_within(&mut self, timeout: Duration) -> Result<Option<Whole>> {
        self.usable()?;
        loop {
            match self.socket.message_within(timeout) {
                Ok(Some(message)) if self.note(message)? => {}
                Ok(message) => return Ok(message),
                Err(error) => return Err(self.lost(error)),
            }
        }
    }

    /// Handles messages that can come at any time (manual: Asynchronous Operations), and tells whether this was one.
    fn note(&mut self, message: Whole) -> Result<bool> {
        match message.kind {
            b'S' => {
                let mut cursor = crate::cursor::Cursor::new(self.socket.body(message));
                let (Ok(name), Ok(value)) = (cursor.string(), cursor.string()) else {
                    return Err(self.protocol("a ParameterStatus that is cut short"));
                };
                let text = |bytes: &[u8]| String::from_utf8_lossy(bytes).into_owned();
                let (name, value) = (text(name), text(value));
                self.parameters.insert(name, value);
            }
            b'N' => {
                let notice = ServerError::read(self.socket.body(message));
                tracing::debug!(severity = notice.severity, code = notice.code, "server sent a notice");
            }
            b'A' => {}
            _ => return Ok(false),
        }
        Ok(true)
    }

    /// Reads on to the end of a statement, after an error of it, and returns the error.
    pub(crate) fn drain_error(&mut self, message: Whole, wait: &Wait) -> Error {
        let error = ServerError::read(self.socket.body(message));
        if error.severity == "FATAL" || error.severity == "PANIC" {
            self.broken = true;
            return Error::Server(Box::new(error));
        }
        match self.until_ready(wait) {
            Ok(()) => Error::Server(Box::new(error)),
            Err(broken) => broken,
        }
    }

    /// Passes over everything up to the message that ends a statement.
    pub(crate) fn until_ready(&mut self, wait: &Wait) -> Result<()> {
        loop {
            let message = self.receive(wait)?;
            if message.kind == b'Z' {
                return self.ready(message);
            }
        }
    }

    /// Takes the session's state from a `ReadyForQuery`.
    pub(crate) fn ready(&mut self, message: Whole) -> Result<()> {
        self.status = match self.socket.body(message) {
            b"I" => TransactionStatus::Idle,
            b"T" => TransactionStatus::Open,
            b"E" => TransactionStatus::Failed,
            _ => return Err(self.protocol("a ReadyForQuery with no known state")),
        };
        Ok(())
    }

    fn failed_wait(&mut self, error: io::Error, wait: &Wait) -> Error {
        if error.kind() == io::ErrorKind::TimedOut {
            // The answer may still come, and would be taken for that to the next question.
            self.broken = true;
            return wait.timed_out(&self.address);
        }
        self.lost(error)
    }

    pub(crate) fn lost(&mut self, error: io::Error) -> Error {
        self.broken = true;
        match error.kind() {
            io::ErrorKind::InvalidData => Error::Protocol(format!("{error} (PostgreSQL at {})", self.address)),
            _ => self.lost_error(error),
        }
    }

    fn lost_error(&self, source: io::Error) -> Error {
        Error::Lost { server: format!("PostgreSQL at {}", self.address), source }
    }

    /// Takes an error after which the server says nothing more that matters.
    pub(crate) fn fatal(&mut self, message: Whole) -> Error {
        self.broken = true;
        Error::Server(Box::new(ServerError::read(self.socket.body(message))))
    }

    /// Gives up the session, because the server ended its stream.
    pub(crate) fn ended(&mut self) -> Error {
        self.broken = true;
        Error::Ended { address: self.address.clone() }
    }

    /// Gives up the session, because its two sides no longer understand each other.
    pub(crate) fn protocol(&mut self, what: &str) -> Error {
        self.broken = true;
        Error::Protocol(format!("{what} (PostgreSQL at {})", self.address))
    }
}

impl Drop for Connection {
    fn drop(&mut self) {
        if !self.broken {
            let mut message = BytesMut::new();
            frontend::terminate(&mut message);
            // A courtesy that spares the server a line in its log; the socket closes in any case.
            drop(self.socket.send(&message, Duration::from_millis(100)));
        }
    }
}

/// A deadline and what it is for.
#[derive(Debug)]
pub(crate) struct Wait {
    what: &'static str,
    timeout: Duration,
    pub(crate) deadline: Instant,
}

impl Wait {
    pub(crate) fn new(what: &'static str, timeout: Duration) -> Self {
        Self { what, timeout, deadline: after(timeout) }
    }

    fn timed_out(&self, address: &str) -> Error {
        Error::Timeout { waiting_for: format!("{} (PostgreSQL at {address})", self.what), after: self.timeout }
    }
}

/// Reads `15.6 (Debian …)`, `17devel`, `18beta1` or `9.6.24` as the number that `server_version_num` has.
fn version_number(text: &str) -> u32 {
    let mut numbers = text.split(|c: char| !c.is_ascii_digit()).map(|digits| digits.parse::<u32>().unwrap_or(0));
    let major = numbers.next().unwrap_or(0).min(10_000);
    let minor = text
        .strip_prefix(&major.to_string())
        .and_then(|rest| rest.strip_prefix('.'))
        .map_or(0, |_| numbers.next().unwrap_or(0).min(9999));
    if major >= 10 { major * 10_000 + minor } else { major * 10_000 + minor * 100 }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_of_a_version_is_understood() {
        assert_eq!(version_number("15.14 (Debian 15.14-0+deb12u1)"), 150_014);
        assert_eq!(version_number("18beta1"), 180_000);
        assert_eq!(version_number("17devel"), 170_000);
        assert_eq!(version_number("9.6.24"), 90_600);
        assert_eq!(version_number(""), 0);
    }
}
