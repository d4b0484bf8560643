//! The start: what is refused, what is waited for, and what an operator reads. No server runs here.

use std::net::TcpListener;
use std::path::Path;
use std::process::{Child, Command, Output, Stdio};

use crate::process::{get, highwater};
use crate::shop::eventually;
use crate::stack::Variables;

/// A password that no output may show.
const SECRET: &str = "correct-horse-battery-staple";

/// Returns settings by which every server is at a port that nobody listens on.
fn nobody_listens() -> Variables {
    // Bound and dropped again: free a moment ago, and not among the ports that the system hands out next.
    let free = || TcpListener::bind("127.0.0.1:0").and_then(|listener| listener.local_addr()).expect("a free port");
    let (postgres, redis, kafka, operate) = (free(), free(), free(), free());
    let pairs = [
        ("HIGHWATER_SOURCE_DATABASE", format!("postgresql://reader@{postgres}/shop")),
        ("HIGHWATER_SOURCE_PASSWORD", SECRET.to_owned()),
        ("HIGHWATER_AUDIT_DATABASE", format!("postgresql://writer:{SECRET}@{postgres}/shop")),
        ("HIGHWATER_CACHE_SERVER", format!("redis://{redis}")),
        ("HIGHWATER_CACHE_PASSWORD", SECRET.to_owned()),
        ("HIGHWATER_TOPICS_BROKERS", kafka.to_string()),
        ("HIGHWATER_OPERATE_LISTEN", operate.to_string()),
        ("HIGHWATER_OPERATE_START_RETRY_MS", "100".to_owned()),
        ("HIGHWATER_OPERATE_START_DEADLINE_S", "4".to_owned()),
    ];
    pairs.map(|(name, value)| (name.to_owned(), value)).into()
}

fn text(output: &Output) -> String {
    format!("{}{}", String::from_utf8_lossy(&output.stdout), String::from_utf8_lossy(&output.stderr))
}

fn run(variables: &Variables, arguments: &[&str]) -> (Option<i32>, String) {
    let output = highwater(variables).args(arguments).output().expect("the binary runs");
    let text = text(&output);
    assert!(!text.contains(SECRET), "a secret shows:\n{text}");
    assert!(!text.contains("panicked"), "{text}");
    (output.status.code(), text)
}

/// A process that waits for servers; it ends with the test.
struct Waiting(Option<Child>);

impl Waiting {
    fn start(variables: &Variables) -> Self {
        let mut command = highwater(variables);
        // Its few lines fit into the pipes until they are read at its end.
        let child = command.arg("run").stdout(Stdio::piped()).stderr(Stdio::piped()).spawn();
        Self(Some(child.expect("the binary starts")))
    }

    /// Asks it to drain, and returns how it ended and what it said.
    fn terminate(&mut self) -> (Option<i32>, String) {
        let child = self.0.take().expect("it is ended once");
        let asked = Command::new("kill").args(["-TERM", &child.id().to_string()]).status();
        assert!(asked.expect("kill runs").success());
        let output = child.wait_with_output().expect("the process ends");
        (output.status.code(), text(&output))
    }
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(child) = &mut self.0 {
            // It may have ended already, which is what is wanted.
            let _ = child.kill();
            let _ = child.wait();
        }
    }
}

fn written(folder: &Path, text: &str) -> String {
    let path = folder.join("config.toml");
    std::fs::write(&path, text).expect("a file");
    path.display().to_string()
}

#[test]
fn a_wrong_configuration_is_refused_with_every_error_its_line_and_the_nearest_name() {
    let folder = tempfile::tempdir().expect("a folder");
    let config = written(folder.path(), "[sorce]\n[capture]\nmark_sm = 5\nlinger_ms = \"x\"\n");
    let (code, text) = run(&Variables::new(), &["run", "--config", &config]);
    assert_eq!(code, Some(2), "{text}");
    let expected = format!(
        "{config} is refused, 3 errors:\n  \
         {config}:1: [sorce]: there is no such section; did you mean `source`?\n  \
         {config}:3: capture.mark_sm: there is no such setting; did you mean `mark_ms`?\n  \
         {config}:4: capture.linger_ms: found the text \"x\"; expected milliseconds from 0 to 1000\n"
    );
    assert_eq!(text, expected);
}

