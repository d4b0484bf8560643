//! The promises of the connector, on a real broker: the one that `HIGHWATER_TOPICS_BROKERS` names, or
//! one that `scripts/stack` starts for these tests.

use std::path::Path;
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use highwater_kafka::connection::MAX_RECORD_BYTES;
use highwater_kafka::{
    Admin, AlternatingProducer, Connection, Consumer, ConsumerSettings, Difference, Error, Isolation, ProducerError,
    ProducerSettings, Record, Start, TopicSpec, TransactionalProducer, last_record,
};

const TIMEOUT: Duration = Duration::from_secs(20);

fn brokers() -> &'static str {
    static BROKERS: OnceLock<String> = OnceLock::new();
    BROKERS.get_or_init(|| {
        if let Ok(brokers) = std::env::var("HIGHWATER_TOPICS_BROKERS") {
            return brokers;
        }
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..");
        let folder = "build/test-stack";
        let up = Command::new(root.join("scripts/stack"))
            .args(["up", "--dir", folder, "--servers", "kafka"])
            .current_dir(&root)
            .status()
            .expect("scripts/stack runs");
        assert!(up.success(), "scripts/stack up failed");
        let written = std::fs::read_to_string(root.join(folder).join("env")).expect("the stack's env file");
        let line = written.lines().find_map(|line| line.strip_prefix("HIGHWATER_TOPICS_BROKERS="));
        line.expect("HIGHWATER_TOPICS_BROKERS in the stack's env file").trim_matches(['\'', '"']).to_owned()
    })
}

fn connection() -> Connection {
    Connection::new(brokers(), "broker-tests")
}

/// A name that no other test and no earlier run has.
fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).expect("a clock after 1970");
    format!("test.{what}.{}.{}", now.as_millis(), NEXT.fetch_add(1, Ordering::Relaxed))
}

async fn topic(partitions: i32) -> String {
    let spec = TopicSpec { name: fresh("topic"), partitions, replication: 1, settings: Vec::new() };
    let admin = Admin::new(&connection()).expect("an admin client");
    assert_eq!(admin.ensure_topics(std::slice::from_ref(&spec), TIMEOUT).await.expect("a topic"), []);
    spec.name
}

fn producer(id: &str) -> TransactionalProducer {
    let producer = TransactionalProducer::new(&connection(), ProducerSettings::new(id)).expect("a producer");
    producer.init(TIMEOUT).expect("init");
    producer
}

fn committed(producer: &mut TransactionalProducer, topic: &str, values: &[&str]) {
    producer.begin().expect("begin");
    for value in values {
        producer.send(topic, 0, b"key", Some(value.as_bytes()), &[("position", b"P")]).expect("send");
    }
    producer.commit(TIMEOUT).expect("commit");
}

fn aborted(producer: &mut TransactionalProducer, topic: &str, values: &[&str]) {
    producer.begin().expect("begin");
    for value in values {
        producer.send(topic, 0, b"key", Some(value.as_bytes()), &[]).expect("send");
    }
    drain(producer);
    producer.abort(TIMEOUT).expect("abort");
}

fn drain(producer: &TransactionalProducer) {
    let deadline = Instant::now() + TIMEOUT;
    while producer.in_flight() > 0 {
        assert!(Instant::now() < deadline, "records stay undelivered");
        producer.poll();
        std::thread::yield_now();
    }
}

fn reader(isolation: Isolation, topic: &str, offset: i64) -> Consumer {
    reader_of(isolation, topic, 0, offset)
}

fn reader_of(isolation: Isolation, topic: &str, partition: i32, offset: i64) -> Consumer {
    let mut consumer =
        Consumer::new(&connection(), ConsumerSettings::new("broker-tests", isolation)).expect("a consumer");
    consumer.assign(&[Start { topic: topic.to_owned(), partition, offset }]).expect("assign");
    consumer
}

