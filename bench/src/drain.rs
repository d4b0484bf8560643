//! The drain: a backlog of small transactions, as fast as each tool can.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Result, bail, ensure};

use crate::backlog::{Backlog, ORIGIN, ROWS_PER_TRANSACTION};
use crate::cost::{Cost, Meter, Readings, Watched, now_us};
use crate::process::Process;
use crate::report::{Median, grouped, grouped_count, provenance, table};
use crate::rounds::{Outcome, take_turns, warm_up};
use crate::source::Path;
use crate::tools::Tool;
use crate::tools::highwater::Highwater;
use crate::topics::Kafka;
use crate::{Arguments, Bench, PARTITIONS};

/// The slot of a run, a copy of the backlog's, and the prefix of its topics.
const RUN: &str = "bench_run";
/// How long one drain may take.
const DRAINED_WITHIN: Duration = Duration::from_mins(10);
const LOOK: Duration = Duration::from_millis(100);
/// The share of the machine that other work may take before rates are no longer compared. Some of it is the run's own: this
/// measuring, and the kernel's handling of packets, which it counts for no process.
const QUIET: f64 = 0.15;
/// Drains that do not count.
pub(crate) const WARM_UPS: u32 = 10;
/// What the broker's virtual machine compiles itself for.
pub(crate) const WARM_UP: Tool = Tool::Highwater(Highwater::shipped(true, Path::Tcp));

/// One drain by one tool.
pub(crate) struct Run {
    /// From the server's streaming to the last record's append (to the end of the tool, where it writes nothing).
    seconds: f64,
    /// Until everything was acknowledged to the slot, where the tool's acknowledgement says that all is committed.
    acknowledged_s: Option<f64>,
    pub(crate) cost: Cost,
    peak_mib: f64,
    threads: Vec<(String, f64)>,
    /// Of all records' keys and values, before compression.
    written_mb: f64,
}

impl Run {
    /// The share of the machine's CPUs that had nothing to do with the run.
    fn disturbed(&self, cpus: f64) -> f64 {
        self.cost.others / (self.seconds * cpus)
    }
}

pub(crate) async fn measure(bench: &Bench, arguments: &Arguments) -> Result<String> {
    let backlog = Backlog::write(bench, arguments).await?;
    warm_up(arguments.warm_ups(WARM_UPS), async || drain(bench, &backlog, WARM_UP).await).await;
    let tools = Tool::ALL.into_iter().filter(|tool| arguments.wants(&tool.name()));
    let told = |run: &Run| {
        let Cost { tool, broker, walsender, others } = run.cost;
        let (rate, peak) = (grouped(rate(&backlog, run)), run.peak_mib);
        format!(
            "{rate} rows/s, CPU s {tool:.2} (broker {broker:.2}, walsender {walsender:.2}, others {others:.2}), {peak:.0} MiB"
        )
    };
    let run = async |tool| drain(bench, &backlog, tool).await;
    let outcomes = take_turns(tools, arguments.runs, Tool::name, run, told).await;
    bench.clean(RUN).await?;
    Ok(section(bench, &backlog, &outcomes, arguments))
}

pub(crate) async fn drain(bench: &Bench, backlog: &Backlog, tool: Tool) -> Result<Run> {
    bench.clean(RUN).await?;
    bench.source.copy_slot(ORIGIN, RUN).await?;
    let mut process = tool.start(bench, &backlog.progress, &backlog.end, RUN, RUN).await?;
    let started = bench.source.streaming(RUN, &mut process).await?;
    let meter = Meter::start(Watched { tool: process.pid(), broker: bench.broker, walsender: started.walsender });
    let acknowledged = wait(bench, backlog, tool, &mut process, &meter).await?;
    let ended = meter.tool_ended_us();
    let readings = meter.stop()?;
    let status = if ended.is_some() { process.ended()? } else { process.terminate()? };
    let (last_us, bytes) = match ended {
        // The log of a tool that ends by itself says why if it did not end well.
        Some(at) => {
            ensure!(status.success(), "it ended with {status}\n{}", process.last_lines());
            (at, 0)
        }
        None => verify(bench, backlog, tool)?,
    };
    Ok(run(started.at_us, last_us, acknowledged, &readings, bytes))
}

