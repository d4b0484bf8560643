//! Rows that stood in the tables before the stream began: read in chunks beside the stream, without a lock, a long
//! transaction or an exported snapshot (which can call a transaction committed before the server does).
//!
//! A chunk is read with an ordinary snapshot. Then the bound `high` is asked, and when the stream reaches it, the rows
//! whose key was not published since the read are published just below it. Right only because of *visible first*.

use std::collections::{HashMap, HashSet, VecDeque};
use std::sync::mpsc::{Receiver, SyncSender, TryRecvError, sync_channel};
use std::time::{Duration, Instant};

use highwater_postgres::{ConnectConfig, Connection, Error, Session, quote};
use tracing::info;

use super::feeds::Feed;
use super::progress::{Ledger, TableSnapshot};
use super::tables::Described;
use crate::events::row::{Row, Table, Value};

/// Most keys remembered while a chunk is on its way; past it the chunk is read again.
const MOST_KEYS: usize = 100_000;

/// One row as text, a value per column.
pub(super) type OwnedRow = Vec<Option<Vec<u8>>>;

/// What the reader is asked for.
struct Request {
    sql: String,
}

/// The snapshot of all mapped tables.
pub(super) struct Snapshot {
    requests: SyncSender<Request>,
    chunks: Receiver<Result<Vec<OwnedRow>, Error>>,
    chunk_rows: u32,
    /// Tables that are not done, by name, in order.
    left: VecDeque<String>,
    tables: HashMap<String, (Described, Feed)>,
    state: State,
    started: Instant,
    published: u64,
}

enum State {
    /// Transactions that were under way when the stream began may have committed below it without being visible yet.
    Settling {
        before: Option<u64>,
    },
    Idle,
    Reading {
        overtaken: Overtaken,
    },
    /// The chunk waits until the stream reaches `high`.
    Waiting {
        overtaken: Overtaken,
        rows: Vec<OwnedRow>,
        high: u64,
    },
    Done,
}

/// What the stream published of the chunk's table since the read was asked for: newer than what the chunk holds.
#[derive(Debug, Default)]
pub(super) struct Overtaken {
    /// Mapping entry and primary key. An update that changes nothing of an entry's event overtakes nothing there.
    keys: HashSet<(usize, Vec<u8>)>,
    /// There were too many to remember: the chunk has to be read again.
    lost_count: bool,
    /// The table was emptied: all that it holds now comes by the stream.
    all: bool,
}

impl Overtaken {
    /// Whether the event of a mapping entry and a row, by its key, is older than what was published.
    pub(super) fn contains(&self, place: &(usize, Vec<u8>)) -> bool {
        self.all || self.keys.contains(place)
    }
}

/// A chunk whose time has come.
pub(super) struct ReadyChunk {
    /// The table's name.
    pub(super) table: String,
    /// Its exclusive bound.
    pub(super) high: u64,
    /// As they were read.
    pub(super) rows: Vec<OwnedRow>,
    /// Which of their events are old by now.
    pub(super) overtaken: Overtaken,
    /// How far the table is afterwards.
    pub(super) progress: TableSnapshot,
}

impl Snapshot {
    /// Starts the reader, if any table is left to be read.
    pub(super) fn start(
        config: &ConnectConfig,
        mapped: Vec<(Described, Feed)>,
        ledger: &Ledger,
        chunk_rows: u32,
        timeout: Duration,
    ) -> std::io::Result<Self> {
        let done = |name: &str| ledger.tables.get(name).is_some_and(|table| table.complete);
        let left: VecDeque<String> =
            mapped.iter().map(|(_, feed)| feed.table.name.clone()).filter(|name| !done(name)).collect();
        let (requests, inbox) = sync_channel::<Request>(1);
        let (outbox, chunks) = sync_channel(1);
        let state = if left.is_empty() { State::Done } else { State::Settling { before: None } };
        if !left.is_empty() {
            info!(tables = left.len(), "snapshot begins");
            let config = config.clone();
            std::thread::Builder::new()
                .name("snapshot".to_owned())
                .spawn(move || read_chunks(&config, &inbox, &outbox, timeout))?;
        }
        let tables = mapped.into_iter().map(|table| (table.1.table.name.clone(), table)).collect();
        Ok(Self { requests, chunks, chunk_rows, left, tables, state, started: Instant::now(), published: 0 })
    }

    /// Whether every mapped table was read.
    pub(super) fn is_done(&self) -> bool {
        matches!(self.state, State::Done)
    }

