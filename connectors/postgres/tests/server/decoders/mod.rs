//! Our decoder against two others on a log that nobody wrote by hand: every field that they tell is the same.
//!
//! `HIGHWATER_SEED` repeats a run; `HIGHWATER_SEEDS` names a folder that gets a small message of each shape, for the fuzzer.

mod others;
mod said;
mod workload;

use std::collections::BTreeMap;
use std::path::Path;
use std::time::{Duration, Instant};

use highwater_postgres::pgoutput::{self, Message};
use highwater_postgres::replication::{Frame, Streaming};
use highwater_postgres::{Connection, Error, Session};
use pgwire_replication::{ReplicationClient, ReplicationConfig, ReplicationEvent};

use crate::stack::{TIMEOUT, server};
use crate::stream::Subscription;
use others::{Walstream, as_elefant_tells, elefant};
use said::{Decoded, Said, Value, ours};
use workload::Workload;

/// Steps of the writers in one run.
const STEPS: u32 = 400;

fn seed() -> u64 {
    let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("HIGHWATER_SEED={seed} repeats this log");
    seed
}

/// The ways in which a server of this version can be asked for the same log: protocol version and further options.
fn modes(server_version: u32) -> Vec<(u32, &'static [(&'static str, &'static str)])> {
    let mut modes: Vec<(u32, &[_])> =
        vec![(1, &[]), (2, &[("streaming", "on")]), (2, &[("streaming", "on"), ("binary", "true")])];
    if server_version >= 160_000 {
        modes.push((4, &[("streaming", "parallel")]));
    }
    modes
}

/// Reads the slot's messages one by one and leaves them there.
fn peek(database: &str, subscription: &Subscription, version: u32, options: &[(&str, &str)]) -> Vec<Vec<u8>> {
    let config = server().socket(database).with_parameter("logical_decoding_work_mem", "64kB");
    let mut session = Connection::connect(&config, Session::Ordinary).unwrap();
    let further: Vec<String> = options.iter().map(|(name, value)| format!(", '{name}', '{value}'")).collect();
    let sql = format!(
        "SELECT encode(data, 'hex') FROM pg_logical_slot_peek_binary_changes('{}', NULL, NULL, 'proto_version', \
         '{version}', 'publication_names', '{}', 'messages', 'true'{})",
        subscription.slot,
        subscription.publication,
        further.concat()
    );
    let mut payloads = Vec::new();
    let read = session.for_each_row(&sql, TIMEOUT, |row| {
        payloads.extend(row.values().flatten().map(unhex));
        Ok::<_, Error>(())
    });
    read.unwrap_or_else(|error| panic!("protocol {version} with {options:?}: {error}"));
    payloads
}

fn unhex(text: &[u8]) -> Vec<u8> {
    let digit = |byte: u8| char::from(byte).to_digit(16).and_then(|digit| u8::try_from(digit).ok()).expect("a digit");
    text.chunks_exact(2).map(|pair| digit(pair[0]) << 4 | digit(pair[1])).collect()
}

/// Says what kind of message it is, as finely as the protocol tells them apart.
fn shape(decoded: &Decoded) -> String {
    let columns = |row: &[Value]| {
        let has = |text: &str, found: bool| if found { text.to_owned() } else { String::new() };
        has("-null", row.contains(&Value::Null))
            + &has("-unchanged", row.contains(&Value::Unchanged))
            + &has("-text", row.iter().any(|value| matches!(value, Value::Text(_))))
            + &has("-binary", row.iter().any(|value| matches!(value, Value::Binary(_))))
    };
    let old = |old: &said::Old| format!("-{}", old.kind.expect("ours tells"));
    let what = match &decoded.said {
        Said::Begin { .. } => "begin".to_owned(),
        Said::Commit { .. } => "commit".to_owned(),
        Said::Origin { .. } => "origin".to_owned(),
        Said::Relation { identity, .. } => format!("relation-{}", char::from(*identity)),
        Said::Type { .. } => "type".to_owned(),
        Said::Insert { new, .. } => format!("insert{}", columns(new)),
        Said::Update { old: None, new, .. } => format!("update{}", columns(new)),
        Said::Update { old: Some(before), new, .. } => format!("update{}{}", old(before), columns(new)),
        Said::Delete { old: before, .. } => format!("delete{}{}", old(before), columns(&before.row)),
        Said::Truncate { cascade, restart, relations } => {
            format!("truncate-{}-{cascade}-{restart}", relations.len())
        }
        Said::Logical { transactional, .. } => format!("message-{transactional}"),
        Said::StreamStart { first, .. } => format!("stream-start-{first}"),
        Said::StreamStop => "stream-stop".to_owned(),
        Said::StreamCommit { .. } => "stream-commit".to_owned(),
        Said::StreamAbort { xid, subxid, .. } => format!("stream-abort-{}", if xid == subxid { "all" } else { "part" }),
    };
    if decoded.xid.is_some() { what + "-streamed" } else { what }
}

