//! A standby takes the primary's place: what the topics have of the lost primary alone is named, and does not stay.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::endpoints::Endpoints;

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually};
use crate::stack::{PROMOTED, Variables};

/// The shop as its standby has it.
fn on_the_standby(of_the_primary: &Variables) -> Variables {
    let (from, to) = (&of_the_primary["PRIMARY_PORT"], &of_the_primary["REPLICA1_PORT"]);
    let moved = |value: &String| value.replace(&format!(":{from}/"), &format!(":{to}/"));
    of_the_primary.iter().map(|(name, value)| (name.clone(), moved(value))).collect()
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

    PROMOTED.start("replica1");
    let variables = on_the_standby(&variables);
    let endpoints = Endpoints::from_variables(variables.clone()).expect("all addresses");
    let promoted = Endpoints::connect(&endpoints.admin_database).await.expect("the standby answers");
    promoted.batch_execute("SELECT pg_promote()").await.expect("a promotion");
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    promoted.batch_execute("UPDATE stock_levels SET current_stock = 5 WHERE part_id = 11").await.expect("life goes on");
    let newest = check::Options { story: check::Story::Gap, audit: false, ..check::Options::default() };
    let report = check::everything(&endpoints, &newest).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.log());
    let letters =
        highwater(&variables).args(["dead-letters", "list", "--worker", "capture"]).output().expect("it runs");
    let letters = String::from_utf8_lossy(&letters.stdout).into_owned();
    assert!(letters.contains("changes from 00000001-") && letters.contains(" are missing: slot"), "{letters}");
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    PROMOTED.wipe();
}
