//! Rows whose part stands one step away, in a row of another table.

use std::collections::{BTreeSet, HashMap};
use std::time::Duration;

use highwater_kafka::{Connection, Consumer, ConsumerSettings, Isolation, Start};

use crate::process::Pipeline;
use crate::shop::{Shop, within_a_minute};
use crate::stack::{SHOPS, Variables, root};

const VARIANTS: &str = "
    CREATE TABLE variants (id bigint PRIMARY KEY, part_id bigint NOT NULL);
    CREATE TABLE photos (id bigint PRIMARY KEY, variant_id bigint NOT NULL REFERENCES variants ON DELETE CASCADE, url text);
    ALTER TABLE variants REPLICA IDENTITY FULL; ALTER TABLE photos REPLICA IDENTITY FULL;
    INSERT INTO variants SELECT n, n FROM generate_series(1, 3) n;
    INSERT INTO photos SELECT n, n, '/' || n || '.jpg' FROM generate_series(1, 3) n;
    GRANT SELECT ON variants, photos TO highwater_capture;
    ALTER PUBLICATION highwater ADD TABLE variants, photos";

const MAPPED: &str = r#"
[[source.map]]
table = "variants"
event = "content"
kind = "variant"
part = "part_id"
entity = "variant/{id}"

[[source.map]]
table = "photos"
event = "content"
kind = "photo"
part = { through = "variants", by = "variant_id" }
entity = "photo/{id}"
"#;

/// Returns the photos that the topic holds, each with its part: those that no deletion stands behind, in their partition.
async fn photos(shop: &Shop) -> BTreeSet<String> {
    const ANSWER: Duration = Duration::from_secs(20);
    let topic = shop.endpoints.topic("content");
    let settings = ConsumerSettings::new("test", Isolation::ReadUncommitted);
    let mut consumer = Consumer::new(&Connection::new(&shop.endpoints.brokers, "test"), settings).expect("a reader");
    let starts: Vec<Start> = (0..4).map(|partition| Start { topic: topic.clone(), partition, offset: 0 }).collect();
    let partitions: Vec<(String, i32)> = (0..4).map(|partition| (topic.clone(), partition)).collect();
    let ends = consumer.ends(&partitions, ANSWER).await.expect("the ends");
    consumer.assign(&starts).expect("an assignment");
    let is_read = |consumer: &Consumer| {
        let position = |partition: i32| consumer.position(&topic, partition).unwrap_or(0).unsigned_abs();
        (0..4).zip(&ends).all(|(partition, end)| position(partition) >= *end || consumer.at_end(&topic, partition))
    };
    let mut newest = HashMap::new();
    while !is_read(&consumer) {
        for record in consumer.next_batch(1000, ANSWER).await.expect("records") {
            if record.key == "truncate/photos" {
                newest.retain(|(partition, _), _| *partition != record.partition);
            }
            let event =
                record.value.map(|value| serde_json::from_slice::<serde_json::Value>(&value).expect("an event"));
            newest.insert((record.partition, record.key), event);
        }
    }
    let live = newest.into_iter().filter_map(|((_, key), event)| {
        let event = event.filter(|event| event["type"] != "content.deleted")?;
        let key = String::from_utf8_lossy(&key).into_owned();
        key.starts_with("photo/").then(|| format!("{key} of {}", event["subject"].as_str().unwrap_or_default()))
    });
    live.collect()
}

/// Returns the settings of capture with both tables mapped.
fn mapped(shop: &Shop) -> Variables {
    let shown = std::fs::read_to_string(root().join("config.toml")).expect("config.toml");
    let path = SHOPS.path().join(format!("log/{}.toml", shop.endpoints.topic_prefix));
    std::fs::write(&path, shown + MAPPED).expect("a configuration");
    let mut variables = shop.endpoints.variables.clone();
    variables.insert("HIGHWATER_CONFIG".to_owned(), path.to_string_lossy().into_owned());
    variables
}

/// Waits until the topic holds these photos and no other.
async fn stand(shop: &Shop, wanted: &[&str]) {
    let wanted: BTreeSet<String> = wanted.iter().map(|&photo| photo.to_owned()).collect();
    let stands = within_a_minute(async || photos(shop).await == wanted).await;
    assert!(stands, "not {wanted:?} but {:?}", photos(shop).await);
}

