//! The stream of changes itself: frames in, status out.

use std::time::{Duration, Instant};

use postgres_protocol::message::frontend;

use super::pace::{Gathering, Pace};
use crate::connection::{Connection, Wait};
use crate::cursor::{Cursor, Short};
use crate::error::{Error, Result};
use crate::lsn::Lsn;
use crate::quote;
use crate::socket::Whole;
use crate::time::Timestamp;

/// Whether the server sends large transactions before they end.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Streaming {
    /// Whole transactions only; the server keeps large ones on its own disk until their commit.
    Off,
    /// Pieces of a transaction that outgrows `logical_decoding_work_mem`; `PostgreSQL` 14 and newer.
    On,
    /// The same, and a rollback says where and when it was; `PostgreSQL` 16 and newer.
    Parallel,
}

/// What is asked for.
#[derive(Copy, Clone, Debug)]
pub struct StartOptions<'a> {
    /// The slot to read.
    pub slot: &'a str,
    /// Where to start; the server goes no further back than what the slot has acknowledged, so that zero means that.
    pub start: Lsn,
    /// The publications, at least one.
    pub publications: &'a [&'a str],
    /// Taken down to what the server's version has.
    pub streaming: Streaming,
}

/// How far the reader is. The server forgets what is below `flushed`.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub struct Status {
    /// Received.
    pub written: Lsn,
    /// Safe: the slot moves up to here.
    pub flushed: Lsn,
    /// Applied.
    pub applied: Lsn,
    /// Asks for a keepalive at once; none comes by itself in quiet seconds.
    pub reply_requested: bool,
}

/// One frame of the stream, in the receive buffer.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub enum Frame<'a> {
    /// A message of pgoutput.
    XLogData {
        /// Where in the log its change stands; zero for some kinds.
        wal_start: Lsn,
        /// How far the server's log was at the time of sending.
        wal_end: Lsn,
        /// The server's clock.
        server_time: Timestamp,
        /// For [`crate::pgoutput::decode`].
        payload: &'a [u8],
    },
    /// A sign of life, and a bound: every commit below `wal_end` was sent before it.
    Keepalive {
        /// How far the server has read the log. After a reconnect it can be lower than before.
        wal_end: Lsn,
        /// The server's clock.
        server_time: Timestamp,
        /// The server wants a status soon, or takes the reader for dead.
        reply_requested: bool,
    },
}

impl<'a> Frame<'a> {
    /// Reads the content of one `CopyData` message; `None` for what is no frame. Allocates nothing.
    #[must_use]
    pub fn read(body: &'a [u8]) -> Option<Self> {
        let mut cursor = Cursor::new(body);
        let read = |c: &mut Cursor<'_>| -> Result<(Lsn, Option<Lsn>, Timestamp), Short> {
            let kind = c.u8()?;
            let first = Lsn(c.u64()?);
            let second = if kind == b'w' { Some(Lsn(c.u64()?)) } else { None };
            Ok((first, second, Timestamp(c.i64()?)))
        };
        match (body.first()?, read(&mut cursor).ok()?) {
            (b'w', (wal_start, Some(wal_end), server_time)) => {
                Some(Self::XLogData { wal_start, wal_end, server_time, payload: cursor.rest() })
            }
            (b'k', (wal_end, None, server_time)) => {
                Some(Self::Keepalive { wal_end, server_time, reply_requested: cursor.u8().ok()? != 0 })
            }
            _ => None,
        }
    }
}

/// A replication session that is streaming.
///
/// Frames borrow from the one receive buffer: nothing is allocated for a message. Dropping it disconnects.
#[derive(Debug)]
pub struct ReplicationStream {
    connection: Connection,
    streaming: Streaming,
    protocol_version: u8,
    pace: Pace,
}

