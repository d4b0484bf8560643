//! The table on the terminal.

use std::fmt::Write as _;
use std::time::Duration;

use crate::ledger::Copy;
use crate::observe::Quantiles;
use crate::write::Summary;

/// A change that a copy has not shown after this long counts as missing.
pub(super) const MISSING_AFTER: Duration = Duration::from_secs(5);

/// One line: what a copy shows.
pub(super) struct Line {
    pub(super) copy: Copy,
    pub(super) latency: Quantiles,
    pub(super) per_second: f64,
    pub(super) missing: usize,
}

/// Draws the table.
pub(super) fn draw(running: Duration, page: &str, writes: &Summary, per_second: f64, lines: &[Line]) -> String {
    let mut text = String::new();
    let (minutes, seconds) = (running.as_secs() / 60, running.as_secs() % 60);
    let missing: usize = lines.iter().map(|line| line.missing).sum();
    let lost = if missing == 0 { "nothing lost so far".to_owned() } else { format!("{missing} stock levels missing") };
    // Writing to a String cannot fail.
    let _ = writeln!(text, "Highwater  {minutes:02}:{seconds:02}   page {page}   {lost}");
    let Summary { committed, changes, rolled_back, conflicts, failed, .. } = writes;
    let _ = writeln!(
        text,
        "writes     {per_second:.0}/s   {committed} committed, {changes} rows changed, {rolled_back} rolled back, \
         {conflicts} conflicts, {failed} failed"
    );
    let _ = writeln!(text);
    let _ = writeln!(
        text,
        "{:<18}{:>10}{:>12}{:>11}{:>11}{:>11}{:>13}",
        "commit →", "changes/s", "measured", "p50", "p99", "max", "missing >5s"
    );
    for line in lines {
        let Quantiles { count, p50, p99, max } = line.latency;
        let _ = writeln!(
            text,
            "{:<18}{:>10.0}{count:>12}{:>11}{:>11}{:>11}{:>13}",
            name(line.copy),
            line.per_second,
            millis(p50),
            millis(p99),
            millis(max),
            line.missing
        );
    }
    text
}

fn name(copy: Copy) -> &'static str {
    match copy {
        Copy::Kafka => "Kafka",
        Copy::Redis => "Redis (stock)",
        Copy::Audit => "audit row",
        Copy::Browser => "browser",
    }
}

fn millis(took: Duration) -> String {
    format!("{:.1} ms", took.as_secs_f64() * 1000.0)
}
