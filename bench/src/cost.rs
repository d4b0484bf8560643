//! What processes use of the machine, read from /proc beside them (proc(5)).

use std::collections::BTreeMap;
use std::fs;
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result, anyhow};

/// Pause between two looks.
const LOOK: Duration = Duration::from_millis(10);

/// Microseconds since 1970.
pub(crate) fn now_us() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX)
}

/// The processes of one run.
#[derive(Clone, Copy)]
pub(crate) struct Watched {
    pub(crate) tool: u32,
    pub(crate) broker: u32,
    pub(crate) walsender: u32,
}

/// CPU time so far, in clock ticks.
#[derive(Clone, Copy, Default)]
struct Sample {
    at_us: i64,
    tool: u64,
    broker: u64,
    walsender: u64,
    machine: u64,
}

/// What a run cost: seconds of CPU, user and system together.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Cost {
    pub(crate) tool: f64,
    pub(crate) broker: f64,
    pub(crate) walsender: f64,
    /// Of everything else on the machine, this measuring among it: how undisturbed the run was.
    pub(crate) others: f64,
}

/// Looks at a run's processes until it is stopped.
pub(crate) struct Meter {
    watched: Watched,
    stop: Arc<AtomicBool>,
    /// When the tool was seen to have ended; 0 before.
    ended: Arc<AtomicI64>,
    peak_kib: Arc<AtomicI64>,
    thread: JoinHandle<Vec<Sample>>,
    threads_before: BTreeMap<String, u64>,
}

/// What a meter saw.
pub(crate) struct Readings {
    samples: Vec<Sample>,
    /// Most memory that the tool had resident since its start, in KiB (`VmHWM`).
    pub(crate) peak_kib: i64,
    /// CPU seconds of the tool's threads by name, most first.
    pub(crate) threads: Vec<(String, f64)>,
    ticks_per_s: f64,
}

impl Meter {
    pub(crate) fn start(watched: Watched) -> Self {
        let (stop, ended) = (Arc::new(AtomicBool::new(false)), Arc::new(AtomicI64::new(0)));
        let peak_kib = Arc::new(AtomicI64::new(0));
        let threads_before = threads(watched.tool);
        let thread = {
            let (stop, ended, peak) = (Arc::clone(&stop), Arc::clone(&ended), Arc::clone(&peak_kib));
            std::thread::spawn(move || look(watched, &stop, &ended, &peak))
        };
        Self { watched, stop, ended, peak_kib, thread, threads_before }
    }

    /// When the tool ended, if it has. It must not have been waited for: what it used is gone then.
    pub(crate) fn tool_ended_us(&self) -> Option<i64> {
        Some(self.ended.load(Ordering::Relaxed)).filter(|&at| at != 0)
    }

    pub(crate) fn stop(self) -> Result<Readings> {
        let ticks_per_s = ticks_per_second()?;
        let mut used: Vec<(String, f64)> = threads(self.watched.tool)
            .into_iter()
            .map(|(name, ticks)| {
                let before = self.threads_before.get(&name).copied().unwrap_or(0);
                (name, seconds(ticks.saturating_sub(before), ticks_per_s))
            })
            .collect();
        used.sort_by(|a, b| b.1.total_cmp(&a.1));
        self.stop.store(true, Ordering::Relaxed);
        let samples = self.thread.join().map_err(|_| anyhow!("the meter's thread panicked"))?;
        Ok(Readings { samples, peak_kib: self.peak_kib.load(Ordering::Relaxed), threads: used, ticks_per_s })
    }
}

impl Readings {
    /// What was used between two moments, in microseconds since 1970.
    pub(crate) fn between(&self, from_us: i64, to_us: i64) -> Cost {
        let at = |moment: i64| {
            let after = self.samples.iter().find(|sample| sample.at_us >= moment);
            after.or(self.samples.last()).copied().unwrap_or_default()
        };
        let (from, to) = (at(from_us), at(to_us));
        let used = |of: fn(&Sample) -> u64| seconds(of(&to).saturating_sub(of(&from)), self.ticks_per_s);
        let (tool, broker, walsender) = (used(|s| s.tool), used(|s| s.broker), used(|s| s.walsender));
        let others = (used(|s| s.machine) - tool - broker - walsender).max(0.0);
        Cost { tool, broker, walsender, others }
    }
}

