//! Nothing is lost and nothing doubled, whoever is killed and whenever.

use std::time::Duration;

use highwater_demo::check;
use highwater_demo::write::{self, Writers};
use rand::rngs::SmallRng;
use rand::{Rng, SeedableRng};

use crate::process::Pipeline;
use crate::shop::Shop;
use crate::stack::SHOPS;

/// How often the pipeline is killed; `HIGHWATER_KILLS` asks for another number.
fn kills() -> u32 {
    std::env::var("HIGHWATER_KILLS").ok().and_then(|kills| kills.parse().ok()).unwrap_or(30)
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_pipeline_kafka_and_redis_under_load_loses_nothing_and_doubles_nothing() {
    let shop = Shop::open("kills", 500).await;
    let seed = std::env::var("HIGHWATER_SEED").ok().and_then(|seed| seed.parse().ok()).unwrap_or_else(rand::random);
    println!("HIGHWATER_SEED={seed} repeats the same moments");
    let mut random = SmallRng::seed_from_u64(seed);
    // The slot stands before the first write, so that the history must hold every one of them.
    let mut pipeline = shop.pipeline(&[]).await;
    let options = write::Options { rate: 200, connections: 4, seed };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    let kills = kills();
    for kill in 0..kills {
        // From before it is ready to well after: every moment of a session has its turn.
        tokio::time::sleep(Duration::from_millis(random.random_range(50..2500))).await;
        pipeline.kill();
        pipeline = Pipeline::start(&shop, &[]);
        // A server goes together with the pipeline's third, sixth, … death, in turn.
        let server = match kill % (kills / 6).max(1) {
            0 if kill % 2 == 0 => "kafka",
            0 => "redis",
            _ => continue,
        };
        tokio::time::sleep(Duration::from_millis(random.random_range(500..2000))).await;
        SHOPS.kill(server);
        SHOPS.start(server);
    }
    nothing_is_lost(&shop, pipeline, writers).await;
    shop.close().await;
}

#[tokio::test(flavor = "multi_thread")]
async fn killing_the_primary_under_load_loses_nothing_and_doubles_nothing() {
    let shop = Shop::open("primary", 500).await;
    let pipeline = shop.pipeline(&[]).await;
    let options = write::Options { rate: 200, connections: 4, seed: 5 };
    let writers = Writers::start(&shop.endpoints, options, None).await.expect("writers");
    for _ in 0..3 {
        tokio::time::sleep(Duration::from_secs(3)).await;
        SHOPS.kill("primary");
        SHOPS.start("primary");
    }
    tokio::time::sleep(Duration::from_secs(3)).await;
    nothing_is_lost(&shop, pipeline, writers).await;
    shop.close().await;
}

/// Ends the load, and lets the checker compare every copy with the database.
async fn nothing_is_lost(shop: &Shop, mut pipeline: Pipeline, writers: Writers) {
    pipeline.is_ready().await;
    let written = writers.stop().await.expect("the writers stop");
    assert!(written.committed > 500, "the load was too small to prove anything: {written:?}");
    let report = check::everything(&shop.endpoints, &check::Options::default()).await.expect("the check runs");
    assert!(report.is_clean(), "{report}\n{}", pipeline.last_lines());
    // While servers come and go nobody may be told of a gap that is none.
    let gaps = pipeline.log().lines().filter(|line| line.contains("between two marks")).count();
    assert_eq!(gaps, 0, "gaps were named that the check does not find");
    assert!(pipeline.terminate().success(), "{}", pipeline.last_lines());
}