fn run(from_us: i64, last_us: i64, acknowledged_us: Option<i64>, readings: &Readings, bytes: u64) -> Run {
    #[expect(clippy::cast_precision_loss, reason = "a duration of a run")]
    let since = |at: i64| (at - from_us) as f64 / 1e6;
    #[expect(clippy::cast_precision_loss, reason = "megabytes of a run")]
    let (peak_mib, written_mb) = (readings.peak_kib as f64 / 1024.0, bytes as f64 / 1e6);
    Run {
        seconds: since(last_us),
        acknowledged_s: acknowledged_us.map(since),
        cost: readings.between(from_us, last_us),
        peak_mib,
        threads: readings.threads.clone(),
        written_mb,
    }
}

/// Waits until the tool is done; returns when its acknowledgement reached the slot, where it has that meaning.
async fn wait(
    bench: &Bench,
    backlog: &Backlog,
    tool: Tool,
    process: &mut Process,
    meter: &Meter,
) -> Result<Option<i64>> {
    let deadline = Instant::now() + DRAINED_WITHIN;
    let asking = bench.kafka.asking()?;
    loop {
        match tool {
            Tool::Ceiling(_) if meter.tool_ended_us().is_some() => return Ok(None),
            // Not asked whether it runs: that would make its /proc entry go.
            Tool::Ceiling(_) => {}
            Tool::Highwater(_) => {
                process.still_runs()?;
                if bench.source.has_acknowledged(RUN, &backlog.end).await? {
                    return Ok(Some(now_us()));
                }
            }
            Tool::Debezium(_) => {
                process.still_runs()?;
                let topic = &tool.topics(RUN)[0];
                if Kafka::appended(&asking, topic, PARTITIONS)? >= backlog.rows {
                    return Ok(None);
                }
            }
        }
        if Instant::now() > deadline {
            bail!("it was not done within {DRAINED_WITHIN:?}\n{}", process.last_lines());
        }
        tokio::time::sleep(LOOK).await;
    }
}

/// Reads what was written: every change once, and in order. Returns the last append, and the bytes before compression.
fn verify(bench: &Bench, backlog: &Backlog, tool: Tool) -> Result<(i64, u64)> {
    let (mut last_ms, mut bytes) = (0, 0);
    for topic in tool.topics(RUN) {
        let counted = bench.kafka.count(&topic)?;
        ensure!(counted.rows == backlog.rows, "{topic} holds {} changes of {}", counted.rows, backlog.rows);
        ensure!(counted.out_of_order == 0, "{topic} has {} changes out of order", counted.out_of_order);
        last_ms = last_ms.max(counted.last_ms);
        bytes += counted.bytes;
    }
    Ok((last_ms * 1000, bytes))
}

/// Rows a second.
#[expect(clippy::cast_precision_loss, reason = "a rate for people")]
pub(crate) fn rate(backlog: &Backlog, run: &Run) -> f64 {
    backlog.rows as f64 / run.seconds
}

