//! What the publication says of a table holds for the rows that are read and for those that are streamed: its partitions come
//! by their root, with its columns and its rows.

use std::time::Duration;

use highwater_demo::check;
use highwater_kafka::{Connection, Isolation, last_record};

use crate::process::{Pipeline, highwater};
use crate::shop::{Shop, eventually};
use crate::snapshot::{NEWEST, is_right};
use crate::stack::{NEWEST_POSTGRES, SHOPS, Stack, root};

/// Stock levels in two partitions, of which the publication has the parts up to 10, and what they cost is nobody's business.
const PARTITIONED: &str = "
    DROP TABLE stock_levels;
    CREATE TABLE stock_levels (
        id bigint NOT NULL, part_id bigint NOT NULL UNIQUE, current_stock integer NOT NULL,
        reserved_quantity integer NOT NULL DEFAULT 0, min_stock_level integer NOT NULL DEFAULT 0,
        version integer NOT NULL DEFAULT 1, bin text, purchase_cost numeric, updated_at timestamptz NOT NULL DEFAULT now(),
        PRIMARY KEY (id, part_id)
    ) PARTITION BY RANGE (part_id);
    CREATE TABLE stock_low PARTITION OF stock_levels FOR VALUES FROM (MINVALUE) TO (6);
    CREATE TABLE stock_high PARTITION OF stock_levels FOR VALUES FROM (6) TO (MAXVALUE);
    INSERT INTO stock_levels (id, part_id, current_stock, bin, purchase_cost)
        SELECT n, n, n * 10, 'bin-' || n, 99.25 FROM generate_series(1, 20) n;
    GRANT SELECT ON stock_levels TO highwater_capture;
    ALTER PUBLICATION highwater SET (publish_via_partition_root = true);
    ALTER PUBLICATION highwater ADD TABLE stock_levels
        (id, part_id, current_stock, reserved_quantity, min_stock_level, version, bin, updated_at) WHERE (part_id <= 10)";

/// A row into the published ones, one out of them and over to the other partition, and one that never is one of them.
const MOVES: [&str; 4] = [
    "UPDATE stock_levels SET current_stock = 777 WHERE part_id IN (3, 15)",
    "DELETE FROM stock_levels WHERE part_id = 7",
    "UPDATE stock_levels SET part_id = 7, current_stock = 555 WHERE part_id = 12",
    "UPDATE stock_levels SET part_id = 30 WHERE part_id = 4",
];

/// Writes config.toml with every column that stock has, and no field takes, among its attributes; returns where.
fn with_all_attributes(servers: &Stack, name: &str) -> String {
    let shown = std::fs::read_to_string(root().join("config.toml")).expect("config.toml");
    let (before, stock) = shown.split_once("table = \"stock_levels\"").expect("an entry for stock_levels");
    let text = format!("{before}table = \"stock_levels\"{}", stock.replacen("attributes = []\n", "", 1));
    let path = servers.path().join(format!("log/{name}.toml"));
    std::fs::write(&path, text).expect("a configuration");
    path.to_string_lossy().into_owned()
}

