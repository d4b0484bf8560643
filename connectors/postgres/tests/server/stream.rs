//! The stream of changes.

use std::collections::BTreeMap;
use std::time::{Duration, Instant};

use highwater_postgres::pgoutput::{self, Column, Message, OldRow, ReplicaIdentity, TupleData};
use highwater_postgres::replication::{Frame, ReplicationStream, SlotOptions, StartOptions, Status, Streaming};
use highwater_postgres::{ConnectConfig, Connection, Error, Lsn, Session};

use crate::stack::{TIMEOUT, fresh, server};

/// A slot with its publication, and a session that reads it.
pub(crate) struct Subscription {
    pub(crate) slot: String,
    pub(crate) publication: String,
    config: ConnectConfig,
}

impl Subscription {
    /// Makes both; `tables` is what stands after `CREATE PUBLICATION name`.
    pub(crate) fn new(config: &ConnectConfig, tables: &str) -> Self {
        let (slot, publication) = (fresh("slot"), fresh("publication"));
        let mut connection = Connection::connect(config, Session::Replication).unwrap();
        connection.simple_query(&format!("CREATE PUBLICATION {publication} {tables}"), TIMEOUT).unwrap();
        connection.create_slot(&slot, SlotOptions::default(), TIMEOUT).unwrap();
        Self { slot, publication, config: config.clone() }
    }

    pub(crate) fn stream(&self, streaming: Streaming) -> ReplicationStream {
        let publications = [self.publication.as_str()];
        let options = StartOptions { slot: &self.slot, start: Lsn::ZERO, publications: &publications, streaming };
        Connection::connect(&self.config, Session::Replication).unwrap().start_replication(&options, TIMEOUT).unwrap()
    }
}