impl Connection {
    /// Starts to stream a slot's changes.
    ///
    /// # Errors
    ///
    /// As [`Connection::simple_query`]; SQLSTATE 55006 while another session reads the slot, 42704 if there is none.
    pub fn start_replication(mut self, options: &StartOptions<'_>, timeout: Duration) -> Result<ReplicationStream> {
        let wait = Wait::new("START_REPLICATION", timeout);
        let (protocol_version, streaming) = protocol(self.server_version(), options.streaming);
        let command = command(options, protocol_version, streaming, self.server_version());
        self.send_message(|buffer| frontend::query(&command, buffer))?;
        let message = self.receive(&wait)?;
        match message.kind {
            b'W' => {
                let gathering = Gathering::over(self.socket().channel().distance());
                if let Some(bytes) = gathering.receive_buffer {
                    // It is only quicker with it.
                    self.socket().channel().set_receive_buffer(bytes).ok();
                }
                let pace = Pace::new(Instant::now(), gathering);
                Ok(ReplicationStream { connection: self, streaming, protocol_version, pace })
            }
            b'E' => Err(self.drain_error(message, &wait)),
            other => Err(self.protocol(&format!("message {:?} after START_REPLICATION", char::from(other)))),
        }
    }
}

/// Returns the newest protocol that the server and this crate know, and the streaming that it has.
fn protocol(server_version: u32, wanted: Streaming) -> (u8, Streaming) {
    match (server_version, wanted) {
        (160_000.., wanted) => (4, wanted),
        (140_000.., Streaming::On | Streaming::Parallel) => (2, Streaming::On),
        (140_000.., Streaming::Off) => (2, Streaming::Off),
        _ => (1, Streaming::Off),
    }
}

fn command(options: &StartOptions<'_>, protocol_version: u8, streaming: Streaming, server_version: u32) -> String {
    let publications: Vec<String> = options.publications.iter().map(|name| quote::identifier(name)).collect();
    let mut command = format!(
        "START_REPLICATION SLOT {} LOGICAL {} (proto_version '{protocol_version}', publication_names {}",
        quote::identifier(options.slot),
        options.start,
        quote::replication_literal(&publications.join(",")),
    );
    if server_version >= 140_000 {
        command.push_str(", messages 'true'");
    }
    match streaming {
        Streaming::Off => {}
        Streaming::On => command.push_str(", streaming 'on'"),
        Streaming::Parallel => command.push_str(", streaming 'parallel'"),
    }
    command.push(')');
    command
}