#[tokio::test(flavor = "multi_thread")]
async fn rows_follow_the_row_one_step_away_to_another_part() {
    let shop = Shop::open("through", 20).await;
    shop.admin.batch_execute(VARIANTS).await.expect("two tables");
    let variables = mapped(&shop);
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    stand(&shop, &["photo/1 of part/1", "photo/2 of part/2", "photo/3 of part/3"]).await;
    shop.admin.batch_execute("INSERT INTO photos VALUES (4, 1, '/4.jpg')").await.expect("a photo");
    stand(&shop, &["photo/1 of part/1", "photo/2 of part/2", "photo/3 of part/3", "photo/4 of part/1"]).await;
    shop.admin.batch_execute("UPDATE variants SET part_id = part_id + 10 WHERE id <= 2").await.expect("moves");
    stand(&shop, &["photo/1 of part/11", "photo/2 of part/12", "photo/3 of part/3", "photo/4 of part/11"]).await;
    // Oftener than the table is read.
    for _ in 0..30 {
        shop.admin.batch_execute("UPDATE variants SET part_id = part_id - 1 WHERE id = 2").await.expect("a move");
    }
    shop.admin.batch_execute("UPDATE variants SET part_id = 12 WHERE id = 2").await.expect("a move");
    stand(&shop, &["photo/1 of part/11", "photo/2 of part/12", "photo/3 of part/3", "photo/4 of part/11"]).await;
    // The log has the deletion of the parent first.
    shop.admin.batch_execute("DELETE FROM variants WHERE id = 1").await.expect("a cascade");
    stand(&shop, &["photo/2 of part/12", "photo/3 of part/3"]).await;

    // What happened while nobody read the log: the part that the primary knows is the newer one.
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    let meanwhile = "UPDATE photos SET url = '/new.jpg' WHERE id = 3; UPDATE variants SET part_id = 13 WHERE id = 3;
        DELETE FROM photos WHERE id = 2";
    shop.admin.batch_execute(meanwhile).await.expect("changes");
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &variables);
    pipeline.is_ready().await;
    stand(&shop, &["photo/3 of part/13"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_table_that_became_another_is_read_as_it_is_now_where_its_rows_follow_to_another_part() {
    let shop = Shop::open("anew", 20).await;
    shop.admin.batch_execute(VARIANTS).await.expect("two tables");
    let mut pipeline = Pipeline::start_with(&shop, &["capture"], &mapped(&shop));
    pipeline.is_ready().await;
    shop.admin.batch_execute("INSERT INTO photos VALUES (4, 1, '/4.jpg')").await.expect("a photo");
    stand(&shop, &["photo/1 of part/1", "photo/2 of part/2", "photo/3 of part/3", "photo/4 of part/1"]).await;
    // More than once: of two tables of one name, either could be found.
    for round in 1..=4 {
        let anew = format!(
            "DROP TABLE photos;
             CREATE TABLE photos (address{round} text, variant_id bigint NOT NULL REFERENCES variants, id bigint PRIMARY KEY);
             ALTER TABLE photos REPLICA IDENTITY FULL; GRANT SELECT ON photos TO highwater_capture;
             INSERT INTO photos VALUES ('/unseen.jpg', 2, 1); ALTER PUBLICATION highwater ADD TABLE photos"
        );
        shop.admin.batch_execute(&anew).await.expect("another table");
        shop.admin.batch_execute("INSERT INTO photos VALUES ('/seen.jpg', 3, 2)").await.expect("a photo");
        let move_both = format!("UPDATE variants SET part_id = {round}0 + id WHERE id > 1");
        shop.admin.batch_execute(&move_both).await.expect("moves");
        stand(&shop, &[&format!("photo/1 of part/{round}2"), &format!("photo/2 of part/{round}3")]).await;
    }
    // What the publication has of it counts as of its reading, too, though none of its rows has changed since.
    let filtered =
        "ALTER PUBLICATION highwater DROP TABLE photos; ALTER PUBLICATION highwater ADD TABLE photos WHERE (id > 1)";
    shop.admin.batch_execute(filtered).await.expect("a row filter");
    shop.admin.batch_execute("UPDATE variants SET part_id = 50 + id WHERE id > 1").await.expect("moves");
    stand(&shop, &["photo/2 of part/53"]).await;
    assert!(pipeline.terminate().success(), "{}", pipeline.log());
    shop.close().await;
}
