//! What no restart mends is named, with the choices; what a restart mends is mended without anybody's help.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::write::{self, Writers};
use highwater_kafka::{Admin, Connection, Consumer, ConsumerSettings, Isolation};

use crate::ahead::{UPDATE, Waiting, cached_stock};
use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually, within_a_minute};
use crate::snapshot::{NEWEST, is_right};
use crate::stack::SHOPS;

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_that_is_missing_although_the_topics_hold_progress_is_refused_with_the_choices() {
    let shop = Shop::open("missing_slot", 20).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let slot = shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"].clone();
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    eventually("the slot is dropped", async || shop.admin.simple_query(&drop).await.is_ok()).await;
    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    let log = pipeline.log();
    for expected in [&format!("slot `{slot}` is missing"), "holds progress up to", "to begin anew with a snapshot"] {
        assert!(log.contains(expected), "`{expected}` is not in:\n{log}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_made_anew_by_hand_is_a_gap_and_refused_or_every_table_is_read_again_if_wanted() {
    let shop = Shop::open("anew", 20).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let slot = shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"].clone();
    let drop = format!("SELECT pg_drop_replication_slot('{slot}')");
    eventually("the slot is dropped", async || shop.admin.simple_query(&drop).await.is_ok()).await;
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = current_stock + 1").await.expect("a lost update");
    let make = format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput')");
    shop.admin.simple_query(&make).await.expect("a slot made by hand");
    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    assert!(pipeline.log().contains("the slot was made anew, or Kafka lost records"), "{}", pipeline.log());
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    assert!(pipeline.metric("highwater_capture_gaps_total", "lost_slot").await > 0.0);
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_of_another_use_is_refused_and_never_dropped() {
    let shop = Shop::open("foreign_slot", 20).await;
    let slot = shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"].clone();
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    // Its place in the log is kept, as for a standby that is away.
    let made = [
        (format!("SELECT pg_create_physical_replication_slot('{slot}', true)"), "it is physical"),
        (
            format!("SELECT pg_create_logical_replication_slot('{slot}', 'test_decoding')"),
            "test_decoding, not pgoutput",
        ),
    ];
    for (make, why) in made {
        shop.admin.simple_query(&make).await.expect("a slot of another use");
        let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
        assert_eq!(pipeline.ended().code(), Some(1));
        let log = pipeline.log();
        for expected in ["belongs to another use", why, "set [source] slot to a name of its own"] {
            assert!(log.contains(expected), "`{expected}` is not in:\n{log}");
        }
        let standing = format!("SELECT count(*) FROM pg_replication_slots WHERE slot_name = '{slot}'");
        assert_eq!(shop.value(&standing).await, "1", "the slot still stands");
        shop.admin.simple_query(&format!("SELECT pg_drop_replication_slot('{slot}')")).await.expect("dropped");
    }
    shop.close().await;
}

/// Deletes a topic of a shop whose pipeline does not run.
pub(crate) async fn delete_topic(shop: &Shop, suffix: &str) {
    const ANSWER: Duration = Duration::from_secs(30);
    let variables = &shop.endpoints.variables;
    let connection = Connection::new(&variables["HIGHWATER_TOPICS_BROKERS"], "test");
    let topic = format!("{}.{suffix}", variables["HIGHWATER_SOURCE_TOPIC_PREFIX"]);
    Admin::new(&connection).expect("a client").delete_topics(&[&topic], ANSWER).await.expect("the topic is deleted");
    let reader = ConsumerSettings::new("test", Isolation::ReadUncommitted);
    let reader = Consumer::new(&connection, reader).expect("a reader");
    let gone = async || reader.partitions(&topic, ANSWER).await.expect("the broker answers").is_none();
    eventually("the topic is gone", gone).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_topic_that_was_deleted_is_named_and_filled_again_if_wanted() {
    let shop = Shop::open("emptied", 50).await;
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    delete_topic(&shop, "stock").await;
    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    for expected in [".stock`, partition 0, ends at offset 0", "the topic was deleted", "on_lost_slot = \"resnapshot\""]
    {
        assert!(pipeline.log().contains(expected), "`{expected}` is not in:\n{}", pipeline.log());
    }
    // What a cache knows of a topic that is gone it cannot go on from.
    shop.flush_cache().await;
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    assert!(pipeline.metric("highwater_capture_gaps_total", "lost_records").await > 0.0);
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let mut pipeline = shop.pipeline(&["capture"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn events_without_any_progress_are_not_taken_for_a_first_start() {
    let shop = Shop::open("no_progress", 20).await;
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    delete_topic(&shop, "progress").await;
    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    for expected in ["holds events, but topic `", ".progress` holds no progress", "to begin anew with a snapshot"] {
        assert!(pipeline.log().contains(expected), "`{expected}` is not in:\n{}", pipeline.log());
    }
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_loses_a_mapped_column_stops_alone_also_in_the_next_session() {
    let shop = Shop::open("altered", 20).await;
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    let altered = "ALTER TABLE parts DROP COLUMN description; UPDATE parts SET part_name = 'altered' WHERE id = 3";
    shop.admin.batch_execute(altered).await.expect("a mapped column goes");
    let buried = async || pipeline.metric("highwater_dead_letters_total", "capture").await > 0.0;
    assert!(within_a_minute(buried).await, "{}", pipeline.log());
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let end = format!("SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots WHERE slot_name = '{slot}'");
    shop.admin.batch_execute(&end).await.expect("the session ends");
    let goes_on = async || pipeline.log().contains("capture goes on with the other tables");
    assert!(within_a_minute(goes_on).await, "{}", pipeline.log());
    shop.admin
        .batch_execute("UPDATE stock_levels SET current_stock = 31337 WHERE part_id = 3")
        .await
        .expect("an update");
    eventually("the other tables go on", async || cached_stock(&shop).await.contains("31337")).await;

    let mended = "ALTER TABLE parts ADD COLUMN description text; UPDATE parts SET description = 'mended' WHERE id = 3";
    shop.admin.batch_execute(mended).await.expect("the column is back");
    let again = highwater(&shop.endpoints.variables).args(["snapshot", "parts"]).status().expect("it runs");
    assert!(again.success(), "{}", pipeline.log());
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_capture_stands_by_and_takes_over_when_the_first_dies() {
    let shop = Shop::open("takeover", 20).await;
    let first = shop.pipeline(&[]).await;
    let mut second = Pipeline::start_with(&shop, &["capture"], &shop.variables_beside());
    eventually("the second one says that it stands by", async || second.log().contains("another capture is at work"))
        .await;
    first.kill();
    second.is_ready().await;
    let _rest = Pipeline::start(&shop, &["cache", "audit"]);
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 77").await.expect("an update");
    let report = check::everything(&shop.endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}");
    assert!(second.terminate().success());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_commit_that_waits_for_a_missing_standby_is_published_only_when_the_primary_shows_it() {
    let shop = Shop::open("visible", 20).await;
    let mut pipeline = shop.pipeline(&[]).await;
    let shown = "SELECT current_stock FROM stock_levels WHERE part_id = 3";
    let before = shop.value(shown).await;
    eventually("the cache is filled", async || !cached_stock(&shop).await.is_empty()).await;
    let waiting = Waiting::begin(&shop, UPDATE).await;
    let named = within_a_minute(async || pipeline.log().contains("the primary does not show it yet")).await;
    let meanwhile = (shop.value(shown).await, cached_stock(&shop).await);
    // First of all the setting goes: the other tests share the server.
    waiting.end(&shop).await;
    assert!(named, "capture names the commit that it waits for");
    assert_eq!(meanwhile.0, before, "the primary shows the old row");
    assert!(!meanwhile.1.contains("31337"), "nothing is published before it can be read");
    eventually("the cache shows the new row", async || cached_stock(&shop).await.contains("31337")).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_worker_is_not_ready_while_kafka_is_away_and_ready_again_when_it_is_back() {
    let shop = Shop::open("silence", 20).await;
    let mut pipeline = shop.pipeline(&[]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let mut workers = shop.pipeline(&["cache", "audit"]).await;
    SHOPS.kill("kafka");
    eventually("both workers say so", async || workers.log().matches("Kafka does not answer").count() == 2).await;
    SHOPS.start("kafka");
    workers.is_ready().await;
    let warnings = workers.log().matches("the lag that is shown is an old one").count();
    assert_eq!(warnings, 2, "each worker warns once: {}", workers.log());
    assert!(workers.terminate().success(), "{}", workers.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn workers_that_start_while_writes_never_pause_become_ready() {
    let shop = Shop::open("busy", 500).await;
    let mut capture = shop.pipeline(&["capture"]).await;
    let options = write::Options { rate: 200, connections: 4, seed: 6 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    eventually("writes are published", async || capture.metric("highwater_capture_events_total", "").await > 200.0)
        .await;
    let mut workers = Pipeline::start_with(&shop, &["cache", "audit", "storefront"], &shop.variables_beside());
    workers.is_ready().await;
    writers.stop().await.expect("the writers stop");
    assert!(workers.terminate().success(), "{}", workers.last_lines());
    assert!(capture.terminate().success(), "{}", capture.last_lines());
    shop.close().await;
}
