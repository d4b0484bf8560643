//! A redis-server of one test. It ends with the test, whatever becomes of the test.

use std::path::PathBuf;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use highwater_redis::{Cache, Options};

/// Longer than any start takes on a busy machine.
pub(crate) const START: Duration = Duration::from_secs(20);

pub(crate) struct Server {
    folder: tempfile::TempDir,
    process: Child,
    settings: Vec<String>,
}

impl Server {
    pub(crate) async fn start(settings: &[&str]) -> Self {
        let folder = tempfile::tempdir().expect("a folder for the server");
        let settings: Vec<String> = settings.iter().map(ToString::to_string).collect();
        let process = spawn(&folder, &settings);
        let server = Self { folder, process, settings };
        server.wait().await;
        server
    }

    fn socket(&self) -> PathBuf {
        self.folder.path().join("redis.sock")
    }

    pub(crate) fn options(&self) -> Options {
        Options::new(format!("unix://{}", self.socket().display()))
    }

    pub(crate) async fn cache(&self) -> Cache {
        Cache::connect(&self.options()).await.expect("the cache connects")
    }

    /// Ends the server as a crash would: nothing is saved.
    pub(crate) fn kill(&mut self) {
        self.process.kill().expect("the server is killed");
        self.process.wait().expect("the server ends");
    }

    pub(crate) async fn start_again(&mut self) {
        self.process = spawn(&self.folder, &self.settings);
        self.wait().await;
    }

    async fn wait(&self) {
        let until = Instant::now() + START;
        while std::os::unix::net::UnixStream::connect(self.socket()).is_err() {
            assert!(Instant::now() < until, "redis-server does not answer after {START:?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// A connection past the connector, for what the tests themselves do.
    pub(crate) async fn client(&self) -> redis::aio::MultiplexedConnection {
        let client = redis::Client::open(self.options().server).expect("an address");
        client.get_multiplexed_async_connection().await.expect("a connection")
    }

    pub(crate) async fn run<T: redis::FromRedisValue>(&self, command: &[&str]) -> T {
        let mut call = redis::cmd(command[0]);
        call.arg(&command[1..]);
        call.query_async(&mut self.client().await).await.expect("the server does it")
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        // It may be dead already, which is what is wanted.
        let _ = self.process.kill();
        let _ = self.process.wait();
    }
}

fn spawn(folder: &tempfile::TempDir, settings: &[String]) -> Child {
    Command::new("redis-server")
        .current_dir(folder.path())
        .args(["--port", "0", "--unixsocket", "redis.sock", "--save", "", "--daemonize", "no"])
        .args(settings)
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .spawn()
        .expect("redis-server starts (scripts/install brings it)")
}
