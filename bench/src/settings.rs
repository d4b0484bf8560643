//! What two promises cost: the length of a Kafka transaction, which readers of committed records wait for, and the wait until
//! the primary shows a commit. Drain and steady load, with Highwater alone.

use std::fmt::Write as _;
use std::time::Duration;

use anyhow::Result;

use crate::backlog::{Backlog, ROWS_PER_TRANSACTION};
use crate::report::{grouped, grouped_count, provenance, table};
use crate::rounds::{Outcome, take_turns, warm_up};
use crate::source::Path;
use crate::tools::Tool;
use crate::tools::highwater::{Highwater, Setting};
use crate::{Arguments, Bench, drain, latency};

const SETTINGS: [Setting; 5] = [
    Setting::Shipped,
    Setting::Transactions { ms: 100, records: 5_000 },
    Setting::Transactions { ms: 500, records: 25_000 },
    Setting::Transactions { ms: 10_000, records: 500_000 },
    Setting::Ahead,
];

fn tool(setting: Setting) -> Tool {
    Tool::Highwater(Highwater { setting, ..Highwater::shipped(true, Path::Tcp) })
}

pub(crate) async fn measure(bench: &Bench, arguments: &Arguments) -> Result<String> {
    let wanted = || SETTINGS.into_iter().filter(|setting| arguments.wants(&tool(*setting).name()));
    let backlog = Backlog::write(bench, arguments).await?;
    warm_up(arguments.warm_ups(drain::WARM_UPS), async || drain::drain(bench, &backlog, drain::WARM_UP).await).await;
    let drained = {
        let run = async |setting| drain::drain(bench, &backlog, tool(setting)).await;
        let told = |run: &drain::Run| format!("{} rows/s", grouped(drain::rate(&backlog, run)));
        take_turns(wanted(), arguments.runs, Setting::name, run, told).await
    };
    let progress = latency::prepare(bench).await?;
    let seconds = Duration::from_secs(arguments.seconds);
    let run = async |setting| latency::run(bench, tool(setting), &progress, seconds).await;
    let steady = take_turns(wanted(), arguments.runs, Setting::name, run, latency::Run::told).await;
    bench.clean(latency::RUN).await?;
    Ok(section(bench, &backlog, &drained, &steady, arguments))
}

fn section(
    bench: &Bench,
    backlog: &Backlog,
    drained: &[Outcome<Setting, drain::Run>],
    steady: &[Outcome<Setting, latency::Run>],
    arguments: &Arguments,
) -> String {
    let head = [
        "setting",
        "drain, rows/s",
        "CPU s",
        "broker",
        "uncommitted p50",
        "p99",
        "committed p50",
        "p99",
        "CPU s",
        "broker",
    ];
    let row = |(drained, steady): (&Outcome<Setting, drain::Run>, &Outcome<Setting, latency::Run>)| {
        let drain = |of: &dyn Fn(&drain::Run) -> f64, digits: usize| {
            drained.median(of).map_or_else(|| drained.why(), |median| format!("{:.digits$}", median.middle))
        };
        let load =
            |of: fn(&latency::Run) -> f64| steady.median(of).map_or_else(|| steady.why(), |median| median.spread(2));
        let rate = drained.median(|run| drain::rate(backlog, run)).map_or_else(
            || drained.why(),
            |rate| format!("{} ({}–{})", grouped(rate.middle), grouped(rate.least), grouped(rate.most)),
        );
        vec![
            drained.tool.name(),
            rate,
            drain(&|run| run.cost.tool, 2),
            drain(&|run| run.cost.broker, 2),
            load(|run| latency::percentile(&run.uncommitted, 0.50)),
            load(|run| latency::percentile(&run.uncommitted, 0.99)),
            load(|run| latency::percentile(&run.committed, 0.50)),
            load(|run| latency::percentile(&run.committed, 0.99)),
            load(|run| run.cost.tool),
            load(|run| run.cost.broker),
        ]
    };
    let rows: Vec<Vec<String>> = drained.iter().zip(steady).map(row).collect();
    let mut text = "## Settings: the length of a Kafka transaction, and visible first\n\n".to_owned();
    text += &provenance(&bench.machine);
    let _ = write!(
        text,
        "{} runs of each, in turns, Highwater alone, history on, over TCP. Drain: {} row changes in transactions of {ROWS_PER_TRANSACTION}, as \
         above, behind {} drains that do not count. Latency and the CPU seconds behind it: {} commits a second for {} s, as above, in \
         milliseconds. As shipped, a transaction lasts 2 s or 100,000 records. All that is drained is visible long before; what is \
         waited for shows under the steady load alone.\n\n",
        arguments.runs,
        grouped_count(backlog.rows),
        arguments.warm_ups(drain::WARM_UPS),
        latency::COMMITS_PER_S,
        arguments.seconds,
    );
    text + &table(&head, &rows)
}