async fn cached(shop: &Shop, part: u32) -> Option<String> {
    let key = format!("part:{part}:stock");
    redis::cmd("HGET").arg(key).arg("v").query_async(&mut shop.cache().await).await.expect("Redis")
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partitioned_table_comes_by_its_root_with_the_publications_columns_and_rows_read_and_streamed_alike() {
    let shop = Shop::open("partitioned", 20).await;
    shop.admin.batch_execute(PARTITIONED).await.expect("a partitioned table");
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CONFIG".to_owned(), with_all_attributes(&SHOPS, &shop.endpoints.topic_prefix));
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the snapshot");
    for part in 1..=20 {
        let row = cached(&shop, part).await;
        assert_eq!(row.is_some(), part <= 10, "part {part} as it was read: {row:?}");
        let wrong = |row: &String| !row.contains(&format!("\"bin\":\"bin-{part}\"")) || row.contains("purchase_cost");
        assert!(!row.as_ref().is_some_and(wrong), "{row:?}");
    }
    for statement in MOVES {
        shop.admin.batch_execute(statement).await.unwrap_or_else(|error| panic!("{statement}: {error}"));
    }
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the stream");
    for (part, stock) in
        [(3, Some("777")), (7, Some("555")), (8, Some("80")), (4, None), (12, None), (15, None), (30, None)]
    {
        let row = cached(&shop, part).await;
        assert_eq!(row.is_some(), stock.is_some(), "part {part}: {row:?}");
        let Some((row, stock)) = row.zip(stock) else { continue };
        assert!(row.contains(&format!("\"current_stock\":{stock},")) && !row.contains("purchase_cost"), "{row}");
    }
    let history = shop.endpoints.topic("history");
    let connection = Connection::new(&shop.endpoints.brokers, "test");
    eventually("the history has the last change, of the root, without what it cost", async || {
        let last = last_record(&connection, &history, 0, Isolation::ReadCommitted, Duration::from_secs(20)).await;
        let value = last.expect("an answer").and_then(|record| record.value).unwrap_or_default();
        let text = String::from_utf8_lossy(&value).into_owned();
        text.contains("\"table\":\"stock_levels\"")
            && text.contains("history.delete")
            && !text.contains("purchase_cost")
    })
    .await;
    assert!(!pipeline.log().contains("has other columns"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

/// A column list with every ordinary column, which capture may read, and without the generated one.
const LISTED: &str = "
    ALTER PUBLICATION highwater DROP TABLE stock_levels;
    ALTER PUBLICATION highwater ADD TABLE stock_levels (id, part_id, current_stock, reserved_quantity, min_stock_level, version,
        last_updated_by, created_at, updated_at);
    REVOKE SELECT ON stock_levels FROM highwater_capture;
    GRANT SELECT (id, part_id, current_stock, reserved_quantity, min_stock_level, version, last_updated_by, created_at,
        updated_at) ON stock_levels TO highwater_capture";

#[tokio::test(flavor = "multi_thread")]
async fn a_stored_generated_column_that_the_publication_has_comes_with_rows_that_are_read_and_streamed_alike() {
    let shop = Shop::open_on(&NEWEST_POSTGRES, &["primary", "redis", "kafka"], "generated", 20).await;
    let generated = "ALTER TABLE stock_levels ADD doubled integer GENERATED ALWAYS AS (current_stock * 2) STORED";
    shop.admin.batch_execute(generated).await.expect("a generated column");
    let refused =
        shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 111").await.expect_err("not published");
    let checked = || {
        let check = highwater(&shop.endpoints.variables).arg("check").output().expect("it runs");
        String::from_utf8_lossy(&check.stdout).into_owned()
    };
    let says = |check: &str, text: &str| check.lines().any(|line| line.contains("stock_levels") && line.contains(text));
    let check = checked();
    assert!(says(&check, "generated columns, doubled"), "{refused} is foreseen: {check}");
    let published = "ALTER PUBLICATION \"highwater\" SET (publish_generated_columns = stored);";
    assert!(check.contains(published), "{check}");
    shop.admin.batch_execute(published).await.expect("the remedy");
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 111").await.expect("it is not refused any more");

    shop.admin.batch_execute(LISTED).await.expect("a column list and privileges without the generated column");
    let check = checked();
    assert!(says(&check, "generated columns, doubled"), "a list counts alone: {check}");
    assert!(!says(&check, "cannot be read"), "what is not published need not be read: {check}");
    let whole = "BEGIN; ALTER PUBLICATION \"highwater\" DROP TABLE stock_levels; ALTER PUBLICATION \"highwater\" ADD TABLE stock_levels; COMMIT;";
    assert!(check.contains(&format!("{whole} {published}")), "{check}");
    shop.admin.batch_execute(whole).await.expect("the remedy");
    assert!(says(&checked(), "cannot be read"), "what is published must be read: {}", checked());
    shop.admin.batch_execute("GRANT SELECT ON stock_levels TO highwater_capture").await.expect("the remedy");
    assert!(!says(&checked(), "cannot be read"), "{}", checked());
    let mut variables = shop.endpoints.variables.clone();
    variables
        .insert("HIGHWATER_CONFIG".to_owned(), with_all_attributes(&NEWEST_POSTGRES, &shop.endpoints.topic_prefix));
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &variables);
    pipeline.is_ready().await;
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the snapshot");
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 777 WHERE part_id = 3").await.expect("a change");
    check::caught_up(&shop.endpoints, Duration::from_mins(1)).await.expect("the stream");
    for (part, doubled) in [(2, "\"doubled\":222"), (3, "\"doubled\":1554")] {
        let row = cached(&shop, part).await.unwrap_or_default();
        assert!(row.contains(doubled), "part {part}: {row}");
    }
    assert!(!pipeline.log().contains("has other columns"), "{}", pipeline.log());
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

/// Prices in a partition that says nothing of a deleted row but its key, under a root that would say it all.
const NARROW: &str = "
    ALTER PUBLICATION highwater DROP TABLE part_prices;
    ALTER TABLE part_prices RENAME TO prices_before;
    CREATE TABLE part_prices (LIKE prices_before INCLUDING DEFAULTS, PRIMARY KEY (id)) PARTITION BY RANGE (id);
    ALTER TABLE part_prices REPLICA IDENTITY FULL;
    CREATE TABLE prices_low PARTITION OF part_prices FOR VALUES FROM (MINVALUE) TO (100000);
    INSERT INTO part_prices SELECT * FROM prices_before;
    GRANT SELECT ON part_prices TO highwater_capture, shop_read, shop_app;
    ALTER PUBLICATION highwater SET (publish_via_partition_root = true);
    ALTER PUBLICATION highwater ADD TABLE part_prices";

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_that_says_less_of_a_deleted_row_is_refused_and_one_that_comes_later_is_named() {
    let shop = Shop::open("narrow", 20).await;
    shop.admin.batch_execute(NARROW).await.expect("a partitioned table");
    let mut pipeline = Pipeline::start(&shop, &["capture"]);
    assert_eq!(pipeline.ended().code(), Some(1));
    assert!(pipeline.log().contains("have no full replica identity, which they do not inherit"), "{}", pipeline.log());
    shop.admin.batch_execute("ALTER TABLE prices_low REPLICA IDENTITY FULL").await.expect("a full identity");
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    let later = "DELETE FROM part_prices WHERE part_id = 3;
        CREATE TABLE prices_high PARTITION OF part_prices FOR VALUES FROM (100000) TO (MAXVALUE);
        INSERT INTO part_prices (id, part_id, price_type, price) VALUES (100001, 5, 'outlet', 1), (100002, 5, 'trade', 2);
        UPDATE part_prices SET price = 3 WHERE id = 100002; DELETE FROM part_prices WHERE id = 100001";
    shop.admin.batch_execute(later).await.expect("changes of a new partition");
    eventually("a deletion that cannot be routed is in the dead letters", async || {
        let list = ["dead-letters", "list", "--worker", "capture"];
        let letters = highwater(&shop.endpoints.variables).args(list).output().expect("it runs");
        String::from_utf8_lossy(&letters.stdout).contains("row part_prices/100001")
    })
    .await;
    assert!(pipeline.log().contains("partitions have no full replica identity"), "{}", pipeline.log());

    shop.admin.batch_execute("ALTER TABLE prices_high REPLICA IDENTITY FULL").await.expect("a full identity");
    shop.admin.batch_execute("DELETE FROM part_prices WHERE id = 100002").await.expect("a deletion that can be routed");
    let again = highwater(&shop.endpoints.variables).args(["snapshot", "part_prices"]).status().expect("it runs");
    assert!(again.success(), "{}", pipeline.log());
    is_right(&shop, &NEWEST, &pipeline.log()).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
