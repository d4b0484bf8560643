//! `highwater check` and `status` where others hold what they ask for, or capture's place on disk: both end, and say so.

use std::time::{Duration, Instant};

use highwater_demo::endpoints::Endpoints;

use crate::check::{Said, check};
use crate::process::highwater;
use crate::shop::Shop;
use crate::stack::SHOPS;

/// What a command may take at most: its deadlines for locks, and a slow machine.
const IN_TIME: Duration = Duration::from_secs(40);

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_another_transaction_holds_makes_check_and_status_say_so_and_not_hang() {
    let shop = Shop::open("check_held", 10).await;
    // The server locks the partitions of what it describes, in every version.
    let sql = "ALTER PUBLICATION highwater DROP TABLE prices; DROP TABLE prices;
        CREATE TABLE prices (id bigint PRIMARY KEY, part_id bigint NOT NULL, price numeric NOT NULL, currency char(3),
            created_at timestamptz, updated_at timestamptz) PARTITION BY HASH (id);
        CREATE TABLE prices_0 PARTITION OF prices FOR VALUES WITH (MODULUS 1, REMAINDER 0);
        ALTER TABLE prices REPLICA IDENTITY FULL; GRANT SELECT ON prices TO highwater_capture";
    shop.admin.batch_execute(sql).await.expect("a partitioned table");
    let holder = Endpoints::connect(&shop.endpoints.admin_database).await.expect("another connection");
    let hold = "BEGIN; LOCK TABLE prices, highwater.audit_progress IN ACCESS EXCLUSIVE MODE";
    holder.batch_execute(hold).await.expect("both are held");
    let pid: i32 = holder.query_one("SELECT pg_backend_pid()", &[]).await.expect("an answer").get(0);

    let asked = Instant::now();
    let said = check(&shop.endpoints.variables, &["capture"]);
    assert!(asked.elapsed() < IN_TIME, "after {:?}:\n{}", asked.elapsed(), said.text);
    assert_eq!(said.code, Some(1), "{}", said.text);
    let holding = format!("server process {pid} of ");
    let remedy = said.remedy(&["FAIL", "source.database", "lock timeout", &holding, "prices"]);
    let end = format!("SELECT pg_terminate_backend({pid});");
    assert!(remedy.ends_with(&end), "{remedy}");
    assert!(said.finds(&["ok", "slot"]), "the rest is judged all the same:\n{}", said.text);

    let asked = Instant::now();
    let status = Said::of(highwater(&shop.endpoints.variables).arg("status").output().expect("the binary runs"));
    assert!(asked.elapsed() < IN_TIME, "after {:?}:\n{}", asked.elapsed(), status.text);
    assert!(status.finds(&["audit", "lock timeout", &holding, "highwater.audit_progress"]), "{}", status.text);

    shop.admin.batch_execute(&end).await.expect("the shown command");
    assert!(!check(&shop.endpoints.variables, &["capture"]).finds(&["lock timeout"]));
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_spill_folder_that_capture_could_not_use_is_a_warning_and_is_not_made() {
    let shop = Shop::open("check_spill", 10).await;
    let mut variables = shop.endpoints.variables.clone();
    let below_a_file = SHOPS.path().join("env/spill").to_string_lossy().into_owned();
    variables.insert("HIGHWATER_CAPTURE_SPILL_FOLDER".to_owned(), below_a_file);
    let said = check(&variables, &["capture"]);
    let remedy = said.remedy(&["warn", "capture.spill_folder", "without streaming"]);
    assert!(remedy.contains("[capture] spill_folder") && said.code == Some(0), "{}", said.text);

    let new = SHOPS.path().join("not-yet-made");
    variables.insert("HIGHWATER_CAPTURE_SPILL_FOLDER".to_owned(), new.to_string_lossy().into_owned());
    let said = check(&variables, &["capture"]);
    assert!(said.finds(&["ok", "capture.spill_folder", "MiB are free"]) && !new.exists(), "{}", said.text);
    variables.insert("HIGHWATER_CAPTURE_SPILL_MIB".to_owned(), "16777216".to_owned());
    let said = check(&variables, &["capture"]);
    assert!(
        said.remedy(&["warn", "capture.spill_folder", "left on its disk"]).contains("spill_mib = "),
        "{}",
        said.text
    );
    shop.close().await;
}
