//! Rows of one commit share its LSN; a death between any two of them leaves none out and none twice.

use std::time::{Duration, Instant};

use highwater_demo::check;
use rdkafka::config::ClientConfig;
use rdkafka::consumer::{BaseConsumer, Consumer};
use rdkafka::{Offset, TopicPartitionList};

use super::kills;
use crate::process::Pipeline;
use crate::shop::Shop;
use crate::streaming::history;

const ROWS: usize = 20;
const PARTITIONS: i32 = 4;

/// Reads what is written from now on, committed or not.
fn at_the_end(shop: &Shop, topic: &str) -> BaseConsumer {
    let consumer: BaseConsumer = ClientConfig::new()
        .set("bootstrap.servers", &shop.endpoints.brokers)
        .set("group.id", crate::stack::fresh("rows"))
        .set("isolation.level", "read_uncommitted")
        .create()
        .expect("a consumer");
    let mut ends = TopicPartitionList::new();
    for partition in 0..PARTITIONS {
        let (_, end) = consumer.fetch_watermarks(topic, partition, Duration::from_secs(10)).expect("the topic's end");
        ends.add_partition_offset(topic, partition, Offset::Offset(end)).expect("an offset");
    }
    consumer.assign(&ends).expect("an assignment");
    consumer
}

/// Waits for so many events; marks are none.
fn await_events(consumer: &BaseConsumer, wanted: usize) {
    let deadline = Instant::now() + Duration::from_mins(1);
    let mut seen = 0;
    while seen < wanted {
        assert!(Instant::now() < deadline, "{seen} of {wanted} events within a minute");
        let Some(Ok(record)) = consumer.poll(Duration::from_millis(100)) else { continue };
        seen += usize::from(record.payload_len() > 10_000);
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_kill_behind_each_row_of_one_commit_leaves_none_out_and_none_twice() {
    let shop = Shop::open("rows", 50).await;
    // So large, and so random, that each is a request of its own to the broker.
    let wide = "ALTER TABLE part_specifications ALTER spec_value TYPE text;
        DELETE FROM part_specifications;
        INSERT INTO part_specifications (part_id, spec_name, spec_value) SELECT n, 'row', '' FROM generate_series(1, 20) n";
    shop.admin.batch_execute(wide).await.expect("twenty rows");
    let mut pipeline = shop.pipeline(&["capture"]).await;
    let topic = shop.endpoints.topic("content");
    let mut cut = 0;
    // Every one of them where many kills are asked for.
    let step = if kills() > 30 { 1 } else { 4 };
    let behind: Vec<usize> = (1..=ROWS).step_by(step).collect();
    for row in &behind {
        let consumer = at_the_end(&shop, &topic);
        let update = "BEGIN; SELECT pg_current_xact_id();
            UPDATE part_specifications SET spec_value =
              (SELECT string_agg(md5(random()::text || n || part_id), '') FROM generate_series(1, 10000) n); COMMIT";
        let xid = shop.value(update).await;
        let row = *row;
        tokio::task::spawn_blocking(move || await_events(&consumer, row)).await.expect("the reader ends");
        pipeline.kill();
        let committed = history::of(&shop, &xid).await.len();
        assert!(committed == 0 || committed == ROWS, "{committed} rows of one commit stand in the history");
        cut += usize::from(committed == 0);
        pipeline = Pipeline::start(&shop, &["capture"]);
        pipeline.is_ready().await;
    }
    println!("{cut} of {} kills came before the Kafka transaction was committed", behind.len());
    assert!(cut * 2 > behind.len(), "only {cut} kills came before the Kafka transaction was committed");
    let options = check::Options { audit: false, cache: false, ..check::Options::default() };
    let report = check::everything(&shop.endpoints, &options).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
