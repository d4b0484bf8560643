//! The binary as users run it: a process of its own, with its configuration in config.toml and the environment.

use std::fs::File;
use std::path::PathBuf;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

use crate::shop::{Shop, within_a_minute};
use crate::stack::{SHOPS, Variables, root};

/// A running `highwater run`; it ends with the test.
pub(crate) struct Pipeline {
    child: Child,
    log: PathBuf,
    operate: String,
}

/// Returns the binary with a clean environment but for these variables.
pub(crate) fn highwater(variables: &Variables) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_highwater"));
    command.current_dir(root()).env_clear().stdin(Stdio::null());
    let ours = |name: &str| {
        let of_the_stack = ["HIGHWATER_STACK_DIR", "HIGHWATER_PASSWORD"];
        name.starts_with("HIGHWATER_") && !of_the_stack.contains(&name)
    };
    command.envs(variables.iter().filter(|(name, _)| ours(name)));
    command
}

impl Pipeline {
    /// Starts it without waiting.
    pub(crate) fn start(shop: &Shop, roles: &[&str]) -> Self {
        Self::start_with(shop, roles, &shop.endpoints.variables)
    }

    /// Starts it with other settings than the shop's.
    pub(crate) fn start_with(shop: &Shop, roles: &[&str], variables: &Variables) -> Self {
        let folder = SHOPS.path().join("log");
        std::fs::create_dir_all(&folder).expect("a folder for logs");
        let log = folder.join(format!("{}.log", shop.endpoints.topic_prefix));
        let file = File::options().create(true).append(true).open(&log).expect("a log file");
        let child = highwater(variables)
            .arg("run")
            .args(roles)
            .stdout(Stdio::null())
            .stderr(file)
            .spawn()
            .expect("the binary starts");
        Self { child, log, operate: variables["HIGHWATER_OPERATE_LISTEN"].clone() }
    }

    /// Waits until `/readyz` says that every role does its work.
    pub(crate) async fn is_ready(&mut self) {
        let address = self.operate.clone();
        let mut answer = None;
        let ready = within_a_minute(async || {
            if let Ok(Some(status)) = self.child.try_wait() {
                panic!("the pipeline ended with {status}:\n{}", self.last_lines());
            }
            answer = get(&address, "/readyz").await;
            answer.as_ref().is_some_and(|answer| answer.starts_with("HTTP/1.1 200"))
        })
        .await;
        assert!(ready, "not ready within a minute; /readyz says {answer:?}, and the log:\n{}", self.last_lines());
    }

    /// Returns the most memory that it has had so far, KiB.
    pub(crate) fn peak_memory_kib(&self) -> u64 {
        let status = std::fs::read_to_string(format!("/proc/{}/status", self.child.id())).expect("it runs");
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).expect("the kernel tells it");
        line.trim().trim_end_matches(" kB").parse().expect("a number")
    }

    /// Returns the sum of a metric over its labels, of those that contain `label`; zero while there is none.
    pub(crate) async fn metric(&self, name: &str, label: &str) -> f64 {
        let text = get(&self.operate, "/metrics").await.unwrap_or_default();
        let is_it = |line: &&str| line.starts_with(&format!("{name}{{")) || line.starts_with(&format!("{name} "));
        let values = text.lines().filter(is_it).filter(|line| line.contains(label));
        values.filter_map(|line| line.rsplit(' ').next()?.parse::<f64>().ok()).sum()
    }

    /// Ends it as a power cut would.
    pub(crate) fn kill(mut self) {
        self.child.kill().expect("the process is killed");
        self.child.wait().expect("the process ends");
    }

    /// Asks it to drain, and returns how it ended.
    pub(crate) fn terminate(&mut self) -> ExitStatus {
        self.signal("TERM");
        self.ended()
    }

    /// Sends it a signal, such as `STOP`.
    pub(crate) fn signal(&self, signal: &str) {
        let sent = Command::new("kill").args([&format!("-{signal}"), &self.child.id().to_string()]).status();
        assert!(sent.expect("kill runs").success(), "no {signal}");
    }

    /// Waits for its end.
    pub(crate) fn ended(&mut self) -> ExitStatus {
        let deadline = Instant::now() + Duration::from_secs(40);
        loop {
            if let Some(status) = self.child.try_wait().expect("the process can be asked") {
                return status;
            }
            assert!(Instant::now() < deadline, "the process did not end:\n{}", self.log());
            std::thread::sleep(Duration::from_millis(20));
        }
    }

    /// Returns everything that it and its predecessors of this shop have logged.
    pub(crate) fn log(&self) -> String {
        std::fs::read_to_string(&self.log).unwrap_or_default()
    }

    /// Returns the end of it, for the message of a test that fails.
    pub(crate) fn last_lines(&self) -> String {
        let log = self.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(60)..].join("\n")
    }
}

impl Drop for Pipeline {
    fn drop(&mut self) {
        // It may have ended already, which is what is wanted.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

/// Asks an HTTP server of this machine; `None` while it does not answer.
pub(crate) async fn get(address: &str, path: &str) -> Option<String> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await.ok()?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.ok()?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer).await.ok()?;
    Some(answer)
}
