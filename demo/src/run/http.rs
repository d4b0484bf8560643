//! The one request that the demo makes: is the pipeline ready?

use std::time::Duration;

use anyhow::{Context, Result, bail};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;

/// How long an answer may take.
const ANSWER: Duration = Duration::from_secs(5);
/// An answer longer than this is cut off.
const LONGEST: u64 = 64 * 1024;

/// Asks a server on this machine; returns the status and the body.
pub(super) async fn get(base: &str, path: &str) -> Result<(u16, String)> {
    let address = base.strip_prefix("http://").with_context(|| format!("{base} is no http address"))?;
    tokio::time::timeout(ANSWER, ask(address, path)).await.with_context(|| format!("no answer from {base}{path}"))?
}

async fn ask(address: &str, path: &str) -> Result<(u16, String)> {
    let mut stream = TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: {address}\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut answer = Vec::new();
    stream.take(LONGEST).read_to_end(&mut answer).await?;
    let answer = String::from_utf8_lossy(&answer);
    let status = answer.split(' ').nth(1).and_then(|status| status.parse().ok());
    let body = answer.split_once("\r\n\r\n").map_or("", |(_, body)| body);
    match status {
        Some(status) => Ok((status, body.to_owned())),
        None => bail!("{address} does not speak HTTP"),
    }
}