#[test]
fn a_missing_configuration_says_what_was_looked_for() {
    let folder = tempfile::tempdir().expect("a folder");
    let path = folder.path().join("absent.toml").display().to_string();
    let variables = Variables::from([("HIGHWATER_CONFIG".to_owned(), path.clone())]);
    let (code, text) = run(&variables, &["run"]);
    assert_eq!(code, Some(2));
    assert!(text.contains(&format!("cannot read {path}: No such file")), "{text}");
}

#[test]
fn a_server_that_is_down_is_named_with_its_address_tried_again_and_given_up_at_the_deadline() {
    let variables = nobody_listens();
    let audit = variables["HIGHWATER_SOURCE_DATABASE"].replace("reader", "writer");
    let servers = [
        ("capture", "PostgreSQL", &variables["HIGHWATER_SOURCE_DATABASE"], "source.database"),
        ("cache", "Redis", &variables["HIGHWATER_CACHE_SERVER"], "cache.server"),
        ("audit", "PostgreSQL", &audit, "audit.database"),
    ];
    for (role, server, address, setting) in servers {
        let (code, text) = run(&variables, &["run", role]);
        assert_eq!(code, Some(1), "{text}");
        let tries: Vec<_> =
            text.lines().filter(|line| line.contains("server does not answer, will try again")).collect();
        assert!(tries.len() >= 2, "{text}");
        let says = [format!("server=\"{server}\""), format!("address=\"{address}\""), "attempt=1".to_owned()];
        assert!(says.iter().all(|part| tries[0].contains(part)), "{text}");
        let last = text.lines().last().unwrap_or_default();
        let gave_up = format!("{role} cannot go on: {server} at {address} did not answer within");
        assert!(last.contains(&gave_up) && last.contains(&format!("or change {setting}")), "{text}");
    }
}

#[tokio::test]
async fn a_process_that_waits_for_its_servers_drains_at_once_when_it_is_asked_to() {
    let mut variables = nobody_listens();
    variables.insert("HIGHWATER_OPERATE_START_DEADLINE_S".to_owned(), "600".to_owned());
    let mut waiting = Waiting::start(&variables);
    let address = variables["HIGHWATER_OPERATE_LISTEN"].clone();
    eventually("/readyz tells what the roles wait for", async || {
        let answer = get(&address, "/readyz").await.unwrap_or_default();
        answer.starts_with("HTTP/1.1 503") && answer.contains("cache: Redis at redis://127.0.0.1:")
    })
    .await;
    let alive = get(&address, "/healthz").await.unwrap_or_default();
    assert!(alive.starts_with("HTTP/1.1 200"), "{alive}");
    let (code, text) = waiting.terminate();
    assert_eq!(code, Some(0), "{text}");
    assert!(text.contains("draining") && text.contains("drained"), "{text}");
    assert!(!text.contains(SECRET), "a secret shows:\n{text}");
}

#[test]
fn a_check_names_every_server_that_is_down_and_what_to_do() {
    let variables = nobody_listens();
    let (code, text) = run(&variables, &["check"]);
    assert_eq!(code, Some(1), "{text}");
    for subject in ["topics.brokers", "source.database", "cache.server", "audit.database"] {
        assert!(text.contains(&format!("FAIL  {subject}: ")), "{subject}: {text}");
    }
    assert!(text.contains("→ start Kafka, or change topics.brokers"), "{text}");
    assert!(text.contains("→ start PostgreSQL, or change source.database"), "{text}");
    assert!(text.contains("→ start Redis, or change cache.server"), "{text}");
}
