//! What a measurement was made on: the machine, the commit, the versions. All of it asked, nothing assumed.

use std::path::Path;
use std::process::Command;

use anyhow::{Context, Result};

use crate::source::Source;

pub(crate) struct Machine {
    pub(crate) day: String,
    pub(crate) cpus: f64,
    pub(crate) commit: String,
    pub(crate) hardware: String,
    pub(crate) versions: String,
    pub(crate) command: String,
}

impl Machine {
    pub(crate) async fn read(source: &Source, connect_libs: &Path) -> Result<Self> {
        let dirty = !said("git", &["status", "--porcelain", "--untracked-files=no"])?.is_empty();
        let commit = said("git", &["rev-parse", "--short=12", "HEAD"])? + if dirty { ", with changes" } else { "" };
        let cpus: u32 = std::thread::available_parallelism()?.get().try_into()?;
        let memory = line_value("/proc/meminfo", "MemTotal")?;
        let gib = memory.split_whitespace().next().and_then(|kib| kib.parse::<u64>().ok()).unwrap_or(0) >> 20;
        let model = line_value("/proc/cpuinfo", "model name")?;
        let kernel = said("uname", &["-sr"])?;
        let postgres = source.text("SELECT current_setting('server_version')").await?;
        let rust = said("rustc", &["--version"])?;
        let peers = match jar_version(connect_libs, "debezium-connector-postgres-") {
            Some(debezium) => {
                let kafka = jar_version(connect_libs, "connect-runtime-").unwrap_or_default();
                format!("Debezium {debezium} on Kafka Connect {kafka}, {}", java()?)
            }
            None => format!("Debezium is not in {}", connect_libs.display()),
        };
        let kafka = std::env::var("KAFKA_VERSION").context("KAFKA_VERSION is not set; run scripts/bench-capture")?;
        Ok(Self {
            day: said("date", &["-u", "+%F %H:%M UTC"])?,
            cpus: f64::from(cpus),
            commit,
            hardware: format!("{cpus} CPUs ({model}), {gib} GiB, {kernel}"),
            versions: format!("PostgreSQL {postgres}; Kafka {kafka}; {peers}; {rust}"),
            command: std::env::var("BENCH_COMMAND").unwrap_or_else(|_| std::env::args().collect::<Vec<_>>().join(" ")),
        })
    }
}

/// Version of the jar whose name starts so.
fn jar_version(folder: &Path, start: &str) -> Option<String> {
    std::fs::read_dir(folder).ok()?.flatten().find_map(|entry| {
        let name = entry.file_name().into_string().ok()?;
        Some(name.strip_prefix(start)?.strip_suffix(".jar")?.to_owned())
    })
}

fn java() -> Result<String> {
    // It speaks on standard error.
    let output = Command::new("java").arg("-version").output().context("cannot run java")?;
    let text = String::from_utf8_lossy(&output.stderr);
    Ok(text.lines().nth(1).unwrap_or_default().to_owned())
}

/// What a command prints, without the last line's end.
fn said(program: &str, arguments: &[&str]) -> Result<String> {
    let output = Command::new(program).args(arguments).output().with_context(|| format!("cannot run {program}"))?;
    Ok(String::from_utf8_lossy(&output.stdout).trim().to_owned())
}

/// Value of the first line that starts with `name`, behind its colon.
fn line_value(file: &str, name: &str) -> Result<String> {
    let text = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    let line = text.lines().find(|line| line.starts_with(name)).with_context(|| format!("{file} has no {name}"))?;
    Ok(line.split_once(':').map_or("", |(_, value)| value).trim().to_owned())
}