impl ReplicationStream {
    /// Waits for the next frame for at most `timeout`; at zero it takes only what the system has already.
    ///
    /// None means that no whole frame came in time. Nothing is lost by it.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`], [`Error::Ended`], [`Error::Protocol`], or the server's own [`Error::Server`]; after any of them
    /// the stream is over.
    pub fn next(&mut self, timeout: Duration) -> Result<Option<Frame<'_>>> {
        let Some(message) = self.receive(timeout)? else { return Ok(None) };
        if message.kind != b'd' {
            return Err(self.over(message));
        }
        // Looked at twice, because a frame that was borrowed for an error path would stay borrowed.
        if Frame::read(self.connection.socket().body(message)).is_none() {
            return Err(self.connection.protocol("a frame of the replication stream that cannot be understood"));
        }
        Ok(Frame::read(self.connection.socket().body(message)))
    }

    /// Receives a message, and lets the system gather before it is asked for more while much comes.
    fn receive(&mut self, timeout: Duration) -> Result<Option<Whole>> {
        if self.has_buffered() {
            return self.connection.receive_within(timeout);
        }
        if let Some(nap) = self.pace.nap() {
            std::thread::sleep(nap);
        }
        let message = self.connection.receive_within(timeout)?;
        self.pace.note(self.connection.socket().received(), Instant::now());
        Ok(message)
    }

    /// Returns whether a whole frame is in the buffer, so that [`ReplicationStream::next`] will not wait.
    #[must_use]
    pub fn has_buffered(&self) -> bool {
        matches!(self.connection.socket().peek(), Ok(Some(_)))
    }

    /// Returns how many bytes were received and not handed out yet. What the system holds beside them is not among them.
    #[must_use]
    pub fn undecoded_bytes(&self) -> usize {
        self.connection.socket().held()
    }

    /// Returns whether so much comes, 5 MB/s or more, that the next frame is as good as in the buffer.
    #[must_use]
    pub fn is_flooded(&self) -> bool {
        self.pace.nap().is_some()
    }

    /// Tells the server how far the reader is.
    ///
    /// # Errors
    ///
    /// [`Error::Lost`]; the stream is over then.
    pub fn send_status(&mut self, status: Status) -> Result<()> {
        let mut message = [0; 39];
        message[0] = b'd';
        message[1..5].copy_from_slice(&38_u32.to_be_bytes());
        message[5] = b'r';
        message[6..14].copy_from_slice(&status.written.0.to_be_bytes());
        message[14..22].copy_from_slice(&status.flushed.0.to_be_bytes());
        message[22..30].copy_from_slice(&status.applied.0.to_be_bytes());
        message[30..38].copy_from_slice(&Timestamp::now().0.to_be_bytes());
        message[38] = u8::from(status.reply_requested);
        self.connection.send(&message)
    }

    /// Ends the stream in good order and returns the session, which can be used further.
    ///
    /// Frames on the way are passed over: the slot hands them out again. While the server decodes one large transaction
    /// it may not listen for long; after the timeout, drop the stream.
    ///
    /// # Errors
    ///
    /// [`Error::Timeout`], or as [`ReplicationStream::next`].
    pub fn close(mut self, timeout: Duration) -> Result<Connection> {
        let wait = Wait::new("the end of the replication stream", timeout);
        self.connection.send_message(|buffer| {
            frontend::copy_done(buffer);
            Ok(())
        })?;
        loop {
            let message = self.connection.receive(&wait)?;
            match message.kind {
                // What was on the way; the server's own end; its confirmation.
                b'd' | b'c' | b'C' => {}
                b'Z' => {
                    self.connection.ready(message)?;
                    return Ok(self.connection);
                }
                _ => return Err(self.over(message)),
            }
        }
    }

    /// Returns the version of the protocol that was agreed on.
    #[must_use]
    pub fn protocol_version(&self) -> u8 {
        self.protocol_version
    }

    /// Returns the streaming that was agreed on.
    #[must_use]
    pub fn streaming(&self) -> Streaming {
        self.streaming
    }

    /// Returns the server's version as a number, such as 150006.
    #[must_use]
    pub fn server_version(&self) -> u32 {
        self.connection.server_version()
    }

    /// Returns the server process that sends the stream.
    #[must_use]
    pub fn backend_pid(&self) -> i32 {
        self.connection.backend_pid()
    }

    /// Explains a message that is no frame.
    fn over(&mut self, message: Whole) -> Error {
        match message.kind {
            b'E' => self.connection.fatal(message),
            // A walsender that shuts down completes its command; one that ends a stream ends the copy.
            b'c' | b'C' => self.connection.ended(),
            other => self.connection.protocol(&format!("message {:?} in a replication stream", char::from(other))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    const OPTIONS: StartOptions<'_> = StartOptions {
        slot: "s",
        start: Lsn(0x1_0000_0002),
        publications: &["shop", "it's \"odd\""],
        streaming: Streaming::Parallel,
    };

    #[test]
    fn a_name_cannot_leave_its_quotes() {
        assert_eq!(
            command(&OPTIONS, 4, Streaming::Parallel, 160_000),
            "START_REPLICATION SLOT \"s\" LOGICAL 1/2 (proto_version '4', \
             publication_names '\"shop\",\"it''s \"\"odd\"\"\"', messages 'true', streaming 'parallel')"
        );
    }

    #[test]
    fn a_server_is_asked_for_what_its_version_has() {
        assert_eq!(protocol(130_000, Streaming::On), (1, Streaming::Off));
        assert_eq!(protocol(150_014, Streaming::Parallel), (2, Streaming::On));
        assert_eq!(protocol(180_000, Streaming::Parallel), (4, Streaming::Parallel));
        assert_eq!(protocol(180_000, Streaming::Off), (4, Streaming::Off));
    }

    #[test]
    fn both_frames_are_read() {
        let mut data = vec![b'w'];
        data.extend([1_u64, 2, 3].iter().flat_map(|n| n.to_be_bytes()));
        data.extend(b"payload");
        let read =
            Frame::XLogData { wal_start: Lsn(1), wal_end: Lsn(2), server_time: Timestamp(3), payload: b"payload" };
        assert_eq!(Frame::read(&data), Some(read));
        let mut keepalive = vec![b'k'];
        keepalive.extend([7_u64, 8].iter().flat_map(|n| n.to_be_bytes()));
        assert_eq!(Frame::read(&keepalive), None, "it lacks its last byte");
        keepalive.push(1);
        let read = Frame::Keepalive { wal_end: Lsn(7), server_time: Timestamp(8), reply_requested: true };
        assert_eq!(Frame::read(&keepalive), Some(read));
    }

    proptest! {
        #[test]
        fn no_bytes_make_a_frame_panic(body: Vec<u8>) {
            let _ = Frame::read(&body);
        }
    }
}