/// Reads to the end of all that is assigned.
async fn read_all(consumer: &mut Consumer) -> Vec<Record> {
    let deadline = Instant::now() + TIMEOUT;
    let mut all = Vec::new();
    while !consumer.all_at_end() {
        assert!(Instant::now() < deadline, "the end is never reached: {:?}", consumer.last_error());
        all.extend(consumer.next_batch(1000, Duration::from_millis(200)).await.expect("a batch"));
    }
    all
}

fn values(records: &[Record]) -> Vec<&str> {
    records.iter().map(|r| std::str::from_utf8(r.value.as_deref().unwrap_or(b"-")).expect("text")).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_is_seen_at_once_uncommitted_and_committed_only_after_its_commit() {
    let topic = topic(1).await;
    let mut producer = producer(&fresh("id"));
    committed(&mut producer, &topic, &["before"]);
    producer.begin().expect("begin");
    producer.send(&topic, 0, b"key", Some(b"open"), &[]).expect("send");
    drain(&producer);

    let mut at_once = reader(Isolation::ReadUncommitted, &topic, 0);
    let mut careful = reader(Isolation::ReadCommitted, &topic, 0);
    assert_eq!(values(&read_all(&mut at_once).await), ["before", "open"]);
    assert_eq!(values(&read_all(&mut careful).await), ["before"]);

    producer.commit(TIMEOUT).expect("commit");
    let more = careful.next_batch(10, TIMEOUT).await.expect("a batch");
    assert_eq!(values(&more), ["open"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_predecessor_adds_nothing() {
    let topic = topic(1).await;
    let id = fresh("id");
    let mut old = producer(&id);
    committed(&mut old, &topic, &["old"]);
    old.begin().expect("begin");
    old.send(&topic, 0, b"key", Some(b"open"), &[]).expect("send");
    drain(&old);

    let mut new = producer(&id);
    // The predecessor wakes up and goes on as if nothing had happened.
    let sent = old.send(&topic, 0, b"key", Some(b"late"), &[]);
    let error = match sent {
        Ok(()) => old.commit(TIMEOUT).expect_err("the fenced one cannot commit"),
        Err(error) => error,
    };
    assert!(matches!(error, ProducerError::Fenced { .. }), "{error}");

    committed(&mut new, &topic, &["new"]);
    let mut careful = reader(Isolation::ReadCommitted, &topic, 0);
    assert_eq!(values(&read_all(&mut careful).await), ["old", "new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_predecessor_between_transactions_is_told_so() {
    let topic = topic(1).await;
    let id = fresh("id");
    let mut old = producer(&id);
    committed(&mut old, &topic, &["old"]);
    let _new = producer(&id);
    old.begin().expect("begin asks no broker");
    old.send(&topic, 0, b"key", Some(b"late"), &[]).expect("send asks no broker");
    let error = old.commit(TIMEOUT).expect_err("the fenced one cannot commit");
    assert!(matches!(error, ProducerError::Fenced { .. }), "{error}");
}

fn alternating(id: &str) -> AlternatingProducer {
    let producer = AlternatingProducer::new(&connection(), &ProducerSettings::new(id)).expect("producers");
    producer.init(TIMEOUT).expect("init");
    producer
}

fn send_turn(producer: &mut AlternatingProducer, topic: &str, value: &str) {
    producer.active().begin().expect("begin");
    producer.active().send(topic, 0, b"key", Some(value.as_bytes()), &[]).expect("send");
}

#[tokio::test(flavor = "multi_thread")]
async fn producers_that_take_turns_keep_the_order_and_send_while_the_turn_before_commits() {
    let topic = topic(2).await;
    let mut producer = alternating(&fresh("id"));
    let turns: Vec<String> = (0..20).map(|turn| turn.to_string()).collect();
    let mut under_way = 0;
    for turn in &turns {
        // Sent before the outcome of the turn before is asked for, and before its last records are known to be there.
        send_turn(&mut producer, &topic, turn);
        under_way += u32::from(!producer.is_delivered());
        drain(producer.active());
        assert!(producer.committed(TIMEOUT).expect("a commit") && producer.is_delivered());
        // What comes behind the drain goes where the next turn sends nothing before it is delivered.
        producer.active().send(&topic, 1, b"key", Some(turn.as_bytes()), &[]).expect("send");
        producer.end(TIMEOUT).expect("end");
    }
    assert!(under_way > 0, "no turn began while the one before was under way");
    assert!(producer.committed(TIMEOUT).expect("a commit"));
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        for partition in 0..2 {
            assert_eq!(values(&read_all(&mut reader_of(isolation, &topic, partition, 0)).await), turns);
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn partitions_that_are_enlisted_ahead_keep_the_order_and_show_nothing_before_its_commit() {
    let topic = topic(1).await;
    let mut producer = alternating(&fresh("id"));
    send_turn(&mut producer, &topic, "a");
    drain(producer.active());
    let next = producer.resting().expect("nothing is being committed");
    next.begin().expect("begin");
    next.send(&topic, 0, b"enlist", None, &[]).expect("send");
    drain(next);
    producer.active().send(&topic, 0, b"key", Some(b"b"), &[]).expect("send");
    drain(producer.active());
    producer.end(TIMEOUT).expect("end");
    assert!(producer.committed(TIMEOUT).expect("a commit"));
    producer.active().send(&topic, 0, b"key", Some(b"c"), &[]).expect("its transaction is open");

    assert_eq!(values(&read_all(&mut reader(Isolation::ReadCommitted, &topic, 0)).await), ["a"]);
    producer.end(TIMEOUT).expect("end");
    assert!(producer.committed(TIMEOUT).expect("a commit"));
    for isolation in [Isolation::ReadUncommitted, Isolation::ReadCommitted] {
        let records = read_all(&mut reader(isolation, &topic, 0)).await;
        let (ahead, events): (Vec<Record>, Vec<Record>) =
            records.into_iter().partition(|record| record.value.is_none());
        assert_eq!((values(&events), ahead.len()), (vec!["a", "b", "c"], 1));
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_fenced_predecessor_that_takes_turns_adds_nothing() {
    let topic = topic(1).await;
    let id = fresh("id");
    let mut old = alternating(&id);
    send_turn(&mut old, &topic, "old");
    old.end(TIMEOUT).expect("end");
    assert!(old.committed(TIMEOUT).expect("a commit"));
    send_turn(&mut old, &topic, "open");
    drain(old.active());

    let mut new = alternating(&id);
    // The predecessor wakes up in the middle of a turn, and goes on as if nothing had happened.
    let ended = old.end(TIMEOUT).and_then(|()| old.committed(TIMEOUT));
    let error = ended.expect_err("the fenced one cannot commit");
    assert!(matches!(error, ProducerError::Fenced { .. }), "{error}");
    old.active().begin().expect("begin asks no broker");
    old.active().send(&topic, 0, b"key", Some(b"late"), &[]).expect("send asks no broker");
    old.active().commit(TIMEOUT).expect_err("the other turn is fenced as well");

    send_turn(&mut new, &topic, "new");
    new.end(TIMEOUT).expect("end");
    assert!(new.committed(TIMEOUT).expect("a commit"));
    assert_eq!(values(&read_all(&mut reader(Isolation::ReadCommitted, &topic, 0)).await), ["old", "new"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_too_large_is_named_and_the_transaction_goes_on() {
    let topic = topic(1).await;
    let mut producer = producer(&fresh("id"));
    producer.begin().expect("begin");
    let large = vec![b'x'; 17 * 1024 * 1024];
    let error = producer.send(&topic, 0, b"key", Some(&large), &[]).expect_err("too large");
    assert!(
        matches!(&error, ProducerError::TooLarge { topic: t, bytes } if *t == topic && *bytes > large.len()),
        "{error}"
    );
    producer.send(&topic, 0, b"key", Some(b"small"), &[]).expect("send");
    producer.commit(TIMEOUT).expect("commit");
    assert_eq!(values(&read_all(&mut reader(Isolation::ReadCommitted, &topic, 0)).await), ["small"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_largest_record_that_is_taken_also_arrives() {
    let spec = TopicSpec {
        name: fresh("large"),
        partitions: 1,
        replication: 1,
        settings: vec![("max.message.bytes".to_owned(), (16 * 1024 * 1024).to_string())],
    };
    let admin = Admin::new(&connection()).expect("an admin client");
    admin.ensure_topics(std::slice::from_ref(&spec), TIMEOUT).await.expect("a topic");
    // Noise, so that compression does not help.
    let mut state = 1_u32;
    let noise = || {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        state.to_le_bytes()[3]
    };
    let mut largest: Vec<u8> = std::iter::repeat_with(noise).take(MAX_RECORD_BYTES).collect();
    let mut producer = producer(&fresh("id"));
    producer.begin().expect("begin");
    while let Err(error) = producer.send(&spec.name, 0, b"key", Some(&largest), &[("position", b"P")]) {
        assert!(matches!(error, ProducerError::TooLarge { .. }), "{error}");
        largest.truncate(largest.len() - 8);
    }
    // Others go into the same batch where they fit.
    for _ in 0..100 {
        producer.send(&spec.name, 0, b"key", Some(&largest[..1_000]), &[]).expect("send");
    }
    producer.commit(TIMEOUT).expect("commit");
    let read = read_all(&mut reader(Isolation::ReadCommitted, &spec.name, 0)).await;
    assert_eq!(read.len(), 101);
    assert!(read[0].value.as_deref() == Some(&largest[..]), "it arrives as it was sent");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_record_that_the_broker_refuses_makes_the_commit_fail() {
    let spec = TopicSpec {
        name: fresh("small"),
        partitions: 1,
        replication: 1,
        settings: vec![("max.message.bytes".to_owned(), "1000".to_owned())],
    };
    let admin = Admin::new(&connection()).expect("an admin client");
    admin.ensure_topics(std::slice::from_ref(&spec), TIMEOUT).await.expect("a topic");
    let id = fresh("id");
    let mut failed = producer(&id);
    failed.begin().expect("begin");
    let noise: Vec<u8> = (0..20_000_u32).map(|i| i.wrapping_mul(2_654_435_761).to_le_bytes()[3]).collect();
    failed.send(&spec.name, 0, b"key", Some(&noise), &[]).expect("the client takes it");
    failed.send(&spec.name, 0, b"key", Some(b"after the gap"), &[]).expect("the client takes it");
    let error = failed.commit(TIMEOUT).expect_err("a gap");
    assert!(matches!(error, ProducerError::Abortable { .. }), "{error}");
    failed.abort(TIMEOUT).expect("abort");
    committed(&mut producer(&id), &spec.name, &["again"]);
    assert_eq!(values(&read_all(&mut reader(Isolation::ReadCommitted, &spec.name, 0)).await), ["again"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_last_record_is_found_behind_an_aborted_tail() {
    let topic = topic(1).await;
    let last = |isolation| last_record_of(&topic, isolation);
    assert_eq!(last(Isolation::ReadCommitted).await, None);

    let mut producer = producer(&fresh("id"));
    committed(&mut producer, &topic, &["one", "two"]);
    for _ in 0..3 {
        aborted(&mut producer, &topic, &["x"; 100]);
    }
    assert_eq!(last(Isolation::ReadCommitted).await.as_deref(), Some("two"));
    assert_eq!(last(Isolation::ReadUncommitted).await.as_deref(), Some("x"));
}

async fn last_record_of(topic: &str, isolation: Isolation) -> Option<String> {
    let record = last_record(&connection(), topic, 0, isolation, TIMEOUT).await.expect("an answer")?;
    Some(String::from_utf8(record.value.expect("a value").to_vec()).expect("text"))
}

#[tokio::test(flavor = "multi_thread")]
async fn offsets_have_gaps_and_a_seek_is_exact() {
    let topic = topic(1).await;
    let mut producer = producer(&fresh("id"));
    for i in 0..50 {
        committed(&mut producer, &topic, &[&format!("{i}")]);
    }
    let mut consumer = reader(Isolation::ReadCommitted, &topic, 0);
    let all = read_all(&mut consumer).await;
    assert_eq!(all.len(), 50);
    // Each commit left a marker between its records and the next.
    assert_eq!(all[49].offset, 98);
    assert_eq!(all[7].header("position"), Some(&b"P"[..]));

    for back in [all[10].offset, all[10].offset - 1, 0, all[49].offset] {
        consumer.seek(&topic, 0, back).expect("seek");
        let again = read_all(&mut consumer).await;
        let expected: Vec<&Record> = all.iter().filter(|r| r.offset >= back).collect();
        assert_eq!(again.iter().collect::<Vec<_>>(), expected, "after a seek to {back}");
    }
    let ends = consumer.watermarks(&topic, 0, TIMEOUT).await.expect("watermarks");
    assert_eq!((ends.low, ends.high), (0, 100));
}

#[tokio::test(flavor = "multi_thread")]
async fn an_offset_that_is_gone_is_an_error_and_other_partitions_go_on() {
    let topic = topic(2).await;
    let mut producer = producer(&fresh("id"));
    committed(&mut producer, &topic, &["zero"]);
    let settings = ConsumerSettings::new("broker-tests", Isolation::ReadUncommitted);
    let mut consumer = Consumer::new(&connection(), settings).expect("a consumer");
    let start = |partition, offset| Start { topic: topic.clone(), partition, offset };
    consumer.assign(&[start(0, 0), start(1, 500)]).expect("assign");
    let (mut read, mut refused) = (Vec::new(), None);
    let deadline = Instant::now() + TIMEOUT;
    while read.is_empty() || refused.is_none() {
        assert!(Instant::now() < deadline, "read {read:?}, refused {refused:?}");
        match consumer.next_batch(10, Duration::from_millis(200)).await {
            Ok(batch) => read.extend(batch),
            Err(error) => refused = Some(error),
        }
    }
    assert_eq!(values(&read), ["zero"]);
    match refused {
        Some(Error::OffsetOutOfRange { topic: t, partition: 1, offset: 500 }) if t == topic => {}
        other => panic!("{other:?}"),
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn an_existing_topic_is_compared_and_left_as_it_is() {
    let made = TopicSpec {
        name: fresh("compared"),
        partitions: 3,
        replication: 1,
        settings: vec![("cleanup.policy".to_owned(), "compact".to_owned())],
    };
    let admin = Admin::new(&connection()).expect("an admin client");
    assert_eq!(admin.ensure_topics(std::slice::from_ref(&made), TIMEOUT).await.expect("made"), []);
    let mut wanted = made.clone();
    wanted.partitions = 4;
    wanted.settings = vec![("cleanup.policy".to_owned(), "delete".to_owned())];
    let found = admin.ensure_topics(&[wanted], TIMEOUT).await.expect("compared");
    assert!(matches!(&found[0], Difference::Partitions { wanted: 4, found: 3, .. }), "{found:?}");
    assert!(matches!(&found[1], Difference::Setting { found, .. } if found == "compact"), "{found:?}");
    assert_eq!(admin.differences(&[made], TIMEOUT).await.expect("compared"), []);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_not_there_is_named_with_its_address() {
    // Port 1 of this machine: nothing listens there.
    let nowhere = Connection::new("127.0.0.1:1", "broker-tests");
    let admin = Admin::new(&nowhere).expect("an admin client");
    let error = admin.cluster(Duration::from_millis(500)).await.expect_err("nobody there");
    assert!(matches!(error, Error::Unreachable { .. }) && error.is_transient());
    assert!(error.to_string().contains("127.0.0.1:1"), "{error}");

    let producer = TransactionalProducer::new(&nowhere, ProducerSettings::new("nobody")).expect("a producer");
    let error = producer.init(Duration::from_millis(500)).expect_err("nobody there");
    assert!(matches!(error, ProducerError::Transient { .. }) && error.to_string().contains("127.0.0.1:1"), "{error}");
}