/// Decodes each message with all three and compares; returns the shortest message of each shape.
fn compare(payloads: &[Vec<u8>], version: u32) -> BTreeMap<String, Vec<u8>> {
    let (mut walstream, mut in_stream) = (Walstream::new(version), false);
    let mut shapes: BTreeMap<String, Vec<u8>> = BTreeMap::new();
    for payload in payloads {
        let message = pgoutput::decode(payload, in_stream).unwrap_or_else(|error| panic!("{error}: {payload:?}"));
        let decoded = ours(message);
        assert_eq!(decoded, walstream.decode(payload), "ours and pg_walstream's, protocol {version}");
        let told = as_elefant_tells(decoded.said.clone());
        assert_eq!(told, elefant(payload, in_stream), "ours and elefant-client's, protocol {version}");
        match message {
            Message::StreamStart(_) => in_stream = true,
            Message::StreamStop => in_stream = false,
            _ => {}
        }
        let shortest = shapes.entry(shape(&decoded)).or_insert_with(|| payload.clone());
        if payload.len() < shortest.len() {
            shortest.clone_from(payload);
        }
    }
    shapes
}

/// What every run must bring, in some mode: otherwise it proves less than it says.
const EXPECTED: [&str; 24] = [
    "begin",
    "commit",
    "origin",
    "relation-d",
    "relation-f",
    "relation-i",
    "relation-n",
    "type",
    "insert",
    "update-",
    "update-K",
    "update-O",
    "delete-K",
    "delete-O",
    "truncate-1",
    "truncate-2",
    "message-true",
    "message-false",
    "stream-start-true",
    "stream-start-false",
    "stream-stop",
    "stream-commit",
    "stream-abort-all",
    "stream-abort-part",
];

#[test]
fn on_random_logs_the_decoder_says_what_two_others_say() {
    let mut workload = Workload::new(seed());
    let subscription = Subscription::new(&server().socket(workload.database()), &workload.publication());
    workload.run(STEPS);
    let mut shapes = BTreeMap::new();
    let server_version = server().session().server_version();
    for (version, options) in modes(server_version) {
        shapes.extend(compare(&peek(workload.database(), &subscription, version, options), version));
    }
    let found = |start: &str| shapes.keys().any(|shape| shape.starts_with(start));
    // PostgreSQL 18 leaves out what was aborted as a whole before it is read.
    let left_out = |shape: &str| shape == "stream-abort-all" && server_version >= 180_000;
    let missing: Vec<_> = EXPECTED.iter().filter(|shape| !found(shape) && !left_out(shape)).collect();
    assert!(missing.is_empty(), "this log has no {missing:?}, only {:?}", shapes.keys());
    for part in ["-null", "-unchanged", "-text", "-binary", "-streamed"] {
        assert!(shapes.keys().any(|shape| shape.contains(part)), "this log has no message with {part}");
    }
    if let Ok(folder) = std::env::var("HIGHWATER_SEEDS") {
        keep(Path::new(&folder), &shapes);
    }
    drop_slot(&subscription);
}

fn drop_slot(subscription: &Subscription) {
    server().replication().drop_slot(&subscription.slot, true, TIMEOUT).unwrap();
}

/// Writes small messages where a fuzzer finds them.
fn keep(folder: &Path, shapes: &BTreeMap<String, Vec<u8>>) {
    std::fs::create_dir_all(folder).unwrap();
    for (shape, payload) in shapes.iter().filter(|(_, payload)| payload.len() <= 512) {
        std::fs::write(folder.join(shape), payload).unwrap();
    }
}

