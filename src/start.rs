//! What each role is made of, and how it is set to work.

use std::sync::Arc;

use anyhow::{Context, Result, anyhow};
use highwater::capture;
use highwater::deliver::{Feed, deliver};
use highwater::roles::{Config, Role};
use highwater::running::{GaveUp, Shutdown, Standing, Target, reach};
use highwater::workers::audit;
use highwater::workers::cache::{CacheWorker, Plan};
use highwater_redis::Cache;

/// Runs one role until the shutdown, or until it cannot go on.
///
/// # Errors
/// Why it cannot go on.
pub(crate) async fn run(role: Role, config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    match role {
        Role::Capture => capture(config, shutdown, standing).await,
        Role::Cache => cache(config, shutdown, standing).await,
        Role::Audit => audit(config, shutdown, standing).await,
    }
}

/// On a thread of its own with a blocking socket: a task costs eleven times the processor time.
async fn capture(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    let runtime = tokio::runtime::Handle::current();
    let (ended, end) = tokio::sync::oneshot::channel();
    let thread = std::thread::Builder::new().name("capture".to_owned());
    let work = move || {
        let Config { source, topics, capture: settings, operate, .. } = &*config;
        let outcome = capture::run(source, settings, topics, operate.start.deadline, &runtime, &shutdown, &standing);
        // Nobody waits any more when the drain's deadline has passed.
        let _ = ended.send(outcome);
    };
    thread.spawn(work).context("cannot start the capture thread")?;
    end.await.map_err(|_| anyhow!("the capture thread ended with a panic"))?.map_err(Into::into)
}

async fn cache(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    let options = config.cache.options();
    let target = Target { server: "Redis", address: config.cache.server.url().to_owned(), setting: "cache.server" };
    standing.waits_for(target.to_string());
    let connect = || Cache::connect(&options);
    let cache =
        match reach(&target, config.operate.start, &shutdown, highwater_redis::Error::is_transient, connect).await {
            Ok(cache) => cache,
            Err(GaveUp::Stopped(_)) => return Ok(()),
            Err(error) => return Err(error.into()),
        };
    let mut worker = CacheWorker::new(cache, Plan::new(config.cache.rules.clone()));
    let feed = feed(&config, "cache", config.topics.states().to_vec());
    Ok(deliver(&mut worker, &feed, &shutdown, &standing).await?)
}

async fn audit(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    let mut worker = audit::Worker::new(&config.audit)?;
    let feed = feed(&config, "audit", vec![config.topics.history()]);
    Ok(deliver(&mut worker, &feed, &shutdown, &standing).await?)
}

fn feed(config: &Config, worker: &str, topics: Vec<String>) -> Feed {
    let connection = config.topics.connection(&format!("highwater-{worker}"));
    let mut feed = Feed::new(connection, topics, config.topics.dead_letters());
    feed.compaction_lag = config.topics.compaction_lag;
    feed
}