fn section(bench: &Bench, backlog: &Backlog, outcomes: &[Outcome<Tool, Run>], arguments: &Arguments) -> String {
    let speed = |outcome: &Outcome<Tool, Run>| outcome.median(|run| rate(backlog, run)).map(|median| median.middle);
    let best = |wanted: fn(Tool) -> bool| {
        outcomes.iter().filter(|outcome| wanted(outcome.tool)).filter_map(speed).max_by(f64::total_cmp)
    };
    let ceiling = outcomes.iter().find(|outcome| outcome.tool == Tool::ALL[0]).and_then(speed);
    let debezium = best(|tool| matches!(tool, Tool::Debezium(_)));
    let disturbed = outcomes.iter().flat_map(|outcome| &outcome.runs).map(|run| run.disturbed(bench.machine.cpus));
    let disturbed = disturbed.fold(0.0, f64::max);
    let ratio = |speed: f64, to: Option<f64>| {
        to.filter(|_| disturbed <= QUIET).map_or("–".to_owned(), |to| format!("{:.2}", speed / to))
    };
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            let name = outcome.tool.name();
            let Some(rows_per_s) = outcome.median(|run| rate(backlog, run)) else {
                return vec![name, outcome.why(), String::new(), String::new()];
            };
            let figure = |of: fn(&Run) -> f64, digits: usize| {
                outcome.median(of).map_or_else(String::new, |median| format!("{:.digits$}", median.middle))
            };
            vec![
                name,
                format!("{} ({}–{})", grouped(rows_per_s.middle), grouped(rows_per_s.least), grouped(rows_per_s.most)),
                ratio(rows_per_s.middle, ceiling),
                ratio(rows_per_s.middle, debezium),
                figure(|run| run.cost.tool, 2),
                figure(|run| run.cost.broker, 2),
                figure(|run| run.cost.walsender, 2),
                figure(|run| run.cost.others, 2),
                figure(|run| run.peak_mib, 0),
                figure(|run| run.written_mb, 0),
                Median::of(outcome.runs.iter().filter_map(|run| run.acknowledged_s.map(|s| s - run.seconds)))
                    .map_or_else(|| "–".to_owned(), |median| format!("{:.2}", median.middle)),
            ]
        })
        .collect();
    let head = [
        "tool",
        "rows/s",
        "× ceiling",
        "× Debezium",
        "CPU s",
        "broker",
        "walsender",
        "others",
        "peak MiB",
        "events MB",
        "commit s",
    ];
    let mut text =
        format!("## Drain: {} row changes in transactions of {ROWS_PER_TRANSACTION}\n\n", grouped_count(backlog.rows));
    text += &provenance(&bench.machine);
    text += &explained(backlog, arguments);
    if disturbed > QUIET {
        let _ = write!(
            text,
            "**The machine was not quiet**: in one run other work took {:.0} % of it. The rates stand as measured and are not \
             compared; measure again when nothing else runs.\n\n",
            disturbed * 100.0
        );
    }
    text += &table(&head, &rows);
    text += &threads(outcomes);
    text
}

fn explained(backlog: &Backlog, arguments: &Arguments) -> String {
    format!(
        "{} runs of each, in turns, over copies of one slot on one backlog: half inserts, half updates of `stock_levels` with whole \
         old rows (replica identity FULL), {} bytes of log for a change. Every topic was read afterwards, committed records only, \
         and held every change once (Highwater's also in the order of their Positions).\n\n\
         The clock starts when the server shows the slot as read, and stops at the broker's append of the last record \
         (`pg_recvlogical`: at its end); a tool's start before that is not in it. CPU seconds are user and system of that \
         time, by the clock ticks of /proc; `others` is the rest of the machine, and says how undisturbed the runs were. Peak memory is \
         the tool's `VmHWM`. `events MB` is what it wrote before compression. `× ceiling` is against `pg_recvlogical` over TCP, `× Debezium` against its better \
         configuration. `commit s`: how long after the last record the slot was acknowledged, which Highwater does when all is \
         committed (looked at every {} ms).\n\n\
         Kafka: {PARTITIONS} partitions, one broker, acks=all; lz4 for Highwater and Debezium tuned. {} drains before the first run \
         do not count: they warm the broker's virtual machine, for all tools. Highwater reads no table in a run: it goes on \
         from the progress of the slot that was copied.\n\n",
        arguments.runs,
        backlog.log_bytes / backlog.rows,
        LOOK.as_millis(),
        arguments.warm_ups(WARM_UPS),
    )
}

/// What Highwater's CPU time goes into, by thread, of the run with the median speed.
fn threads(outcomes: &[Outcome<Tool, Run>]) -> String {
    let mut text = String::new();
    for outcome in outcomes {
        let mut runs: Vec<&Run> = outcome.runs.iter().collect();
        runs.sort_by(|a, b| a.seconds.total_cmp(&b.seconds));
        let (Tool::Highwater(_), Some(run)) = (outcome.tool, runs.get(runs.len() / 2)) else { continue };
        let named: Vec<String> =
            run.threads.iter().filter(|(_, s)| *s >= 0.05).map(|(name, s)| format!("{name} {s:.2}")).collect();
        let _ = writeln!(text, "\nCPU seconds by thread, {}: {}.", outcome.tool.name(), named.join(", "));
    }
    text
}