fn look(watched: Watched, stop: &AtomicBool, ended: &AtomicI64, peak: &AtomicI64) -> Vec<Sample> {
    let mut samples: Vec<Sample> = Vec::new();
    while !stop.load(Ordering::Relaxed) {
        let last = samples.last().copied().unwrap_or_default();
        let at_us = now_us();
        let tool = process_stat(watched.tool);
        if tool.is_none_or(|(state, _)| state == 'Z') && ended.load(Ordering::Relaxed) == 0 {
            ended.store(at_us, Ordering::Relaxed);
        }
        if let Some(kib) = peak_kib(watched.tool) {
            peak.fetch_max(kib, Ordering::Relaxed);
        }
        // A process that is gone used what it was last seen to have used.
        samples.push(Sample {
            at_us,
            tool: tool.map_or(last.tool, |(_, ticks)| ticks),
            broker: process_stat(watched.broker).map_or(last.broker, |(_, ticks)| ticks),
            walsender: process_stat(watched.walsender).map_or(last.walsender, |(_, ticks)| ticks),
            machine: machine_busy().unwrap_or(last.machine),
        });
        std::thread::sleep(LOOK);
    }
    samples
}

/// State and CPU ticks of a process or thread, from the text of its `stat`.
fn parse_stat(text: &str) -> Option<(char, u64)> {
    // The name, in parentheses, may hold spaces and parentheses itself.
    let fields: Vec<&str> = text.rsplit_once(')')?.1.split_whitespace().collect();
    let number = |at: usize| fields.get(at)?.parse::<u64>().ok();
    Some((fields.first()?.chars().next()?, number(11)? + number(12)?))
}

fn process_stat(pid: u32) -> Option<(char, u64)> {
    parse_stat(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
}

fn peak_kib(pid: u32) -> Option<i64> {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).ok()?;
    let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:"))?;
    line.split_whitespace().next()?.parse().ok()
}

/// Ticks in which any CPU was busy: all of the first line but idle and iowait; guests are in user.
fn machine_busy() -> Option<u64> {
    let text = fs::read_to_string("/proc/stat").ok()?;
    let numbers: Vec<u64> = text.lines().next()?.split_whitespace().skip(1).flat_map(str::parse).collect();
    Some(numbers.iter().take(8).enumerate().filter(|(at, _)| *at != 3 && *at != 4).map(|(_, ticks)| ticks).sum())
}

/// Ticks of the threads of a process, those of one name together.
fn threads(pid: u32) -> BTreeMap<String, u64> {
    let mut all = BTreeMap::new();
    let Ok(tasks) = fs::read_dir(format!("/proc/{pid}/task")) else { return all };
    for task in tasks.flatten() {
        let stat = fs::read_to_string(task.path().join("stat")).unwrap_or_default();
        let name = fs::read_to_string(task.path().join("comm")).unwrap_or_default();
        if let Some((_, ticks)) = parse_stat(&stat) {
            *all.entry(name.trim().to_owned()).or_default() += ticks;
        }
    }
    all
}

fn ticks_per_second() -> Result<f64> {
    let output = Command::new("getconf").arg("CLK_TCK").output().context("cannot run getconf")?;
    String::from_utf8_lossy(&output.stdout).trim().parse().context("getconf CLK_TCK is no number")
}

#[expect(clippy::cast_precision_loss, reason = "ticks of one run")]
fn seconds(ticks: u64, per_second: f64) -> f64 {
    ticks as f64 / per_second
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_whose_name_holds_parentheses_is_read() {
        let text = "7 (a) (b) S 1 7 7 0 -1 4194560 1 0 0 0 30 12 0 0 20 0 1 0 100 0 0";
        assert_eq!(parse_stat(text), Some(('S', 42)));
    }

    #[test]
    fn what_was_used_between_two_moments_is_of_the_samples_at_or_after_them() {
        let sample = |at_us, tool| Sample { at_us, tool, broker: 0, walsender: 0, machine: 2 * tool };
        let samples = vec![sample(10, 100), sample(20, 200), sample(30, 500)];
        let readings = Readings { samples, peak_kib: 0, threads: Vec::new(), ticks_per_s: 100.0 };
        let cost = readings.between(15, 30);
        assert!((cost.tool - 3.0).abs() < 1e-9 && (cost.others - 3.0).abs() < 1e-9, "{cost:?}");
    }
}
