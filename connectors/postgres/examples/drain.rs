//! Reads a slot's backlog to nowhere and says how fast: the ceiling for anything that is built on the stream.
//!
//! `cargo run --release -p highwater-postgres --example drain -- URL SLOT PUBLICATION`, the password in `PGPASSWORD`. The
//! slot is left where it was, so that the next run reads the same.

use std::time::{Duration, Instant};

use highwater_postgres::pgoutput::{self, Message};
use highwater_postgres::replication::{Frame, StartOptions, Status, Streaming};
use highwater_postgres::{ConnectConfig, Connection, Lsn, Secret, Session};

const TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> Result<(), Box<dyn std::error::Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [url, slot, publication] = arguments.as_slice() else { return Err("usage: drain URL SLOT PUBLICATION".into()) };
    let mut config = ConnectConfig::parse(url)?.with_application_name("drain");
    if let Ok(password) = std::env::var("PGPASSWORD") {
        config = config.with_password(Secret::new(password));
    }
    let mut connection = Connection::connect(&config, Session::Replication)?;
    let end = connection.identify_system(TIMEOUT)?.flushed;
    let publications = [publication.as_str()];
    let options = StartOptions { slot, start: Lsn::ZERO, publications: &publications, streaming: Streaming::Off };
    let mut stream = connection.start_replication(&options, TIMEOUT)?;
    let start = Instant::now();
    let (mut rows, mut commits, mut bytes, mut asked) = (0_u64, 0_u64, 0_usize, start);
    loop {
        let quiet = match stream.next(Duration::from_millis(100))? {
            Some(Frame::XLogData { payload, .. }) => {
                bytes += payload.len();
                match pgoutput::decode(payload, false)? {
                    Message::Insert(_) | Message::Update(_) | Message::Delete(_) => rows += 1,
                    Message::Commit(_) => commits += 1,
                    _ => {}
                }
                false
            }
            Some(Frame::Keepalive { wal_end, .. }) if wal_end >= end => break,
            Some(Frame::Keepalive { .. }) => false,
            None => true,
        };
        if quiet || (!stream.has_buffered() && asked.elapsed() > Duration::from_secs(1)) {
            stream.send_status(Status {
                written: end,
                flushed: Lsn::ZERO,
                applied: Lsn::ZERO,
                reply_requested: true,
            })?;
            asked = Instant::now();
        }
    }
    let took = start.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "a rate for people")]
    let (rate, megabytes) = (rows as f64 / took, bytes as f64 / 1e6);
    println!("{rows} rows in {commits} transactions, {megabytes:.1} MB, in {took:.2} s: {rate:.0} rows/s");
    Ok(())
}
