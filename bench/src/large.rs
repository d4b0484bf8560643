//! One transaction of millions of changes: how long after its commit the last of them is written, and in how much memory.

use std::fmt::Write as _;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use highwater_demo::Endpoints;

use crate::backlog::{self, fill, progress_at};
use crate::cost::{Cost, Meter, Watched, now_us};
use crate::report::{grouped, provenance, table};
use crate::rounds::{Outcome, take_turns};
use crate::source::Path;
use crate::tools::Tool;
use crate::tools::debezium::Debezium;
use crate::tools::highwater::Highwater;
use crate::topics::Kafka;
use crate::{Arguments, Bench, PARTITIONS};

const RUN: &str = "bench_run";
const LOOK: Duration = Duration::from_millis(100);
/// How long a tool may take from the commit to the last record.
const WRITTEN_WITHIN: Duration = Duration::from_mins(10);

const TOOLS: [Tool; 3] = [
    Tool::Highwater(Highwater::shipped(false, Path::Tcp)),
    Tool::Highwater(Highwater::shipped(true, Path::Tcp)),
    Tool::Debezium(Debezium::Tuned),
];

struct Run {
    /// From the commit to the append of the last record.
    seconds: f64,
    /// From the transaction's first change to its commit.
    transaction_s: f64,
    cost: Cost,
    peak_mib: f64,
}

pub(crate) async fn measure(bench: &Bench, arguments: &Arguments) -> Result<String> {
    let rows = arguments.large_rows;
    let progress = backlog::origin(bench).await?;
    bench.source.drop_slot(backlog::ORIGIN).await?;
    fill(bench, rows).await?;
    let tools = TOOLS.into_iter().filter(|tool| arguments.wants(&tool.name()));
    let told = |run: &Run| format!("last record {:.1} s after the commit, {:.0} MiB", run.seconds, run.peak_mib);
    let run = async |tool| run(bench, tool, &progress, rows).await;
    let outcomes = take_turns(tools, arguments.runs, Tool::name, run, told).await;
    bench.clean(RUN).await?;
    Ok(section(bench, &outcomes, arguments))
}

async fn run(bench: &Bench, tool: Tool, progress: &backlog::Progress, rows: u64) -> Result<Run> {
    bench.clean(RUN).await?;
    // The dead rows of the run before.
    bench.source.client.batch_execute("VACUUM stock_levels").await?;
    bench.source.client.batch_execute("CHECKPOINT").await?;
    let at = bench.source.make_slot(RUN).await?;
    let mut process = tool.start(bench, &progress_at(progress, &at)?, &at, RUN, RUN).await?;
    let started = bench.source.streaming(RUN, &mut process).await?;
    let meter = Meter::start(Watched { tool: process.pid(), broker: bench.broker, walsender: started.walsender });
    let writer = Endpoints::connect(&bench.source.endpoints.admin_database).await?;
    let began = now_us();
    writer
        .batch_execute("UPDATE stock_levels SET current_stock = current_stock + 1, version = version + 1")
        .await
        .context("the transaction failed")?;
    let committed = now_us();
    let end = bench.source.text("SELECT pg_current_wal_flush_lsn()").await?;
    let deadline = Instant::now() + WRITTEN_WITHIN;
    let asking = bench.kafka.asking()?;
    loop {
        process.still_runs()?;
        let done = match tool {
            Tool::Highwater(_) => bench.source.has_acknowledged(RUN, &end).await?,
            _ => Kafka::appended(&asking, &tool.topics(RUN)[0], PARTITIONS)? >= rows,
        };
        if done {
            break;
        }
        if Instant::now() > deadline {
            bail!("it was not done within {WRITTEN_WITHIN:?}\n{}", process.last_lines());
        }
        tokio::time::sleep(LOOK).await;
    }
    let readings = meter.stop()?;
    process.terminate()?;
    let mut last_us = 0;
    for topic in tool.topics(RUN) {
        let counted = bench.kafka.count(&topic)?;
        ensure!(counted.rows == rows, "{topic} holds {} changes of {rows}", counted.rows);
        ensure!(counted.out_of_order == 0, "{topic} has {} changes out of order", counted.out_of_order);
        last_us = last_us.max(counted.last_ms * 1000);
    }
    #[expect(clippy::cast_precision_loss, reason = "durations and sizes of a run")]
    Ok(Run {
        seconds: (last_us - committed) as f64 / 1e6,
        transaction_s: (committed - began) as f64 / 1e6,
        cost: readings.between(began, last_us),
        peak_mib: readings.peak_kib as f64 / 1024.0,
    })
}

fn section(bench: &Bench, outcomes: &[Outcome<Tool, Run>], arguments: &Arguments) -> String {
    let head = ["tool", "last record after s", "transaction s", "CPU s", "broker", "walsender", "others", "peak MiB"];
    let rows: Vec<Vec<String>> = outcomes
        .iter()
        .map(|outcome| {
            if outcome.failure.is_some() {
                return vec![outcome.tool.name(), outcome.why()];
            }
            let cell = |of: fn(&Run) -> f64, digits: usize| {
                outcome.median(of).map_or_else(String::new, |median| median.spread(digits))
            };
            vec![
                outcome.tool.name(),
                cell(|run| run.seconds, 1),
                cell(|run| run.transaction_s, 1),
                cell(|run| run.cost.tool, 1),
                cell(|run| run.cost.broker, 1),
                cell(|run| run.cost.walsender, 1),
                cell(|run| run.cost.others, 1),
                cell(|run| run.peak_mib, 0),
            ]
        })
        .collect();
    #[expect(clippy::cast_precision_loss, reason = "a number for people")]
    let changes = grouped(arguments.large_rows as f64);
    let mut text = format!("## One transaction of {changes} updates\n\n");
    text += &provenance(&bench.machine);
    let _ = write!(
        text,
        "{} runs of each, in turns. One statement updates every row of `stock_levels` (replica identity FULL) while the tool reads the \
         slot. The seconds count from the moment at which the writer is told of its commit to the broker's append of the last record; \
         CPU seconds from the transaction's first change on. Every topic was read afterwards and held every change once.\n\n",
        arguments.runs
    );
    text + &table(&head, &rows)
}
