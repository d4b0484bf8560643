//! Commit → reader: how long after its commit a change is in a reader's hands, under a steady load.

use std::fmt::Write as _;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, anyhow, ensure};
use highwater_demo::Endpoints;
use highwater_demo::observe::clock::event_time_us;
use rdkafka::message::Message;
use serde_json::Value;
use tokio::task::JoinSet;
use tokio::time::MissedTickBehavior;

use crate::backlog::{self, ORIGIN};
use crate::cost::{Cost, Meter, Watched, now_us};
use crate::report::{provenance, table};
use crate::rounds::{Outcome, take_turns, warm_up};
use crate::source::Path;
use crate::tools::Tool;
use crate::tools::debezium::Debezium;
use crate::tools::highwater::Highwater;
use crate::topics::Isolation;
use crate::{Arguments, Bench};

pub(crate) const RUN: &str = "bench_run";
/// Connections that write at the same time, each at its share of the rate.
const WRITERS: u64 = 8;
pub(crate) const COMMITS_PER_S: u64 = 1000;
/// Parts whose stock is moved.
const PARTS: i64 = 10_000;
/// Runs that do not count, for a broker that was just started.
const WARM_UPS: u32 = 2;
/// Before what counts of a run begins: a tool with a virtual machine of its own has to work off by then what came while that was slow.
const WARM_UP: Duration = Duration::from_secs(30);
/// How long the last changes may take to their readers.
const ARRIVES_WITHIN: Duration = Duration::from_secs(20);

const TOOLS: [Tool; 3] = [
    Tool::Highwater(Highwater::shipped(true, Path::Tcp)),
    Tool::Highwater(Highwater::shipped(false, Path::Tcp)),
    Tool::Debezium(Debezium::Latency),
];

/// One run of one tool. Latencies in milliseconds, sorted.
pub(crate) struct Run {
    pub(crate) uncommitted: Vec<f64>,
    pub(crate) committed: Vec<f64>,
    /// How long the writers waited for their commits.
    waits: Vec<f64>,
    pub(crate) cost: Cost,
}

impl Run {
    /// In a line.
    pub(crate) fn told(&self) -> String {
        let [u50, u99] = [0.50, 0.99].map(|share| percentile(&self.uncommitted, share));
        let [c50, c99] = [0.50, 0.99].map(|share| percentile(&self.committed, share));
        let own = percentile(&self.waits, 0.99);
        format!(
            "uncommitted p50 {u50:.2} p99 {u99:.2} ms, committed p50 {c50:.2} p99 {c99:.2} ms, writers' p99 {own:.2} ms"
        )
    }
}

pub(crate) async fn measure(bench: &Bench, arguments: &Arguments) -> Result<String> {
    let progress = prepare(bench).await?;
    let tools = TOOLS.into_iter().filter(|tool| arguments.wants(&tool.name()));
    let run = async |tool| run(bench, tool, &progress, Duration::from_secs(arguments.seconds)).await;
    warm_up(arguments.warm_ups(WARM_UPS), async || run(TOOLS[0]).await).await;
    let outcomes = take_turns(tools, arguments.runs, Tool::name, run, Run::told).await;
    bench.clean(RUN).await?;
    Ok(section(bench, &outcomes, arguments))
}

/// Makes the slot, and the rows that are written to.
pub(crate) async fn prepare(bench: &Bench) -> Result<backlog::Progress> {
    let progress = backlog::origin(bench).await?;
    let fill = format!(
        "SET session_replication_role = replica;
         INSERT INTO stock_levels (id, part_id) SELECT part, part FROM generate_series(1, {PARTS}) AS part;
         RESET session_replication_role"
    );
    bench.source.client.batch_execute(&fill).await?;
    Ok(progress)
}

