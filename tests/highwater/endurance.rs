//! What capture has to live through: servers that hang instead of dying, processes that wake up after another took over, log
//! that is nobody's, and rows that no record can carry.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;
use highwater_demo::write::{self, Writers};

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually, size};
use crate::snapshot::{NEWEST, is_right};
use crate::stack::SHOPS;

/// Topics and history; no worker runs.
async fn topics_are_right(shop: &Shop, log: &str) {
    let options =
        check::Options { patience: Duration::from_mins(2), audit: false, cache: false, ..check::Options::default() };
    let report = check::everything(&shop.endpoints, &options).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{log}");
}

/// Writes so many MiB of log that no publication has, into a table of this name.
async fn write_unrelated(client: &tokio_postgres::Client, table: &str, mebibytes: u32) {
    let make = format!(
        "CREATE TABLE {table} (filling text); ALTER TABLE {table} ALTER filling SET STORAGE EXTERNAL;
         INSERT INTO {table} SELECT repeat(md5(n::text), 4096) FROM generate_series(1, {}) n",
        mebibytes * 8
    );
    client.batch_execute(&make).await.expect("unrelated log");
}

fn slot(shop: &Shop) -> &str {
    &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"]
}

/// Bytes of log that the server keeps for the slot, by a column of `pg_replication_slots`.
async fn kept_for(shop: &Shop, column: &str) -> u64 {
    let sql = format!(
        "SELECT pg_wal_lsn_diff(pg_current_wal_lsn(), {column})::bigint FROM pg_replication_slots WHERE slot_name = '{}'",
        slot(shop)
    );
    shop.value(&sql).await.parse().unwrap_or(u64::MAX)
}

