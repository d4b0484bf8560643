//! One commit reaches every copy, and a replay rebuilds the cache beside live traffic.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::write::{self, Writers};
use highwater_kafka::{Connection, Consumer, ConsumerSettings, Isolation};

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually};

async fn everything_equals_the_database(shop: &Shop) {
    let report = check::everything(&shop.endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}");
}

#[tokio::test(flavor = "multi_thread")]
async fn one_update_reaches_kafka_redis_and_the_audit_log_with_who_did_it() {
    let shop = Shop::open("walk", 50).await;
    let mut pipeline = shop.pipeline(&[]).await;
    let update = "BEGIN;
        SELECT pg_logical_emit_message(true, 'highwater.context', '{\"user_id\": 7, \"reason\": \"stocktaking\"}');
        UPDATE stock_levels SET current_stock = 4711, version = version + 1 WHERE part_id = 5; COMMIT";
    shop.admin.batch_execute(update).await.expect("the update commits");
    eventually("Redis shows the new stock", async || {
        let value: Option<String> =
            redis::cmd("HGET").arg("part:5:stock").arg("v").query_async(&mut shop.cache().await).await.expect("Redis");
        value.is_some_and(|value| value.contains("\"current_stock\":4711,"))
    })
    .await;
    let audited = "SELECT changed_by || ' ' || reason || ' ' || (new_values ->> 'current_stock') FROM data_change_logs
                   WHERE table_name = 'stock_levels' AND operation = 'UPDATE'";
    eventually("the audit log has its row", async || shop.value(audited).await == "7 stocktaking 4711").await;
    everything_equals_the_database(&shop).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn rolled_back_work_and_odd_transactions_reach_no_copy_or_every_copy() {
    let shop = Shop::open("odd", 50).await;
    let mut pipeline = shop.pipeline(&[]).await;
    let odd = [
        "BEGIN; UPDATE stock_levels SET current_stock = 1 WHERE part_id = 1; ROLLBACK",
        "BEGIN; UPDATE stock_levels SET current_stock = 2 WHERE part_id = 2; SAVEPOINT s;
         UPDATE stock_levels SET current_stock = 3 WHERE part_id = 3; ROLLBACK TO s;
         UPDATE stock_levels SET current_stock = 4 WHERE part_id = 4; COMMIT",
        "DO $$ BEGIN UPDATE stock_levels SET current_stock = 6 WHERE part_id = 6;
           BEGIN UPDATE stock_levels SET current_stock = 5 WHERE part_id = 5; RAISE EXCEPTION 'no';
           EXCEPTION WHEN OTHERS THEN NULL; END; END $$",
        // A key change, a row that moves to another part, a delete with its cascade, and a row that comes back.
        "UPDATE part_images SET id = id + 100000 WHERE part_id = 7",
        "UPDATE part_images SET part_id = 9, is_primary = false WHERE part_id = 8",
        "DELETE FROM parts WHERE id = 10",
        "INSERT INTO parts (id, category_id, sku, part_name) SELECT 10, min(id), 'BACK-10', 'Ärger \"quoted\" \\ 🚲' FROM categories",
        "INSERT INTO stock_levels (part_id, current_stock) VALUES (10, 1)",
        "INSERT INTO part_prices (part_id, price_type, price) SELECT 11, 'sale', n FROM generate_series(1, 500) n",
        "TRUNCATE part_specifications",
        "INSERT INTO part_specifications (part_id, spec_name, spec_value) VALUES (1, 'after', 'the truncation')",
    ];
    for statement in odd {
        shop.admin.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    everything_equals_the_database(&shop).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_replay_into_an_emptied_redis_beside_live_writes_ends_by_itself_and_restores_every_key() {
    let shop = Shop::open("replay", 10_000).await;
    let mut pipeline = shop.pipeline(&[]).await;
    eventually("the cache is filled", async || {
        let keys: u64 = redis::cmd("DBSIZE").query_async(&mut shop.cache().await).await.expect("Redis");
        keys > 20_000
    })
    .await;
    let options = write::Options { rate: 200, connections: 4, seed: 3 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    shop.flush_cache().await;
    let replay = highwater(&shop.endpoints.variables).args(["replay", "--into", "cache"]).output();
    let replay = replay.expect("the replay runs");
    let said = String::from_utf8_lossy(&[replay.stdout, replay.stderr].concat()).into_owned();
    assert!(replay.status.success(), "{said}");
    assert!(said.contains("events/s"), "it says its rate: {said}");
    tokio::time::sleep(Duration::from_secs(1)).await;
    writers.stop().await.expect("the writers stop");
    everything_equals_the_database(&shop).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

/// The ends of a topic's four partitions, as one kind of reader sees them.
async fn ends(shop: &Shop, isolation: Isolation, topic: &str) -> Vec<i64> {
    let connection = Connection::new(&shop.endpoints.brokers, "test-ends");
    let consumer = Consumer::new(&connection, ConsumerSettings::new("test-ends", isolation)).expect("a consumer");
    let mut ends = Vec::new();
    for partition in 0..4 {
        let marks = consumer.watermarks(topic, partition, Duration::from_secs(20)).await.expect("the broker answers");
        ends.push(marks.high);
    }
    ends
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_was_stopped_leaves_no_kafka_transaction_open_for_which_readers_would_wait() {
    let shop = Shop::open("drained", 50).await;
    let mut variables = shop.endpoints.variables.clone();
    // So short that at any moment the next one is open as well.
    variables.insert("HIGHWATER_CAPTURE_TRANSACTION_MS".to_owned(), "10".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    let writers = Writers::start(&shop.endpoints, write::Options { rate: 200, connections: 2, seed: 5 }, None).await;
    let writers = writers.expect("writers");
    eventually("turns were taken", async || pipeline.metric("highwater_capture_commit_seconds_count", "").await > 20.0)
        .await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    writers.stop().await.expect("the writers stop");
    for name in ["stock", "prices", "content"] {
        let topic = shop.endpoints.topic(name);
        // The broker writes a transaction's end into each partition a moment after it has answered.
        let all_is_committed = async || {
            let committed = ends(&shop, Isolation::ReadCommitted, &topic).await;
            let all = ends(&shop, Isolation::ReadUncommitted, &topic).await;
            assert!(all.iter().sum::<i64>() > 50, "{topic} ends at {all:?}");
            committed == all
        };
        eventually("readers of committed records see the topic's end", all_is_committed).await;
    }
    shop.close().await;
}
