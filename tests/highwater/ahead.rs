//! `visible_first = false`: commits are published while the primary does not show them, and everybody is told.

use highwater_demo::endpoints::Endpoints;
use highwater_redis::{Cache, Lookup, Options, Reading};
use tokio::task::JoinHandle;

use crate::process::Pipeline;
use crate::shop::{Shop, eventually};
use crate::stack::Variables;

pub(crate) const UPDATE: &str = "UPDATE stock_levels SET current_stock = 31337 WHERE part_id = 3";
/// The same, and with it that the table is to be read again.
const UPDATE_AND_READ_AGAIN: &str = r#"BEGIN;
    UPDATE stock_levels SET current_stock = 31337 WHERE part_id = 3;
    SELECT pg_logical_emit_message(true, 'highwater.snapshot', '{"tables":["stock_levels"]}');
    COMMIT"#;

/// A commit that waits for a synchronous standby which is not there.
pub(crate) struct Waiting(JoinHandle<Result<(), tokio_postgres::Error>>);

impl Waiting {
    pub(crate) async fn begin(shop: &Shop, sql: &'static str) -> Self {
        shop.admin.batch_execute("ALTER SYSTEM SET synchronous_standby_names = 'nobody'").await.expect("a setting");
        shop.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
        eventually("the setting holds", async || shop.value("SHOW synchronous_standby_names").await == "nobody").await;
        let writer = Endpoints::connect(&shop.endpoints.admin_database).await.expect("a writer");
        Self(tokio::spawn(async move { writer.batch_execute(sql).await }))
    }

    pub(crate) async fn end(self, shop: &Shop) {
        shop.admin.batch_execute("ALTER SYSTEM RESET synchronous_standby_names").await.expect("a setting");
        shop.admin.batch_execute("SELECT pg_reload_conf()").await.expect("a reload");
        self.0.await.expect("the writer ends").expect("the update commits");
    }
}

fn ahead(shop: &Shop) -> Variables {
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CAPTURE_VISIBLE_FIRST".to_owned(), "false".to_owned());
    variables
}

pub(crate) async fn cached_stock(shop: &Shop) -> String {
    let mut redis = shop.cache().await;
    let value: Option<String> =
        redis::cmd("HGET").arg("part:3:stock").arg("v").query_async(&mut redis).await.expect("Redis");
    value.unwrap_or_default()
}

/// Asks for an entry that is never there: tells the mark, and the bound for a fill from the primary.
async fn miss(shop: &Shop) -> Option<(String, Option<String>)> {
    let cache = Cache::connect(&Options::new(shop.endpoints.cache.as_str())).await.expect("Redis");
    let partitions: Vec<String> = (0..4).map(|n| format!("{}/{n}", shop.endpoints.topic("prices"))).collect();
    let partitions: Vec<&str> = partitions.iter().map(String::as_str).collect();
    let reading = Reading { key: "part:3:prices", groups: &[], partitions: &partitions };
    match cache.get(&reading, None).await.expect("an answer") {
        Lookup::Miss { seen, mark } => Some((mark.to_string(), seen.map(|seen| seen.to_string()))),
        Lookup::Hit { .. } | Lookup::Unready => None,
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn without_visible_first_a_commit_is_published_at_once_and_no_fill_from_the_primary_is_taken_until_it_shows_all()
{
    let shop = Shop::open("ahead", 20).await;
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    eventually("the cache takes fills", async || miss(&shop).await.is_some_and(|(_, seen)| seen.is_some())).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &ahead(&shop));
    pipeline.is_ready().await;
    let waiting = Waiting::begin(&shop, UPDATE).await;
    eventually("the cache has what nobody can read yet", async || cached_stock(&shop).await.contains("31337")).await;
    assert_ne!(shop.value("SELECT current_stock FROM stock_levels WHERE part_id = 3").await, "31337");
    eventually("no fill is possible", async || miss(&shop).await.is_some_and(|(_, seen)| seen.is_none())).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());

    // Commits are waited for again; what was published before is not shown yet.
    let mut pipeline = shop.pipeline(&["capture", "cache"]).await;
    let (before, _) = miss(&shop).await.expect("a miss");
    shop.admin
        .batch_execute("SET synchronous_commit = local; UPDATE stock_levels SET current_stock = 7 WHERE part_id = 5")
        .await
        .expect("an update that waits for nobody");
    eventually("marks move", async || miss(&shop).await.is_some_and(|(mark, _)| mark > before)).await;
    let (_, seen) = miss(&shop).await.expect("a miss");
    let shown = shop.value("SELECT current_stock FROM stock_levels WHERE part_id = 3").await;
    let told = pipeline.log().contains("the primary shows all that is published");
    waiting.end(&shop).await;
    assert_ne!(shown, "31337");
    assert_eq!((seen, told), (None, false), "the primary does not show all yet");
    eventually("fills are taken again", async || miss(&shop).await.is_some_and(|(_, seen)| seen.is_some())).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn without_visible_first_a_table_that_is_read_again_has_what_was_published_before() {
    let shop = Shop::open("ahead_snapshot", 20).await;
    let mut pipeline = Pipeline::start_with(&shop, &["capture", "cache"], &ahead(&shop));
    pipeline.is_ready().await;
    eventually("the first snapshot is in the cache", async || !cached_stock(&shop).await.is_empty()).await;
    let waiting = Waiting::begin(&shop, UPDATE_AND_READ_AGAIN).await;
    eventually("it is published", async || cached_stock(&shop).await.contains("31337")).await;
    eventually("it is read again", async || pipeline.log().contains("a table is read again, as the log asks")).await;
    // A chunk that was read now would have the old row, at a newer place in the log.
    tokio::time::sleep(std::time::Duration::from_secs(1)).await;
    let rows = pipeline.metric("highwater_capture_snapshot_rows_total", "").await;
    waiting.end(&shop).await;
    eventually("it is read to its end", async || {
        pipeline.metric("highwater_capture_snapshot_rows_total", "").await >= rows + 20.0
    })
    .await;
    shop.admin.batch_execute("UPDATE stock_levels SET current_stock = 5 WHERE part_id = 4").await.expect("an update");
    highwater_demo::check::caught_up(&shop.endpoints, std::time::Duration::from_mins(1)).await.expect("all is there");
    assert!(cached_stock(&shop).await.contains("31337"), "{}", cached_stock(&shop).await);
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
