//! What each role is made of, and how it is set to work.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, anyhow};
use highwater::capture;
use highwater::config::Server;
use highwater::deliver::{Feed, deliver};
use highwater::operate;
use highwater::roles::{Config, Role};
use highwater::running::{GaveUp, Shutdown, Standing, Target, reach};
use highwater::workers::cache::{CacheWorker, Plan};
use highwater::workers::{audit, storefront};
use highwater_kafka::Admin;
use highwater_redis::Cache;

/// Longest wait for one answer of a broker while the process starts.
const KAFKA_ANSWER: Duration = Duration::from_secs(2);

/// Runs one role until the shutdown, or until it cannot go on.
///
/// # Errors
/// Why it cannot go on.
pub(crate) async fn run(role: Role, config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    match role {
        Role::Capture => capture(config, shutdown, standing).await,
        Role::Cache => cache(config, shutdown, standing).await,
        Role::Audit => audit(config, shutdown, standing).await,
        Role::Storefront => storefront(config, shutdown, standing).await,
    }
}

/// On a thread of its own with a blocking socket: a task costs eleven times the processor time.
async fn capture(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    let database = postgres(&config.source.database, "source.database", &config, &shutdown, &standing).await?;
    if let (Some(()), Some(standby)) = (database, &config.source.standby)
        && postgres(standby, "source.standby", &config, &shutdown, &standing).await?.is_none()
    {
        return Ok(());
    }
    if database.is_none() || kafka(&config, &shutdown, &standing).await?.is_none() {
        return Ok(());
    }
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
    let reached = reach(&target, config.operate.start, &shutdown, highwater_redis::Error::is_transient, connect).await;
    let Some(cache) = unless_stopped(reached)? else { return Ok(()) };
    if kafka(&config, &shutdown, &standing).await?.is_none() {
        return Ok(());
    }
    let mut worker = CacheWorker::new(cache, Plan::new(config.cache.rules.clone()));
    let feed = feed(&config, "cache", config.topics.states().to_vec());
    Ok(deliver(&mut worker, &feed, &shutdown, &standing).await?)
}

async fn audit(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    let database = postgres(&config.audit.database, "audit.database", &config, &shutdown, &standing).await?;
    if database.is_none() || kafka(&config, &shutdown, &standing).await?.is_none() {
        return Ok(());
    }
    let mut worker = audit::Worker::new(&config.audit)?;
    let mut feed = feed(&config, "audit", vec![config.topics.history()]);
    feed.batch_records = config.audit.batch_rows;
    Ok(deliver(&mut worker, &feed, &shutdown, &standing).await?)
}

async fn storefront(config: Arc<Config>, shutdown: Shutdown, standing: Standing) -> Result<()> {
    if kafka(&config, &shutdown, &standing).await?.is_none() {
        return Ok(());
    }
    let Config { source, topics, storefront: settings, .. } = &*config;
    Ok(storefront::run(settings, topics, &source.name, &shutdown, &standing).await?)
}

/// Waits until a database answers. The connection is not kept: the role opens its own.
async fn postgres(
    server: &Server,
    setting: &'static str,
    config: &Config,
    shutdown: &Shutdown,
    standing: &Standing,
) -> Result<Option<()>> {
    let target = Target { server: "PostgreSQL", address: server.url().to_owned(), setting };
    standing.waits_for(target.to_string());
    let ask = async || operate::connect(server, "highwater start").await.map(|_| ());
    let reached = reach(&target, config.operate.start, shutdown, highwater_postgres::Error::is_transient, ask).await;
    unless_stopped(reached)
}

/// Waits until a broker answers: delivery itself waits for it without an end, as is right once the pipeline has run.
async fn kafka(config: &Config, shutdown: &Shutdown, standing: &Standing) -> Result<Option<()>> {
    let target = Target { server: "Kafka", address: config.topics.brokers.clone(), setting: "topics.brokers" };
    standing.waits_for(target.to_string());
    let admin = Admin::new(&config.topics.connection("highwater-start"))?;
    let ask = async || admin.cluster(KAFKA_ANSWER).await.map(|_| ());
    let reached = reach(&target, config.operate.start, shutdown, highwater_kafka::Error::is_transient, ask).await;
    unless_stopped(reached)
}

/// Tells what was reached; nothing, if the process is to stop first, which is no failure.
fn unless_stopped<T, E>(reached: Result<T, GaveUp<E>>) -> Result<Option<T>>
where
    GaveUp<E>: std::error::Error + Send + Sync + 'static,
{
    match reached {
        Ok(reached) => Ok(Some(reached)),
        Err(GaveUp::Stopped(_)) => Ok(None),
        Err(error) => Err(error.into()),
    }
}

fn feed(config: &Config, worker: &str, topics: Vec<String>) -> Feed {
    let connection = config.topics.connection(&format!("highwater-{worker}"));
    let mut feed = Feed::new(connection, topics, config.topics.dead_letters());
    feed.compaction_lag = config.topics.compaction_lag;
    feed
}
