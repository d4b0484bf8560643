//! The pipeline as a child process: the `highwater` binary that stands beside this one.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::Stdio;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use tokio::process::{Child, Command};

use super::http;
use crate::Endpoints;

/// How long the pipeline may take to be ready; the first start reads the whole catalogue.
const READY_WITHIN: Duration = Duration::from_mins(3);
/// How long it may take to drain.
const DRAINED_WITHIN: Duration = Duration::from_secs(30);
/// How often a wait looks again.
const LOOK: Duration = Duration::from_millis(100);
/// Lines of the log that are shown when the pipeline fails.
const LAST_LINES: usize = 15;

pub(super) struct Pipeline {
    child: Child,
    log: PathBuf,
}

impl Pipeline {
    /// Starts the pipeline with the stack's addresses in its environment; it logs to a file.
    pub(super) fn start(endpoints: &Endpoints, config: &Path, page_origin: &str) -> Result<Self> {
        let binary = std::env::current_exe()?.with_file_name("highwater");
        let folder = endpoints.variables.get("HIGHWATER_STACK_DIR").map_or_else(|| PathBuf::from("."), PathBuf::from);
        let log = folder.join("log").join("highwater.log");
        if let Some(folder) = log.parent() {
            std::fs::create_dir_all(folder).with_context(|| format!("cannot make {}", folder.display()))?;
        }
        let output = File::create(&log).with_context(|| format!("cannot write {}", log.display()))?;
        let child = Command::new(&binary)
            .args(["run".as_ref(), "--config".as_ref(), config.as_os_str()])
            .envs(&endpoints.variables)
            .env("HIGHWATER_STOREFRONT_LISTEN", endpoints.storefront.trim_start_matches("http://"))
            .env("HIGHWATER_OPERATE_LISTEN", endpoints.operate.trim_start_matches("http://"))
            .env("HIGHWATER_STOREFRONT_ORIGINS", page_origin)
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            // Ctrl-C reaches this process; the child is told afterwards, so that it still drains what was written.
            .process_group(0)
            .kill_on_drop(true)
            .spawn()
            .with_context(|| format!("cannot start {}: build it first", binary.display()))?;
        Ok(Self { child, log })
    }

    /// Waits until the pipeline says that it is ready.
    pub(super) async fn ready(&mut self, endpoints: &Endpoints) -> Result<()> {
        let deadline = Instant::now() + READY_WITHIN;
        loop {
            self.still_runs()?;
            // Nobody may listen yet.
            let answer = http::get(&endpoints.operate, "/readyz").await;
            if matches!(answer, Ok((200, _))) {
                return Ok(());
            }
            if Instant::now() > deadline {
                let said =
                    answer.map_or_else(|error| format!("{error:#}"), |(status, body)| format!("{status} {body}"));
                bail!("the pipeline is not ready after {READY_WITHIN:?}: {said}\n{}", self.last_lines());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Fails if the pipeline has ended.
    pub(super) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("the pipeline ended: {status}\n{}", self.last_lines()),
        }
    }

    /// Lets the pipeline drain and end.
    pub(super) async fn stop(mut self) -> Result<()> {
        let Some(id) = self.child.id() else { return Ok(()) };
        // The standard library can only kill outright.
        Command::new("kill").args(["-TERM", &id.to_string()]).status().await.context("cannot run kill")?;
        match tokio::time::timeout(DRAINED_WITHIN, self.child.wait()).await {
            Ok(status) => {
                let status = status?;
                if !status.success() {
                    bail!("the pipeline did not end well: {status}\n{}", self.last_lines());
                }
                Ok(())
            }
            Err(_) => bail!("the pipeline did not end within {DRAINED_WITHIN:?}: killed\n{}", self.last_lines()),
        }
    }

    fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        format!("the end of {}:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}