/// Hands over messages until `done` says so.
pub(crate) fn read(stream: &mut ReplicationStream, mut done: impl FnMut(Message<'_>) -> bool) {
    let (deadline, mut in_stream) = (Instant::now() + TIMEOUT, false);
    loop {
        assert!(Instant::now() < deadline, "the stream does not bring what was waited for");
        let Some(Frame::XLogData { payload, .. }) = stream.next(Duration::from_millis(100)).unwrap() else { continue };
        let message = pgoutput::decode(payload, in_stream).unwrap();
        match message {
            Message::StreamStart(_) => in_stream = true,
            Message::StreamStop => in_stream = false,
            _ => {}
        }
        if done(message) {
            return;
        }
    }
}

/// A row in one line: texts, `-` for null, `=` for unchanged.
fn row(tuple: TupleData<'_>) -> String {
    let column = |column| match column {
        Column::Null => "-".to_owned(),
        Column::Unchanged => "=".to_owned(),
        Column::Text(text) => String::from_utf8_lossy(text).into_owned(),
        Column::Binary(_) => "binary".to_owned(),
    };
    tuple.columns().map(column).collect::<Vec<_>>().join("|")
}

fn old(old: OldRow<'_>) -> String {
    match old {
        OldRow::None => "none".to_owned(),
        OldRow::Key(tuple) => format!("key {}", row(tuple)),
        OldRow::Full(tuple) => format!("full {}", row(tuple)),
    }
}

/// Says what a message says, with tables by name.
fn describe(message: Message<'_>, names: &mut BTreeMap<u32, String>) -> Option<String> {
    let table = |oid: u32| names.get(&oid).cloned().expect("a relation comes before its changes");
    Some(match message {
        Message::Relation(relation) => {
            names.insert(relation.oid, relation.name.to_owned());
            return None;
        }
        Message::Insert(m) => format!("insert {} {}", table(m.relation), row(m.new)),
        Message::Update(m) => format!("update {} {} to {}", table(m.relation), old(m.old), row(m.new)),
        Message::Delete(m) => format!("delete {} {}", table(m.relation), old(m.old)),
        Message::Truncate(m) => {
            let tables: Vec<String> = m.relations.iter().map(table).collect();
            format!("truncate {} cascade={} restart={}", tables.join(","), m.cascade, m.restart_identity)
        }
        Message::Logical(m) => {
            let text = |bytes| String::from_utf8_lossy(bytes).into_owned();
            format!("message {} {} transactional={}", text(m.prefix), text(m.content), m.transactional)
        }
        Message::Begin(_) => "begin".to_owned(),
        Message::Commit(_) => "commit".to_owned(),
        _ => return None,
    })
}

#[test]
fn every_kind_of_change_comes_in_order() {
    let (bare, full) = (fresh("bare"), fresh("full"));
    server().sql(&format!(
        "CREATE TABLE {bare} (id int PRIMARY KEY, v text); CREATE TABLE {full} (id int, v text); \
         ALTER TABLE {full} REPLICA IDENTITY FULL"
    ));
    let subscription = Subscription::new(&server().socket("shop"), &format!("FOR TABLE {bare}, {full}"));
    server().sql(&format!(
        "BEGIN; INSERT INTO {bare} VALUES (1, 'a'), (2, NULL); UPDATE {bare} SET v = 'b' WHERE id = 1; \
         UPDATE {bare} SET id = 3 WHERE id = 1; DELETE FROM {bare} WHERE id = 2; \
         SELECT pg_logical_emit_message(true, 'who', 'me'); INSERT INTO {full} VALUES (9, 'x'); \
         UPDATE {full} SET v = 'y'; DELETE FROM {full}; TRUNCATE {bare}, {full} RESTART IDENTITY; COMMIT"
    ));
    server().sql("SELECT pg_logical_emit_message(false, 'alone', 'end')");

    let (mut names, mut said) = (BTreeMap::new(), Vec::new());
    let (mut begin, mut commit) = (None, None);
    read(&mut subscription.stream(Streaming::Off), |message| {
        match message {
            Message::Begin(m) => begin = Some(m),
            Message::Commit(m) => commit = Some(m),
            Message::Relation(m) if m.name == full => assert_eq!(m.identity, ReplicaIdentity::Full),
            Message::Relation(m) => {
                let columns: Vec<_> = m.columns.into_iter().map(|c| (c.key, c.name, c.type_oid)).collect();
                assert_eq!((m.namespace, columns), ("public", vec![(true, "id", 23), (false, "v", 25)]));
            }
            _ => {}
        }
        said.extend(describe(message, &mut names));
        said.last().is_some_and(|last| last.starts_with("message alone"))
    });
    let expected = [
        "begin".to_owned(),
        format!("insert {bare} 1|a"),
        format!("insert {bare} 2|-"),
        format!("update {bare} none to 1|b"),
        format!("update {bare} key 1|- to 3|b"),
        format!("delete {bare} key 2|-"),
        "message who me transactional=true".to_owned(),
        format!("insert {full} 9|x"),
        format!("update {full} full 9|x to 9|y"),
        format!("delete {full} full 9|y"),
        format!("truncate {bare},{full} cascade=false restart=true"),
        "commit".to_owned(),
        "message alone end transactional=false".to_owned(),
    ];
    assert_eq!(said, expected);
    let (begin, commit) = (begin.unwrap(), commit.unwrap());
    assert_eq!((begin.final_lsn, begin.commit_time), (commit.commit_lsn, commit.commit_time));
    assert!(commit.end_lsn > commit.commit_lsn);
    let now = highwater_postgres::Timestamp::now().unix_micros();
    assert!((now - commit.commit_time.unix_micros()).abs() < 60_000_000, "the commit's moment is about now");
}

#[test]
fn an_untouched_toasted_value_is_told_apart_from_null() {
    let (bare, full) = (fresh("toast"), fresh("toast_full"));
    for table in [&bare, &full] {
        server().sql(&format!(
            "CREATE TABLE {table} (id int PRIMARY KEY, n int, big text, none text); \
             ALTER TABLE {table} ALTER big SET STORAGE EXTERNAL"
        ));
    }
    server().sql(&format!("ALTER TABLE {full} REPLICA IDENTITY FULL"));
    let subscription = Subscription::new(&server().socket("shop"), &format!("FOR TABLE {bare}, {full}"));
    let big = "x".repeat(20_000);
    server().sql(&format!("INSERT INTO {bare} VALUES (1, 0, '{big}'); UPDATE {bare} SET n = 1"));
    server().sql(&format!("INSERT INTO {full} VALUES (1, 0, '{big}'); UPDATE {full} SET n = 1"));
    let mut updates = Vec::new();
    read(&mut subscription.stream(Streaming::Off), |message| {
        if let Message::Update(m) = message {
            updates.push((old(m.old), row(m.new)));
        }
        updates.len() == 2
    });
    assert_eq!(updates[0], ("none".to_owned(), "1|1|=|-".to_owned()));
    // With the whole old row, the value is found there.
    assert_eq!(updates[1], (format!("full 1|0|{big}|-"), "1|1|=|-".to_owned()));
}

#[test]
fn a_keepalive_comes_when_it_is_asked_for_and_an_acknowledgement_moves_the_slot() {
    let table = fresh("acknowledged");
    server().sql(&format!("CREATE TABLE {table} (id int)"));
    let subscription = Subscription::new(&server().socket("shop"), &format!("FOR TABLE {table}"));
    let mut stream = subscription.stream(Streaming::Off);
    server().sql(&format!("INSERT INTO {table} VALUES (1)"));
    let mut end = Lsn::ZERO;
    read(&mut stream, |message| {
        if let Message::Commit(commit) = message {
            end = commit.end_lsn;
        }
        end > Lsn::ZERO
    });
    stream.send_status(Status { written: end, flushed: end, applied: end, reply_requested: true }).unwrap();
    let deadline = Instant::now() + TIMEOUT;
    let bound = loop {
        assert!(Instant::now() < deadline, "no keepalive came");
        if let Some(Frame::Keepalive { wal_end, .. }) = stream.next(Duration::from_millis(100)).unwrap() {
            break wal_end;
        }
    };
    assert!(bound >= end, "{bound} is below {end}, which was sent before");
    let mut connection = stream.close(TIMEOUT).unwrap();
    let state = connection.slot(&subscription.slot, TIMEOUT).unwrap().expect("the slot");
    assert_eq!((state.confirmed_flush, state.active_pid), (Some(end), None));
}

#[test]
fn a_savepoint_rolled_back_inside_a_streamed_transaction_says_which_part_went() {
    let table = fresh("streamed");
    server().sql(&format!("CREATE TABLE {table} (id int, v text)"));
    let config = server().socket("shop").with_parameter("logical_decoding_work_mem", "64kB");
    let subscription = Subscription::new(&config, &format!("FOR TABLE {table}"));
    let rows = |from: u32| {
        let to = from + 499;
        format!("INSERT INTO {table} SELECT g, repeat('x', 300) FROM generate_series({from}, {to}) g; ")
    };
    server().sql(&format!("BEGIN; {} SAVEPOINT s; {} ROLLBACK TO s; {} COMMIT", rows(1), rows(501), rows(1001)));

    let mut by_xid: BTreeMap<u32, usize> = BTreeMap::new();
    let (mut top, mut starts) = (0, 0);
    // Taken down to `on` before PostgreSQL 16, whose aborts then say neither where nor when.
    let mut stream = subscription.stream(Streaming::Parallel);
    let parallel = stream.streaming() == Streaming::Parallel;
    assert_eq!(parallel, stream.server_version() >= 160_000);
    read(&mut stream, |message| {
        match message {
            Message::StreamStart(start) => {
                assert_eq!(start.first, starts == 0);
                (top, starts) = (start.xid, starts + 1);
            }
            Message::Insert(insert) => *by_xid.entry(insert.xid.expect("inside a stream")).or_default() += 1,
            Message::StreamAbort(abort) => {
                assert_eq!(abort.xid, top);
                assert_ne!(abort.subxid, top, "only a part was rolled back");
                assert_eq!(abort.at.is_some(), parallel);
                by_xid.remove(&abort.subxid);
            }
            Message::StreamCommit(commit) => {
                assert_eq!(commit.xid, top);
                return true;
            }
            _ => {}
        }
        false
    });
    assert!(starts > 1, "the transaction came in {starts} piece");
    assert_eq!(by_xid.values().sum::<usize>(), 1000);
}

#[test]
fn a_stream_whose_server_process_dies_says_so() {
    let subscription = Subscription::new(&server().socket("shop"), "");
    let mut stream = subscription.stream(Streaming::Off);
    server().sql(&format!("SELECT pg_terminate_backend({}, 20000)", stream.backend_pid()));
    let deadline = Instant::now() + TIMEOUT;
    let error = loop {
        assert!(Instant::now() < deadline, "the stream goes on");
        match stream.next(Duration::from_millis(100)) {
            Ok(_) => {}
            Err(error) => break error,
        }
    };
    assert!(error.is_transient(), "{error:?}");
    assert!(matches!(stream.next(Duration::ZERO), Err(Error::Lost { .. })), "a stream that is over stays over");
}