#[tokio::test(flavor = "multi_thread")]
async fn while_kafka_hangs_unrelated_log_takes_no_memory_and_nothing_is_lost() {
    let shop = Shop::open("paused", 50).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    topics_are_right(&shop, &pipeline.log()).await;
    SHOPS.signal("kafka", "STOP");
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 1").await.expect("an update");
    write_unrelated(&shop.admin, "unrelated", 500).await;
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 2").await.expect("an update");
    SHOPS.signal("kafka", "CONT");
    eventually("the slot is behind all of it", async || kept_for(&shop, "confirmed_flush_lsn").await < 1 << 20).await;
    topics_are_right(&shop, &pipeline.log()).await;
    let peak = pipeline.peak_memory_kib();
    assert!(peak < 64 * 1024, "{peak} KiB at most");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.admin.batch_execute("DROP TABLE unrelated").await.expect("it goes");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn idle_tables_beside_a_busy_database_keep_no_log() {
    let shop = Shop::open("idle", 20).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    topics_are_right(&shop, &pipeline.log()).await;
    let (address, name) = shop.endpoints.admin_database.rsplit_once('/').expect("an address with a database");
    let busy = format!("{name}_busy");
    shop.admin.batch_execute(&format!("CREATE DATABASE {busy}")).await.expect("a database");
    let other = Endpoints::connect(&format!("{address}/{busy}")).await.expect("it answers");
    write_unrelated(&other, "unrelated", size("HIGHWATER_UNRELATED_MIB", 300)).await;
    eventually("what is acknowledged follows", async || kept_for(&shop, "confirmed_flush_lsn").await < 1 << 20).await;
    eventually("what is kept follows", async || kept_for(&shop, "restart_lsn").await < 32 << 20).await;
    drop(other);
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.admin.batch_execute(&format!("DROP DATABASE {busy} WITH (FORCE)")).await.expect("it goes");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_broker_that_is_killed_every_five_seconds_loses_and_doubles_nothing() {
    let shop = Shop::open("broker", 200).await;
    let mut pipeline = shop.pipeline(&["capture", "cache", "audit"]).await;
    let options = write::Options { rate: 200, connections: 4, seed: 9 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    let mut next = tokio::time::interval(Duration::from_secs(5));
    for _ in 0..size("HIGHWATER_BROKER_KILLS", 3) {
        next.tick().await;
        SHOPS.kill("kafka");
        SHOPS.start("kafka");
    }
    writers.stop().await.expect("the writers stop");
    let report = check::everything(&shop.endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.last_lines());
    assert!(pipeline.terminate().success(), "{}", pipeline.last_lines());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_delivery_that_runs_out_of_time_is_sent_again_without_a_gap() {
    let shop = Shop::open("timeout", 200).await;
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ANSWER_TIMEOUT_S".to_owned(), "3".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    let options = write::Options { rate: 200, connections: 4, seed: 6 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    tokio::time::sleep(Duration::from_secs(2)).await;
    SHOPS.signal("kafka", "STOP");
    let failed = async || pipeline.metric("highwater_capture_sessions_ended_total", "kafka").await > 0.0;
    eventually("the session ends because nothing was delivered in time", failed).await;
    SHOPS.signal("kafka", "CONT");
    pipeline.is_ready().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    writers.stop().await.expect("the writers stop");
    topics_are_right(&shop, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_capture_that_was_stopped_and_wakes_up_after_another_took_over_publishes_nothing() {
    let shop = Shop::open("zombie", 200).await;
    let sleeper = Pipeline::start_with(&shop, &["capture"], &shop.variables_beside());
    let options = write::Options { rate: 200, connections: 4, seed: 7 };
    let mut sleeper = sleeper;
    sleeper.is_ready().await;
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    let mut second = Pipeline::start(&shop, &["capture"]);
    eventually("the second one stands by", async || second.log().contains("another capture is at work")).await;
    tokio::time::sleep(Duration::from_secs(1)).await;
    sleeper.signal("STOP");
    second.is_ready().await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    sleeper.signal("CONT");
    let woke = async || sleeper.metric("highwater_capture_sessions_ended_total", "").await > 0.0;
    eventually("the first one notices", woke).await;
    tokio::time::sleep(Duration::from_secs(2)).await;
    writers.stop().await.expect("the writers stop");
    topics_are_right(&shop, &second.log()).await;
    assert!(sleeper.terminate().success(), "{}", sleeper.log());
    assert!(second.terminate().success(), "{}", second.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slot_whose_log_the_server_removed_is_named_and_every_table_is_read_again_if_wanted() {
    let shop = Shop::open("removed", 100).await;
    let mut variables = shop.endpoints.variables.clone();
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.admin.batch_execute("ALTER SYSTEM SET max_slot_wal_keep_size = '16MB'").await.expect("a setting");
    shop.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    shop.admin.batch_execute("DELETE FROM part_prices WHERE part_id % 3 = 0").await.expect("changes that are lost");
    write_unrelated(&shop.admin, "unrelated", 200).await;
    let status = format!("SELECT wal_status FROM pg_replication_slots WHERE slot_name = '{}'", slot(&shop));
    eventually("the server removes what the slot needs", async || {
        shop.admin.batch_execute("CHECKPOINT").await.expect("a checkpoint");
        shop.value(&status).await == "lost"
    })
    .await;
    // First of all the setting goes: the other tests share the server.
    shop.admin.batch_execute("ALTER SYSTEM RESET max_slot_wal_keep_size").await.expect("a setting");
    shop.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    assert_eq!(pipeline.ended().code(), Some(1));
    assert!(pipeline.log().contains("is lost: the server removed WAL that it still needed"), "{}", pipeline.log());
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.admin.batch_execute("DROP TABLE unrelated").await.expect("it goes");
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_row_too_large_for_a_record_is_published_without_its_longest_values_and_named_in_the_dead_letters() {
    let shop = Shop::open("oversize", 20).await;
    let wide = "ALTER TABLE part_specifications ALTER spec_value TYPE text;
        ALTER TABLE part_specifications ALTER spec_value SET STORAGE EXTERNAL";
    shop.admin.batch_execute(wide).await.expect("a wide column");
    let mut pipeline = shop.pipeline(&[]).await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    let cached = async |key: &str| -> String {
        let value: Option<String> =
            redis::cmd("HGET").arg(key).arg("v").query_async(&mut shop.cache().await).await.expect("Redis answers");
        value.unwrap_or_default()
    };
    let large = "INSERT INTO part_specifications (part_id, spec_name, spec_value)
          SELECT 3, 'drawing', string_agg(md5(n::text), '') FROM generate_series(1, 600000) n;
        UPDATE parts SET description = repeat('x', 17000000) WHERE id = 1;
        UPDATE stock_levels SET current_stock = 4712 WHERE part_id = 3";
    assert!(!cached("part:1").await.is_empty(), "it is cached before");
    shop.admin.batch_execute(large).await.expect("rows of 17 and 19 MB");
    eventually("later changes go on", async || cached("part:3:stock").await.contains("\"current_stock\":4712,")).await;
    eventually("no cache holds the older value", async || cached("part:1").await.is_empty()).await;
    let specification = shop.value("SELECT id FROM part_specifications WHERE spec_name = 'drawing'").await;
    for row in [format!("part_specifications/{specification}"), "parts/1".to_owned()] {
        for letter in [format!("  row {row}  "), format!("  history of row {row}  ")] {
            eventually(&letter, async || letters_of_capture(&shop).contains(&letter)).await;
        }
    }

    // What is too large has not vanished.
    let again = highwater(&shop.endpoints.variables).args(["snapshot", "parts"]).status().expect("it runs");
    assert!(again.success(), "{}", pipeline.log());
    let delete = "DELETE FROM part_specifications WHERE spec_name = 'drawing'";
    shop.admin.batch_execute(delete).await.expect("a large row is deleted");
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("all copies go on");
    assert!(pipeline.metric("highwater_capture_snapshot_vanished_total", "parts").await < 1.0, "{}", pipeline.log());
    shop.admin.batch_execute("UPDATE parts SET description = 'short' WHERE id = 1").await.expect("a short row");
    // The checker wants to see each whole row in the history.
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    let changes =
        shop.value("SELECT count(*) FROM data_change_logs WHERE table_name IN ('parts', 'part_specifications')").await;
    assert_eq!(changes, "4", "the audit log has each change");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

fn letters_of_capture(shop: &Shop) -> String {
    let list = ["dead-letters", "list", "--worker", "capture"];
    let letters = highwater(&shop.endpoints.variables).args(list).output().expect("it runs");
    String::from_utf8_lossy(&letters.stdout).into_owned()
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_changes_its_shape_in_the_log_is_decoded_as_of_each_place_also_after_a_kill() {
    let shop = Shop::open("shapes", 100).await;
    let mut pipeline = shop.pipeline(&["capture"]).await;
    topics_are_right(&shop, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    // Nobody reads meanwhile: when these are decoded, the table looks as it does at the end.
    let shapes = [
        "UPDATE part_specifications SET spec_value = 'before'",
        "BEGIN; UPDATE part_specifications SET spec_value = 'in'; ALTER TABLE part_specifications ADD COLUMN note text DEFAULT 'n';
         UPDATE part_specifications SET note = 'm' WHERE part_id % 2 = 0; ALTER TABLE part_specifications ADD COLUMN more integer;
         UPDATE part_specifications SET more = part_id; COMMIT",
        "UPDATE part_specifications SET spec_value = 'between', note = NULL",
        "BEGIN; ALTER TABLE part_specifications DROP COLUMN more; DELETE FROM part_specifications WHERE part_id % 10 = 0;
         ALTER TABLE part_specifications DROP COLUMN note; COMMIT",
        "UPDATE part_specifications SET spec_value = 'after'",
    ];
    for statement in shapes {
        shop.admin.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    let mut pipeline = shop.pipeline(&["capture"]).await;
    eventually("some of it is sent", async || pipeline.metric("highwater_capture_events_total", "").await > 100.0)
        .await;
    pipeline.kill();
    pipeline = shop.pipeline(&["capture"]).await;
    eventually("it is named, with the command that brings the copies up to date", async || {
        let log = pipeline.log();
        log.contains("has other columns than before") && log.contains("highwater snapshot part_specifications")
    })
    .await;
    // The checker builds each old row on the new one before it, and cannot know what ALTER TABLE made of that.
    let newest = check::Options { story: check::Story::Gap, audit: false, cache: false, ..check::Options::default() };
    let report = check::everything(&shop.endpoints, &newest).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