/// What a client of the stream hands over.
#[derive(Debug, PartialEq)]
enum Heard {
    /// A message that pgwire-replication decodes by itself: begin, commit, logical message.
    Said(Said),
    /// Any other, as its frame has it.
    Data { wal_start: u64, payload: Vec<u8> },
}

/// Reads the stream with our own client, up to the message with the prefix `end`.
fn heard_by_ours(subscription: &Subscription) -> Vec<Heard> {
    let (mut stream, mut heard) = (subscription.stream(Streaming::Off), Vec::new());
    let deadline = Instant::now() + TIMEOUT;
    loop {
        assert!(Instant::now() < deadline, "the end of the log does not come");
        let Some(Frame::XLogData { wal_start, payload, .. }) = stream.next(Duration::from_millis(100)).unwrap() else {
            continue;
        };
        let said = ours(pgoutput::decode(payload, false).unwrap()).said;
        heard.push(match said {
            // It drops the flags, which no server sets.
            Said::Commit { lsn, end, time, .. } => Heard::Said(Said::Commit { flags: 0, lsn, end, time }),
            said @ (Said::Begin { .. } | Said::Logical { .. }) => Heard::Said(said),
            _ => Heard::Data { wal_start: wal_start.0, payload: payload.to_vec() },
        });
        if is_end(&heard) {
            stream.close(TIMEOUT).unwrap();
            return heard;
        }
    }
}

/// The same with pgwire-replication's client, which has no decoder of changes but reads frames, begins, commits and logical
/// messages. It speaks version 1 of the protocol, without streamed transactions.
async fn heard_by_pgwire(database: &str, subscription: &Subscription) -> Vec<Heard> {
    let (folder, port) = (server().env("PRIMARY_SOCKET_DIR"), server().port().parse().unwrap());
    let (slot, publication) = (subscription.slot.as_str(), subscription.publication.as_str());
    let config = ReplicationConfig::unix(folder, port, "postgres", "", database, slot, publication);
    let mut client = ReplicationClient::connect(config).await.unwrap();
    let mut heard = Vec::new();
    while !is_end(&heard) {
        let event = tokio::time::timeout(TIMEOUT, client.recv()).await.expect("the end of the log");
        heard.push(match event.unwrap().expect("the stream goes on") {
            ReplicationEvent::Begin { final_lsn, xid, commit_time_micros: time } => {
                Heard::Said(Said::Begin { lsn: final_lsn.0, time, xid })
            }
            ReplicationEvent::Commit { lsn, end_lsn, commit_time_micros: time } => {
                Heard::Said(Said::Commit { flags: 0, lsn: lsn.0, end: end_lsn.0, time })
            }
            ReplicationEvent::Message { transactional, lsn, prefix, content } => {
                let (prefix, content) = (prefix.into_bytes(), content.to_vec());
                Heard::Said(Said::Logical { transactional, lsn: lsn.0, prefix, content })
            }
            ReplicationEvent::XLogData { wal_start, data, .. } => {
                Heard::Data { wal_start: wal_start.0, payload: data.to_vec() }
            }
            ReplicationEvent::KeepAlive { .. } => continue,
            ReplicationEvent::StoppedAt { reached } => panic!("it stopped at {reached}"),
        });
    }
    client.shutdown().await.unwrap();
    heard
}

fn is_end(heard: &[Heard]) -> bool {
    matches!(heard.last(), Some(Heard::Said(Said::Logical { prefix, .. })) if prefix == b"end")
}

#[tokio::test]
async fn on_random_logs_the_stream_brings_what_another_client_reads() {
    let mut workload = Workload::new(seed());
    let subscription = Subscription::new(&server().socket(workload.database()), &workload.publication());
    workload.run(STEPS);
    workload.mark_end();
    let ours = heard_by_ours(&subscription);
    let theirs = heard_by_pgwire(workload.database(), &subscription).await;
    for (at, (ours, theirs)) in ours.iter().zip(&theirs).enumerate() {
        assert_eq!(ours, theirs, "message {at}");
    }
    assert_eq!(ours.len(), theirs.len());
    assert!(ours.iter().any(|heard| matches!(heard, Heard::Data { .. })), "the log holds no change");
    drop_slot(&subscription);
}
