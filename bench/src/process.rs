//! A tool as a child process: its output in a file, told to end politely.

use std::fs::File;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};

/// How long a tool may take to end before it is killed.
const ENDS_WITHIN: Duration = Duration::from_secs(30);
const LOOK: Duration = Duration::from_millis(20);
/// Lines of the log that an error shows.
const LAST_LINES: usize = 12;

pub(crate) struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts the command with its output in `log`.
    pub(crate) fn spawn(command: &mut Command, log: &Path) -> Result<Self> {
        let output = File::create(log).with_context(|| format!("cannot write {}", log.display()))?;
        let program = command.get_program().to_string_lossy().into_owned();
        let child = command
            .stdin(Stdio::null())
            .stdout(output.try_clone()?)
            .stderr(output)
            .spawn()
            .with_context(|| format!("cannot start {program}"))?;
        Ok(Self { child, log: log.to_owned() })
    }

    pub(crate) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Fails if the process has ended. It is gone from /proc then.
    pub(crate) fn still_runs(&mut self) -> Result<()> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => bail!("it ended: {status}\n{}", self.last_lines()),
        }
    }

    /// Asks it to end, and waits.
    pub(crate) fn terminate(&mut self) -> Result<ExitStatus> {
        // The standard library can only kill outright.
        Command::new("kill").args(["-TERM", &self.pid().to_string()]).status().context("cannot run kill")?;
        self.ended()
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> Result<ExitStatus> {
        let deadline = Instant::now() + ENDS_WITHIN;
        while Instant::now() < deadline {
            if let Some(status) = self.child.try_wait()? {
                return Ok(status);
            }
            std::thread::sleep(LOOK);
        }
        self.child.kill()?;
        self.child.wait()?;
        bail!("it did not end within {ENDS_WITHIN:?} and was killed\n{}", self.last_lines())
    }

    pub(crate) fn last_lines(&self) -> String {
        let text = std::fs::read_to_string(&self.log).unwrap_or_default();
        let lines: Vec<&str> = text.lines().collect();
        let from = lines.len().saturating_sub(LAST_LINES);
        format!("the end of {}:\n{}", self.log.display(), lines[from..].join("\n"))
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}
