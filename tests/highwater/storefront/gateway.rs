//! A running gateway, in the test's own process.

use std::net::TcpListener;
use std::time::{Duration, Instant};

use highwater::config::Document;
use highwater::running::{Readiness, Shutdown};
use highwater::workers::storefront::{Error, Settings, run};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::task::JoinHandle;

use super::TIMEOUT;
use super::catalogue::Catalogue;
use super::page::Page;

pub(super) struct Gateway {
    pub(super) address: String,
    shutdown: Shutdown,
    task: JoinHandle<Result<(), Error>>,
}

impl Gateway {
    /// Starts one on a free port, with settings as they are but for `change`, and waits until it lets clients in.
    pub(super) async fn start(catalogue: &Catalogue, change: impl FnOnce(&mut Settings)) -> Self {
        let document = Document::parse("test", "", std::collections::BTreeMap::new());
        let mut section = document.section("storefront");
        let mut settings = Settings::read(&mut section);
        section.finish();
        settings.listen = TcpListener::bind("127.0.0.1:0").and_then(|l| l.local_addr()).expect("a free port");
        change(&mut settings);
        let (shutdown, topics) = (Shutdown::new(), catalogue.topics.clone());
        let address = settings.listen.to_string();
        let stop = shutdown.clone();
        let task = tokio::spawn(async move {
            let standing = Readiness::of(["storefront"]).role("storefront");
            run(&settings, &topics, "test", &stop, &standing).await
        });
        let gateway = Self { address, shutdown, task };
        gateway.has_room().await;
        gateway
    }

    /// Waits until it lets another client in.
    pub(super) async fn has_room(&self) {
        let deadline = Instant::now() + TIMEOUT;
        while Page::refused(self, None).await != 101 {
            assert!(Instant::now() < deadline && !self.task.is_finished(), "it lets nobody in");
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
    }

    /// Drains it, and returns how long that took.
    pub(super) async fn stop(self) -> Duration {
        let began = Instant::now();
        self.shutdown.cancel();
        let ended = tokio::time::timeout(TIMEOUT, self.task).await.expect("the drain ends");
        ended.expect("no panic").expect("drained");
        began.elapsed()
    }

    /// Reads a stream of Server-Sent Events up to a text.
    pub(super) async fn sse(&self, query: &str, last_event_id: Option<&str>, until: &str) -> String {
        let mut stream = TcpStream::connect(&self.address).await.expect("the gateway listens");
        let last = last_event_id.map(|id| format!("Last-Event-ID: {id}\r\n")).unwrap_or_default();
        let request = format!("GET /v1/events?{query} HTTP/1.1\r\nHost: {}\r\n{last}\r\n", self.address);
        stream.write_all(request.as_bytes()).await.expect("a request");
        let mut read = Vec::new();
        let all = async {
            while !String::from_utf8_lossy(&read).contains(until) {
                assert!(stream.read_buf(&mut read).await.expect("an answer") > 0, "the stream ended");
            }
        };
        let in_time = tokio::time::timeout(TIMEOUT, all).await.is_ok();
        let read = String::from_utf8_lossy(&read).into_owned();
        assert!(in_time, "no {until:?} in {read}");
        read
    }
}