pub(crate) async fn run(bench: &Bench, tool: Tool, progress: &backlog::Progress, measured: Duration) -> Result<Run> {
    bench.clean(RUN).await?;
    bench.source.copy_slot(ORIGIN, RUN).await?;
    let behind = bench.source.text("SELECT pg_current_wal_flush_lsn()").await?;
    let mut process = tool.start(bench, progress, &behind, RUN, RUN).await?;
    let started = bench.source.streaming(RUN, &mut process).await?;
    let topic = tool.topics(RUN).remove(0);
    // What was written for the runs before is behind the tool when it has seen something newer.
    let uncommitted = Reader::start(bench, &topic, Isolation::Uncommitted)?;
    let committed = Reader::start(bench, &topic, Isolation::Committed)?;
    let meter = Meter::start(Watched { tool: process.pid(), broker: bench.broker, walsender: started.walsender });
    let before = write(bench, WARM_UP).await?.len();
    let from_us = now_us();
    let mut waits = write(bench, measured).await?;
    let to_us = now_us();
    let deadline = tokio::time::Instant::now() + ARRIVES_WITHIN;
    while tokio::time::Instant::now() < deadline && committed.seen() < before + waits.len() {
        process.still_runs()?;
        tokio::time::sleep(Duration::from_millis(100)).await;
    }
    // Transactions are committed some seconds after their records.
    tokio::time::sleep(Duration::from_secs(5)).await;
    let readings = meter.stop()?;
    process.terminate()?;
    let written = waits.len() as u64;
    waits.sort_by(f64::total_cmp);
    let counted = |reader: Reader| -> Result<Vec<f64>> {
        let all = reader.stop()?;
        let mut latencies: Vec<f64> = all
            .into_iter()
            .filter(|(commit, _)| (from_us..to_us).contains(commit))
            .map(|(commit, arrived)| millis(arrived - commit))
            .collect();
        latencies.sort_by(f64::total_cmp);
        let (seen, least) = (latencies.len() as u64, written - written / 100);
        ensure!((least..=written + written / 100).contains(&seen), "a reader saw {seen} changes of {written}");
        Ok(latencies)
    };
    Ok(Run {
        uncommitted: counted(uncommitted)?,
        committed: counted(committed)?,
        waits,
        cost: readings.between(from_us, to_us),
    })
}

#[expect(clippy::cast_precision_loss, reason = "a latency")]
fn millis(us: i64) -> f64 {
    us as f64 / 1000.0
}

/// Commits at the rate for so long; returns how long the writers waited for each, in milliseconds.
pub(crate) async fn write(bench: &Bench, duration: Duration) -> Result<Vec<f64>> {
    // They end with it, if nobody waits for them any more.
    let mut writers = JoinSet::new();
    for writer in 0..WRITERS {
        let client = Endpoints::connect(&bench.source.endpoints.admin_database).await?;
        writers.spawn(async move {
            let sql = "UPDATE stock_levels SET current_stock = current_stock + 1, version = version + 1 WHERE id = $1";
            let update = client.prepare(sql).await?;
            let mut tick = tokio::time::interval(Duration::from_micros(1_000_000 * WRITERS / COMMITS_PER_S));
            // Late commits are made up for: the rate holds on the whole.
            tick.set_missed_tick_behavior(MissedTickBehavior::Burst);
            let commits = u64::try_from(duration.as_millis())? * COMMITS_PER_S / 1000 / WRITERS;
            let mut waits = Vec::new();
            for number in 0..commits {
                tick.tick().await;
                // Each writer has parts of its own, so that none waits for another's lock.
                let part = i64::try_from((number * WRITERS + writer) % PARTS.unsigned_abs())? + 1;
                let asked = Instant::now();
                client.execute(&update, &[&part]).await?;
                waits.push(asked.elapsed().as_secs_f64() * 1000.0);
            }
            anyhow::Ok(waits)
        });
    }
    let mut waits = Vec::new();
    while let Some(writer) = writers.join_next().await {
        waits.extend(writer?.context("a writer failed")?);
    }
    Ok(waits)
}

/// A reader of the topic from its end on, on a thread of its own. It looks into what it read only once it is stopped: a reader of
/// committed records gets two seconds' worth at once, and what it did with them would be time that the tool and the broker lack.
struct Reader {
    stop: Arc<AtomicBool>,
    seen: Arc<AtomicUsize>,
    /// Values, and when they arrived.
    thread: JoinHandle<Vec<(Vec<u8>, i64)>>,
}

