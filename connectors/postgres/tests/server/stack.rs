//! The server: a primary of `scripts/stack` in a folder of its own, taken down when the tests end.

use std::collections::BTreeMap;
use std::io::Write;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, OnceLock};
use std::time::{Duration, Instant};

use highwater_postgres::{ConnectConfig, Connection, Rows, Secret, Session};

pub(crate) const TIMEOUT: Duration = Duration::from_mins(1);

pub(crate) struct Server {
    folder: PathBuf,
    env: BTreeMap<String, String>,
    /// Its input is a pipe: as long as this end is open, the server is wanted.
    _guard: Child,
}

/// The server that the tests share.
pub(crate) fn server() -> &'static Server {
    static SERVER: OnceLock<Server> = OnceLock::new();
    SERVER.get_or_init(|| Server::up("test-postgres"))
}

impl Server {
    /// Starts a fresh primary in `build/NAME`.
    pub(crate) fn up(name: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("../..").canonicalize().expect("the workspace");
        let folder = root.join("build").join(name);
        let guard = guard(&root, &folder);
        let stack = |arguments: &[&str]| {
            let mut command = Command::new(root.join("scripts/stack"));
            command.args(arguments).arg("--dir").arg(&folder).args(["--servers", "primary"]);
            assert!(command.status().expect("scripts/stack runs").success(), "scripts/stack {arguments:?} failed");
        };
        if folder.exists() {
            stack(&["down", "--wipe"]);
        }
        stack(&["up"]);
        let text = std::fs::read_to_string(folder.join("env")).expect("the stack's env file");
        let lines = text.lines().filter_map(|line| line.split_once('='));
        let env = lines.map(|(key, value)| (key.to_owned(), value.trim_matches(['\'', '"']).to_owned())).collect();
        Self { folder, env, _guard: guard }
    }

    pub(crate) fn folder(&self) -> &Path {
        &self.folder
    }

    pub(crate) fn env(&self, key: &str) -> &str {
        self.env.get(key).unwrap_or_else(|| panic!("{key} in the stack's env file"))
    }

    pub(crate) fn port(&self) -> &str {
        self.env("PRIMARY_PORT")
    }

    pub(crate) fn password(&self) -> &str {
        self.env("HIGHWATER_PASSWORD")
    }

    /// A role over TCP, with the password that all roles have.
    pub(crate) fn tcp(&self, user: &str, rest: &str) -> ConnectConfig {
        let url = format!("postgresql://{user}@127.0.0.1:{}/{rest}", self.port());
        ConnectConfig::parse(&url).unwrap().with_password(Secret::new(self.password()))
    }

    /// The superuser over the Unix socket, which needs no password.
    pub(crate) fn socket(&self, database: &str) -> ConnectConfig {
        let (host, port) = (self.env("PRIMARY_SOCKET_DIR"), self.port());
        ConnectConfig::parse(&format!("host={host} port={port} user=postgres dbname={database}")).unwrap()
    }

    pub(crate) fn session(&self) -> Connection {
        Connection::connect(&self.socket("shop"), Session::Ordinary).unwrap()
    }

    pub(crate) fn replication(&self) -> Connection {
        Connection::connect(&self.socket("shop"), Session::Replication).unwrap()
    }

    pub(crate) fn sql(&self, sql: &str) -> Rows {
        self.session().simple_query(sql, TIMEOUT).unwrap()
    }

    /// Puts rules before those that say who may log in; the server takes them up a moment later.
    pub(crate) fn allow(&self, rules: &str) {
        static ONE_AT_A_TIME: Mutex<()> = Mutex::new(());
        let turn = ONE_AT_A_TIME.lock();
        let path = self.folder.join("conf/primary.hba.conf");
        let others = std::fs::read_to_string(&path).expect("the server's rules");
        write(&path, &format!("{rules}\n{others}"));
        drop(turn);
        self.sql("SELECT pg_reload_conf()");
    }

    /// Runs `scripts/stack COMMAND primary`.
    pub(crate) fn stack(&self, command: &str) {
        let script = self.folder.join("../../scripts/stack");
        let status = Command::new(script).args([command, "primary", "--dir"]).arg(&self.folder).status();
        assert!(status.expect("scripts/stack runs").success(), "scripts/stack {command} failed");
    }
}

/// Starts a shell that takes the server down once this process is gone, however it ends: the harness that runs the tests
/// has no place for it, and a killed test has none either.
fn guard(root: &Path, folder: &Path) -> Child {
    Command::new("sh")
        .args(["-c", "cat >/dev/null; exec \"$0\" down --wipe --dir \"$1\""])
        .arg(root.join("scripts/stack"))
        .arg(folder)
        .stdin(Stdio::piped())
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .process_group(0)
        .spawn()
        .expect("a shell")
}

/// A name that no other test has.
pub(crate) fn fresh(what: &str) -> String {
    static NEXT: AtomicU32 = AtomicU32::new(0);
    format!("{what}_{}", NEXT.fetch_add(1, Ordering::Relaxed))
}

/// Asks again and again until there is an answer.
pub(crate) fn until<T>(what: &str, mut ask: impl FnMut() -> Option<T>) -> T {
    let deadline = Instant::now() + TIMEOUT;
    loop {
        if let Some(answer) = ask() {
            return answer;
        }
        assert!(Instant::now() < deadline, "{what}: not within {TIMEOUT:?}");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Writes a file that only the tests read.
pub(crate) fn write(path: &Path, text: &str) {
    let mut file = std::fs::File::create(path).expect("a file in the stack's folder");
    file.write_all(text.as_bytes()).expect("its text");
}
