//! Measures what transactions cost on a broker: the commit, and what the next transaction's first
//! records wait for. `cargo run --release -p highwater-kafka --example transaction_cost -- 127.0.0.1:9092`

use std::thread::sleep;
use std::time::{Duration, Instant};

use highwater_kafka::{Admin, Connection, ProducerSettings, TopicSpec, TransactionalProducer};

const TOPIC: &str = "transaction-cost";
const TIMEOUT: Duration = Duration::from_secs(20);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let mut arguments = std::env::args().skip(1);
    let brokers = arguments.next().unwrap_or_else(|| "127.0.0.1:9092".to_owned());
    let partitions: i32 = arguments.next().map_or(Ok(24), |n| n.parse())?;
    let transactions: usize = arguments.next().map_or(Ok(10), |n| n.parse())?;
    let length = Duration::from_millis(arguments.next().map_or(Ok(1000), |n| n.parse())?);
    let connection = Connection::new(&brokers, "transaction-cost");
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let topic = TopicSpec { name: TOPIC.to_owned(), partitions, replication: 1, settings: Vec::new() };
    runtime.block_on(async { Admin::new(&connection)?.ensure_topics(&[topic], TIMEOUT).await })?;

    let mut producer = TransactionalProducer::new(&connection, ProducerSettings::new(TOPIC))?;
    producer.init(TIMEOUT)?;
    println!("{partitions} partitions, transactions of {length:?}; in ms");
    println!("{:>10} {:>22} {:>22}", "commit", "first record acked", "last of the first round");
    for _ in 0..transactions {
        let began = Instant::now();
        producer.begin()?;
        let all = usize::try_from(partitions)?;
        for partition in 0..partitions {
            producer.send(TOPIC, partition, b"key", Some(&[b'x'; 300]), &[])?;
        }
        let first = wait(&producer, all - 1, began);
        let last = wait(&producer, 0, began);
        let mut other = Vec::new();
        while began.elapsed() < length {
            let sent = Instant::now();
            producer.send(TOPIC, 0, b"key", Some(&[b'x'; 300]), &[])?;
            other.push(wait(&producer, 0, sent));
            sleep(Duration::from_millis(5).min(length / 10));
        }
        let end = Instant::now();
        producer.commit(TIMEOUT)?;
        other.sort_by(f64::total_cmp);
        let p = |q: usize| other.get(other.len() * q / 100).copied().unwrap_or_default();
        println!("{:>10.1} {first:>22.1} {last:>22.1}   one by one p50 {:.1} p99 {:.1}", millis(end), p(50), p(99));
    }
    Ok(())
}

/// Waits until no more than so many records are on their way.
fn wait(producer: &TransactionalProducer, left: usize, since: Instant) -> f64 {
    while producer.in_flight() > left {
        producer.poll();
        std::hint::spin_loop();
    }
    millis(since)
}

fn millis(since: Instant) -> f64 {
    since.elapsed().as_secs_f64() * 1000.0
}