    /// Returns a mapped table and what it feeds.
    pub(super) fn table(&self, name: &str) -> Option<&Feed> {
        self.tables.get(name).map(|(_, feed)| feed)
    }

    /// Takes note that the stream published an event of this row.
    pub(super) fn overtake(&mut self, table: &Table, entry: usize, row: Row<'_>) {
        let Some(overtaken) = self.under_way(&table.name) else { return };
        if overtaken.keys.len() < MOST_KEYS {
            overtaken.keys.insert((entry, key_of(table, row)));
        } else {
            overtaken.lost_count = true;
        }
    }

    /// Takes note that the stream emptied this table: nothing read before stands any more.
    pub(super) fn truncated(&mut self, table: &str) {
        if let Some(overtaken) = self.under_way(table) {
            overtaken.all = true;
        }
    }

    fn under_way(&mut self, table: &str) -> Option<&mut Overtaken> {
        if self.left.front().is_none_or(|name| name != table) {
            return None;
        }
        match &mut self.state {
            State::Reading { overtaken } | State::Waiting { overtaken, .. } => Some(overtaken),
            State::Settling { .. } | State::Idle | State::Done => None,
        }
    }

    /// Moves on as far as possible without waiting: settles, asks for a chunk, or takes one that was read. `primary` is
    /// asked for bounds.
    pub(super) fn advance(
        &mut self,
        primary: &mut Connection,
        ledger: &Ledger,
        timeout: Duration,
    ) -> Result<(), Error> {
        match &mut self.state {
            State::Settling { before } => {
                let now = primary.current_snapshot(timeout)?;
                let wanted = *before.get_or_insert(now.xmax());
                if now.xmin() >= wanted {
                    self.state = State::Idle;
                }
            }
            State::Idle => self.ask(ledger),
            State::Reading { .. } => self.take(primary, timeout)?,
            State::Waiting { .. } | State::Done => {}
        }
        Ok(())
    }

    fn ask(&mut self, ledger: &Ledger) {
        let Some(name) = self.left.front() else {
            self.state = State::Done;
            return;
        };
        let Some((described, feed)) = self.tables.get(name) else { return };
        let after = ledger.tables.get(name).map(|table| table.after.as_slice()).unwrap_or_default();
        let sql = chunk_sql(described, &feed.table, after, self.chunk_rows);
        // From here on, so that no change between asking and reading is missed.
        self.state = State::Reading { overtaken: Overtaken::default() };
        // The reader holds one request at most, and we have none under way.
        let _ = self.requests.try_send(Request { sql });
    }

    fn take(&mut self, primary: &mut Connection, timeout: Duration) -> Result<(), Error> {
        let rows = match self.chunks.try_recv() {
            Ok(rows) => rows?,
            Err(TryRecvError::Empty) => return Ok(()),
            Err(TryRecvError::Disconnected) => {
                return Err(Error::Protocol("the snapshot's reader ended without an answer".to_owned()));
            }
        };
        let State::Reading { overtaken } = std::mem::replace(&mut self.state, State::Idle) else { return Ok(()) };
        let high = next_high(primary, timeout)?;
        self.state = State::Waiting { overtaken, rows, high };
        Ok(())
    }

    /// Returns the chunk that must be published before anything at or above `lsn`, if there is one.
    pub(super) fn due(&mut self, lsn: u64, ledger: &Ledger) -> Option<ReadyChunk> {
        if !matches!(self.state, State::Waiting { high, .. } if high <= lsn) {
            return None;
        }
        let State::Waiting { overtaken, rows, high } = std::mem::replace(&mut self.state, State::Idle) else {
            return None;
        };
        if overtaken.lost_count {
            info!("the stream overtook a chunk of the snapshot; it is read again");
            return None;
        }
        let name = self.left.front()?.clone();
        let (_, feed) = self.tables.get(&name)?;
        let table = &feed.table;
        let mut progress = ledger.tables.get(&name).cloned().unwrap_or_default();
        progress.complete = rows.len() < self.chunk_rows as usize;
        if let Some(last) = rows.last() {
            let text = |column: &usize| last[*column].as_ref().map(|text| String::from_utf8_lossy(text).into_owned());
            progress.after = table.primary_key.iter().map(|column| text(column).unwrap_or_default()).collect();
        }
        progress.rows += rows.len() as u64;
        self.published += rows.len() as u64;
        if progress.complete {
            self.left.pop_front();
            info!(table = name, rows = progress.rows, "snapshot of a table is done");
        }
        if self.left.is_empty() {
            self.state = State::Done;
            let seconds = self.started.elapsed().as_secs_f64();
            info!(rows = self.published, seconds, "snapshot is done");
        }
        Some(ReadyChunk { table: name, high, rows, overtaken, progress })
    }
}

