//! The servers that the tests run on: `scripts/stack` starts each once, when the first test needs it. `make test` stops
//! them in the end.

use std::collections::{BTreeSet, HashMap};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use highwater_demo::endpoints::Endpoints;

use crate::shop::eventually;

/// What a stack's env file says: ports, addresses, passwords.
pub(crate) type Variables = HashMap<String, String>;

/// Servers that no test harms.
pub(crate) static SHARED: Stack = Stack::new("build/test-stack");
/// Servers of whole shops, which are killed now and then; one shop at a time uses them.
pub(crate) static SHOPS: Stack = Stack::new("build/test-shops");

/// Servers of the shops whose primary is lost for good.
pub(crate) static PROMOTED: Stack = Stack::new("build/test-promotion");
/// The same with a PostgreSQL that hands slots on to standbys.
pub(crate) static FAILED_OVER: Stack = Stack::new("build/test-failover").of_postgres("17");
/// A primary and a standby whose log is read, of the oldest PostgreSQL that hands it out.
pub(crate) static READ_FROM_STANDBY: Stack = Stack::new("build/test-standby").of_postgres("16");

/// Servers with the newest PostgreSQL, for what the others do not have.
pub(crate) static NEWEST_POSTGRES: Stack = Stack::new("build/test-newest").of_postgres("18");

/// Servers in a folder of their own.
pub(crate) struct Stack {
    /// From the checkout's root.
    folder: &'static str,
    /// Major version of a PostgreSQL that `scripts/install tests` brings; otherwise Debian's, or the one that is asked for.
    postgres: Option<&'static str>,
    up: Mutex<BTreeSet<&'static str>>,
}

impl Stack {
    const fn new(folder: &'static str) -> Self {
        Self { folder, postgres: None, up: Mutex::new(BTreeSet::new()) }
    }

    const fn of_postgres(mut self, version: &'static str) -> Self {
        self.postgres = Some(version);
        self
    }

    /// Returns the variables once these servers are up.
    pub(crate) fn with(&self, servers: &[&'static str]) -> Variables {
        // A test that failed while it started a server leaves the set as it was.
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        let missing: Vec<&str> = servers.iter().copied().filter(|server| !up.contains(server)).collect();
        if !missing.is_empty() {
            self.run(&["up", "--servers", &missing.join(",")]);
            up.extend(servers);
        }
        let path = self.path().join("env");
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pairs = text.lines().filter_map(|line| line.split_once('='));
        pairs.map(|(name, value)| (name.to_owned(), plain(value))).collect()
    }

    /// Stops all servers and removes what they hold: the next use starts anew.
    pub(crate) fn wipe(&self) {
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        self.run(&["down", "--wipe"]);
        up.clear();
    }

    /// Returns the folder of the servers.
    pub(crate) fn path(&self) -> PathBuf {
        root().join(self.folder)
    }

    /// Ends a server as a power cut would.
    pub(crate) fn kill(&self, server: &str) {
        self.run(&["kill", server]);
    }

    /// Sends a signal to a server's main process, such as `STOP`.
    pub(crate) fn signal(&self, server: &str, signal: &str) {
        let path = self.path().join(format!("run/{server}.pid"));
        let text = std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        let pid = text.split_whitespace().next().expect("a process id");
        let sent = Command::new("kill").args([&format!("-{signal}"), pid]).status().expect("kill runs");
        assert!(sent.success(), "{server} got no {signal}");
    }

    /// Starts a server again and waits until it answers.
    pub(crate) fn start(&self, server: &str) {
        self.run(&["start", server]);
    }

    /// Copies the primary while it is stopped, and starts both: the copy is a standby of it.
    ///
    /// The programs that copy a running server do not come with every PostgreSQL.
    pub(crate) fn copy_stopped_primary(&self, standby: &'static str) {
        self.run(&["down"]);
        let copied =
            Command::new("cp").arg("-a").arg(self.path().join("primary")).arg(self.path().join(standby)).status();
        assert!(copied.expect("cp runs").success(), "the primary's folder is not copied");
        std::fs::write(self.path().join(standby).join("standby.signal"), "").expect("the mark of a standby");
        let mut up = self.up.lock().unwrap_or_else(PoisonError::into_inner);
        self.run(&["up", "--servers", &format!("primary,{standby}")]);
        *up = BTreeSet::from(["primary", standby]);
    }

    /// Begins anew with a primary and a standby that has a slot there; returns a connection to the primary.
    pub(crate) async fn with_standby(&self, standby: &'static str) -> tokio_postgres::Client {
        self.wipe();
        self.with(&["primary"]);
        self.copy_stopped_primary(standby);
        let primary = Endpoints::connect(&self.with(&[])["ADMIN_DATABASE"]).await.expect("the primary answers");
        let slot = format!("SELECT pg_create_physical_replication_slot('{standby}', true)");
        primary.batch_execute(&slot).await.expect("the standby's slot");
        primary
    }

    fn run(&self, command: &[&str]) {
        let mut stack = Command::new(root().join("scripts/stack"));
        // Brokers live for minutes here, mostly starting: the second compiler would take more than it gives.
        stack.env("JAVA_TOOL_OPTIONS", "-XX:TieredStopAtLevel=1");
        if let Some(version) = self.postgres {
            stack.env("HIGHWATER_STACK_PG_BIN", programs(version));
        }
        let output = stack.args(command).arg("--dir").arg(self.folder).current_dir(root()).output();
        let output = output.unwrap_or_else(|error| panic!("scripts/stack does not run: {error}"));
        assert!(output.status.success(), "scripts/stack {command:?}: {}", String::from_utf8_lossy(&output.stderr));
    }
}

/// The shop as its standby has it.
pub(crate) fn on_the_standby(of_the_primary: &Variables) -> Variables {
    let (from, to) = (&of_the_primary["PRIMARY_PORT"], &of_the_primary["REPLICA1_PORT"]);
    let moved = |value: &String| value.replace(&format!(":{from}/"), &format!(":{to}/"));
    of_the_primary.iter().map(|(name, value)| (name.clone(), moved(value))).collect()
}

/// Connects to a shop on the standby, once it has it.
pub(crate) async fn followed(on_the_standby: &Endpoints) -> tokio_postgres::Client {
    let mut connected = None;
    eventually("the standby has the shop", async || {
        connected = Endpoints::connect(&on_the_standby.admin_database).await.ok();
        connected.is_some()
    })
    .await;
    connected.expect("a connection")
}

/// Returns the folder of a PostgreSQL's programs.
fn programs(version: &str) -> PathBuf {
    let folders = std::fs::read_dir(root().join("build")).expect("the build folder").filter_map(Result::ok);
    let of_version = |name: &std::ffi::OsStr| name.to_string_lossy().starts_with(&format!("postgresql-{version}."));
    let found = folders.filter(|folder| of_version(&folder.file_name())).map(|folder| folder.path().join("bin"));
    found.max().unwrap_or_else(|| panic!("there is no PostgreSQL {version}: run `scripts/install tests`"))
}

/// Returns a name that no other test and no earlier run has, for topics, groups and keys.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    let now = SystemTime::now().duration_since(UNIX_EPOCH).expect("a clock after 1970");
    format!("{what}-{}-{}", now.as_millis(), NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Returns the checkout's root.
pub(crate) fn root() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR"))
}

/// Takes a shell's quotes off.
fn plain(value: &str) -> String {
    value.trim().trim_matches(['\'', '"']).to_owned()
}
