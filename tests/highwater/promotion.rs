//! A standby takes the primary's place: capture goes on where it has the slot, and otherwise what the topics have of the lost
//! primary alone is named, and does not stay.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;
use highwater_demo::write::{self, Writers};

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually};
use crate::stack::{FAILED_OVER, PROMOTED, Stack, Variables, followed, on_the_standby};

/// Starts the standby again, and makes it the primary.
async fn promote(servers: &Stack, of_the_primary: &Variables) -> (Variables, Endpoints, tokio_postgres::Client) {
    servers.start("replica1");
    let variables = on_the_standby(of_the_primary);
    let endpoints = Endpoints::from_variables(variables.clone()).expect("all addresses");
    let promoted = Endpoints::connect(&endpoints.admin_database).await.expect("the standby answers");
    promoted.batch_execute("SELECT pg_promote()").await.expect("a promotion");
    (variables, endpoints, promoted)
}

#[tokio::test(flavor = "multi_thread")]
async fn what_only_a_lost_primary_had_is_named_after_a_promotion_and_no_copy_keeps_it() {
    // A promotion cannot be taken back: what an earlier run left is of no use.
    PROMOTED.wipe();
    let servers = ["primary", "replica1", "redis", "kafka"];
    let shop = Shop::open_on(&PROMOTED, &servers, "promotion", 300).await;
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_ON_LOST_SLOT".to_owned(), "resnapshot".to_owned());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    let behind = "SELECT count(*) FROM pg_stat_replication WHERE application_name = 'replica1'
                  AND replay_lsn >= pg_current_wal_flush_lsn()";
    eventually("the standby has everything so far", async || shop.value(behind).await == "1").await;

    PROMOTED.kill("replica1");
    let lost = "UPDATE stock_levels SET current_stock = 666666 WHERE part_id = 7; DELETE FROM part_prices WHERE part_id = 8;
        INSERT INTO part_prices (part_id, price_type, price) VALUES (9, 'sale', 666666); DELETE FROM parts WHERE id = 10";
    shop.admin.batch_execute(lost).await.expect("changes that the standby never gets");
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the topics have them");
    PROMOTED.kill("primary");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    let (variables, endpoints, promoted) = promote(&PROMOTED, &variables).await;
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    promoted.batch_execute("UPDATE stock_levels SET current_stock = 5 WHERE part_id = 11").await.expect("life goes on");
    let newest = check::Options { story: check::Story::Gap, audit: false, ..check::Options::default() };
    let report = check::everything(&endpoints, &newest).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
    let letters =
        highwater(&variables).args(["dead-letters", "list", "--worker", "capture"]).output().expect("it runs");
    let letters = String::from_utf8_lossy(&letters.stdout).into_owned();
    assert!(letters.contains("changes from 00000002-") && letters.contains(" are missing: slot"), "{letters}");
    assert!(letters.contains("were published and then lost by a promotion"), "{letters}");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    PROMOTED.wipe();
}

#[tokio::test(flavor = "multi_thread")]
async fn where_the_standby_has_the_slot_capture_goes_on_after_a_promotion_and_nothing_is_lost_or_doubled() {
    let admin = FAILED_OVER.with_standby("replica1").await;
    let servers = ["primary", "replica1", "redis", "kafka"];
    let shop = Shop::open_on(&FAILED_OVER, &servers, "failover", 300).await;
    // What a standby needs so that it keeps the slot, and the primary, so that no capture is ahead of the standby.
    admin.batch_execute("ALTER SYSTEM SET synchronized_standby_slots = 'replica1'").await.expect("a setting");
    admin.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
    let standby = Endpoints::from_variables(on_the_standby(&shop.endpoints.variables)).expect("all addresses");
    let standby = followed(&standby).await;
    standby.batch_execute("ALTER SYSTEM SET sync_replication_slots = on").await.expect("a setting");
    standby.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");

    let mut pipeline = shop.pipeline(&["capture", "cache", "audit"]).await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the first snapshot");
    let options = write::Options { rate: 100, connections: 4, seed: 8 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    let slot = &shop.endpoints.variables["HIGHWATER_SOURCE_SLOT"];
    let kept = format!("SELECT FROM pg_replication_slots WHERE slot_name = '{slot}' AND synced AND NOT temporary");
    let is_kept = async || !standby.query(&kept, &[]).await.expect("the standby answers").is_empty();
    eventually("the standby keeps the slot", is_kept).await;
    drop(standby);
    FAILED_OVER.kill("primary");
    writers.stop().await.expect("the writers stop");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    let (variables, endpoints, promoted) = promote(&FAILED_OVER, &shop.endpoints.variables).await;
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache", "audit"], &variables);
    pipeline.is_ready().await;
    promoted.batch_execute("UPDATE stock_levels SET current_stock = 5 WHERE part_id = 11").await.expect("life goes on");
    let report = check::everything(&endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
    assert!(!pipeline.log().contains("are missing"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    FAILED_OVER.wipe();
}