impl Reader {
    fn start(bench: &Bench, topic: &str, isolation: Isolation) -> Result<Self> {
        let consumer = bench.kafka.following(topic, isolation)?;
        let (stop, seen) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicUsize::new(0)));
        let (stopped, count) = (Arc::clone(&stop), Arc::clone(&seen));
        let thread = std::thread::spawn(move || {
            let mut arrivals = Vec::new();
            while !stopped.load(Ordering::Relaxed) {
                let Some(Ok(message)) = consumer.poll(Duration::from_millis(100)) else { continue };
                let Some(value) = message.payload() else { continue };
                arrivals.push((value.to_vec(), now_us()));
                count.fetch_add(1, Ordering::Relaxed);
            }
            arrivals
        });
        Ok(Self { stop, seen, thread })
    }

    /// How many records have arrived, the few marks among them.
    fn seen(&self) -> usize {
        self.seen.load(Ordering::Relaxed)
    }

    /// Returns when each change committed and when it arrived, in microseconds since 1970.
    fn stop(self) -> Result<Vec<(i64, i64)>> {
        self.stop.store(true, Ordering::Relaxed);
        let arrivals = self.thread.join().map_err(|_| anyhow!("a reader panicked"))?;
        Ok(arrivals.into_iter().filter_map(|(value, arrived)| Some((commit_us(&value)?, arrived))).collect())
    }
}

/// When the change of a record committed, by the record: Highwater's `time`, Debezium's `source.ts_us`. Marks are no changes.
fn commit_us(value: &[u8]) -> Option<i64> {
    let event: Value = serde_json::from_slice(value).ok()?;
    if event["type"] == "mark" {
        return None;
    }
    event["time"].as_str().map_or_else(|| event["source"]["ts_us"].as_i64(), event_time_us)
}

/// The figure below which that share of the sorted figures lies.
pub(crate) fn percentile(sorted: &[f64], share: f64) -> f64 {
    #[expect(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "an index"
    )]
    let at = ((sorted.len() as f64 * share) as usize).min(sorted.len().saturating_sub(1));
    sorted.get(at).copied().unwrap_or(f64::NAN)
}

fn section(bench: &Bench, outcomes: &[Outcome<Tool, Run>], arguments: &Arguments) -> String {
    let head = [
        "tool",
        "uncommitted p50",
        "p99",
        "committed p50",
        "p99",
        "writers' p99",
        "CPU s",
        "broker",
        "walsender",
        "others",
    ];
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            if outcome.failure.is_some() {
                return vec![outcome.tool.name(), outcome.why()];
            }
            let cell = |of: fn(&Run) -> f64| outcome.median(of).map_or_else(String::new, |median| median.spread(2));
            vec![
                outcome.tool.name(),
                cell(|run| percentile(&run.uncommitted, 0.50)),
                cell(|run| percentile(&run.uncommitted, 0.99)),
                cell(|run| percentile(&run.committed, 0.50)),
                cell(|run| percentile(&run.committed, 0.99)),
                cell(|run| percentile(&run.waits, 0.99)),
                cell(|run| run.cost.tool),
                cell(|run| run.cost.broker),
                cell(|run| run.cost.walsender),
                cell(|run| run.cost.others),
            ]
        })
        .collect();
    let mut text = format!("## Latency: commit to reader at {COMMITS_PER_S} commits a second\n\n");
    text += &provenance(&bench.machine);
    let _ = write!(
        text,
        "{} runs of each, in turns, {} s after {} s of warm-up: updates of one stock level each, {WRITERS} connections, \
         synchronous_commit on. Milliseconds from the commit's time in the log to the record in the hands of a reader in \
         this process; one reader reads uncommitted, as Highwater's own do, one committed. Both had every commit of the time, give or take one in a hundred \
         at its ends. `writers' p99` is how long the writers themselves waited for their commits: a commit's time is before its flush, so that \
         what the server's disk took is in every tool's figures. {} runs before the first do not count: they warm the broker's virtual \
         machine, for all tools. CPU seconds of the whole time; `others` has the writers and readers.\n\n",
        arguments.runs,
        arguments.seconds,
        WARM_UP.as_secs(),
        arguments.warm_ups(WARM_UPS)
    );
    text + &table(&head, &rows)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_records_commit_time_is_read_in_either_form_and_marks_have_none() {
        assert_eq!(commit_us(br#"{"type":"stock.updated","time":"1970-01-01T00:00:01.000002Z"}"#), Some(1_000_002));
        assert_eq!(commit_us(br#"{"type":"mark","time":"1970-01-01T00:00:01.000002Z"}"#), None);
        assert_eq!(commit_us(br#"{"source":{"ts_us":42},"ts_us":43}"#), Some(42));
    }

    #[test]
    fn a_percentile_is_a_figure_that_was_measured() {
        let sorted: Vec<f64> = (1..=100).map(f64::from).collect();
        assert_eq!([percentile(&sorted, 0.5), percentile(&sorted, 0.99)].map(|p| p.to_string()), ["51", "100"]);
    }
}
