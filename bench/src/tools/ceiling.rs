//! PostgreSQL's own client, which throws everything away: what no tool that reads one slot can pass.

use std::path::PathBuf;
use std::process::Command;

use anyhow::{Context, Result};

use crate::Bench;
use crate::process::Process;
use crate::source::Path;

/// Reads the slot until the end of the backlog, and ends then.
pub(crate) fn start(bench: &Bench, path: Path, slot: &str, end: &str) -> Result<Process> {
    let source = &bench.source;
    let host = match path {
        Path::Tcp => "127.0.0.1",
        Path::Socket => source.variable("PRIMARY_SOCKET_DIR")?,
    };
    let folder = std::env::var("PG_BIN").map(PathBuf::from).context("PG_BIN is not set; run scripts/bench-capture")?;
    let mut command = Command::new(folder.join("pg_recvlogical"));
    command
        .args(["--start", "--file=/dev/null", "--fsync-interval=0", "--no-loop", "--username=highwater_capture"])
        .args([format!("--slot={slot}"), format!("--endpos={end}"), format!("--host={host}")])
        .arg(format!("--port={}", source.variable("PRIMARY_PORT")?))
        .args(["--dbname=shop", "--option=proto_version=1", "--option=publication_names=highwater"])
        .env("PGPASSWORD", source.variable("HIGHWATER_SOURCE_PASSWORD")?);
    Process::spawn(&mut command, &bench.folder.join("pg_recvlogical.log"))
}
