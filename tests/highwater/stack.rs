//! The servers that the tests run on: `scripts/stack` starts each once, when the first test needs it, and leaves it running
//! for the next run.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

/// What the stack's env file says: ports, addresses, passwords.
pub(crate) type Variables = BTreeMap<String, String>;

/// Where the stack of the tests lives, from the repository's root.
const FOLDER: &str = "build/test-stack";

/// Returns the stack's variables once these servers are up.
pub(crate) fn with(servers: &[&'static str]) -> Variables {
    static UP: Mutex<BTreeSet<&'static str>> = Mutex::new(BTreeSet::new());
    // A test that failed while it started a server leaves the set as it was.
    let mut up = UP.lock().unwrap_or_else(PoisonError::into_inner);
    let missing: Vec<&str> = servers.iter().copied().filter(|server| !up.contains(server)).collect();
    if !missing.is_empty() {
        run(&["up", "--servers", &missing.join(",")]);
        up.extend(servers);
    }
    let path = folder().join("env");
    let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
    text.lines().filter_map(|line| line.split_once('=')).map(|(name, value)| (name.to_owned(), plain(value))).collect()
}

/// Runs a command of `scripts/stack` on the tests' stack.
pub(crate) fn run(command: &[&str]) {
    let mut stack = Command::new(root().join("scripts/stack"));
    let output = stack.args(command).arg("--dir").arg(FOLDER).current_dir(root()).output();
    let output = output.unwrap_or_else(|error| panic!("scripts/stack does not run: {error}"));
    assert!(output.status.success(), "scripts/stack {command:?}: {}", String::from_utf8_lossy(&output.stderr));
}

/// Returns a name that no other test and no earlier run has, for topics, groups and keys.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    format!("{what}-{}-{}", now.as_millis(), NEXT.fetch_add(1, Ordering::Relaxed))
}

fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

fn folder() -> PathBuf {
    root().join(FOLDER)
}

/// Takes a shell's quotes off.
fn plain(value: &str) -> String {
    value.trim().trim_matches(['\'', '"']).to_owned()
}