/// Returns the bound of a chunk that was just read, above every bound that was published before.
///
/// A transaction of our own on either side makes it so, and makes the stream reach it without waiting for anybody else:
/// on an idle server the log would not move, and the rows would stand behind marks that deny them.
fn next_high(primary: &mut Connection, timeout: Duration) -> Result<u64, Error> {
    const TOUCH: &str = "SELECT pg_logical_emit_message(true, 'highwater.snapshot', '')";
    primary.simple_query(TOUCH, timeout)?;
    let rows = primary.simple_query("SELECT pg_current_wal_insert_lsn()", timeout)?;
    let text = rows.single()?.to_owned();
    let high: highwater_postgres::Lsn =
        text.parse().map_err(|_| Error::Protocol(format!("pg_current_wal_insert_lsn() gave `{text}`")))?;
    primary.simple_query(TOUCH, timeout)?;
    Ok(start_of_page_if_just_past_its_header(high.0))
}

/// The insert position skips a page's header (`XLogPageHeaderData`, 24 bytes; 40 on a segment's first page), where no
/// record ends: nothing would ever reach it on an idle server.
fn start_of_page_if_just_past_its_header(lsn: u64) -> u64 {
    const PAGE: u64 = 8192;
    match lsn % PAGE {
        header @ (24 | 40) => lsn - header,
        _ => lsn,
    }
}

fn chunk_sql(described: &Described, table: &Table, after: &[String], rows: u32) -> String {
    let key: Vec<String> =
        table.primary_key.iter().map(|column| quote::identifier(&table.columns[*column].name)).collect();
    let key = key.join(", ");
    let mut conditions: Vec<String> = described.row_filter.iter().map(|filter| format!("({filter})")).collect();
    if !after.is_empty() {
        let literals: Vec<String> = after.iter().map(|text| quote::literal(text)).collect();
        conditions.push(format!("ROW({key}) > ROW({})", literals.join(", ")));
    }
    let condition = if conditions.is_empty() { String::new() } else { format!(" WHERE {}", conditions.join(" AND ")) };
    format!(
        "SELECT {} FROM {}{condition} ORDER BY {key} LIMIT {rows}",
        described.select_list(),
        quote::qualified(&described.schema, &described.name)
    )
}

/// The reader's thread: one connection, one chunk at a time, each with a snapshot of its own.
fn read_chunks(
    config: &ConnectConfig,
    requests: &Receiver<Request>,
    chunks: &SyncSender<Result<Vec<OwnedRow>, Error>>,
    timeout: Duration,
) {
    let mut connection = None;
    while let Ok(request) = requests.recv() {
        let answer = read_chunk(config, &mut connection, &request.sql, timeout);
        if answer.is_err() {
            connection = None;
        }
        if chunks.send(answer).is_err() {
            return;
        }
    }
}

fn read_chunk(
    config: &ConnectConfig,
    connection: &mut Option<Connection>,
    sql: &str,
    timeout: Duration,
) -> Result<Vec<OwnedRow>, Error> {
    let connection = match connection {
        Some(connection) => connection,
        None => connection.insert(Connection::connect(config, Session::Ordinary)?),
    };
    let mut rows = Vec::new();
    connection.for_each_row(sql, timeout, |row| {
        rows.push(row.values().map(|value| value.map(<[u8]>::to_vec)).collect());
        Ok::<(), Error>(())
    })?;
    Ok(rows)
}

/// Returns a row's values as the mapping wants them.
pub(super) fn values(row: &OwnedRow) -> Vec<Value<'_>> {
    row.iter().map(|value| value.as_ref().map_or(Value::Null, |text| Value::Text(text))).collect()
}

/// Returns the primary key as one text; no value can hold the separator.
pub(super) fn key_of(table: &Table, row: Row<'_>) -> Vec<u8> {
    let mut key = Vec::new();
    for column in &table.primary_key {
        if let Some(Value::Text(text)) = row.get(*column) {
            key.extend_from_slice(text);
        }
        key.push(0);
    }
    key
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bound_just_past_a_page_header_counts_as_its_pages_start() {
        assert_eq!(start_of_page_if_just_past_its_header(8192 + 24), 8192);
        assert_eq!(start_of_page_if_just_past_its_header(16 * 1024 * 1024 + 40), 16 * 1024 * 1024);
        assert_eq!(start_of_page_if_just_past_its_header(8192 + 48), 8192 + 48);
    }
}
