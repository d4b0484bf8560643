//! One byte stream to a server: TCP, TLS over TCP, or a Unix socket; and the one buffer that everything is read into.

#[cfg(test)]
mod tests;

use std::io::{self, Read, Write};
use std::net::{SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::time::{Duration, Instant};

use rustls::{ClientConnection, StreamOwned};
use socket2::{SockRef, TcpKeepalive};

use crate::config::{Endpoint, Host};

/// How much is asked of the system in one read. A walsender that is behind fills it each time.
const CHUNK: usize = 128 * 1024;

/// The largest message taken: a field of a row can be 1 GiB, and the server could not send more.
const LARGEST: usize = 1 << 30;

/// A buffer that grew past this for one huge message is given back after it.
const KEEP: usize = 8 * CHUNK;

/// A wait is cut in slices of this length, so that the socket's time-out need not be set anew for each read.
const SLICE: Duration = Duration::from_secs(1);

#[derive(Debug)]
pub(crate) enum Channel {
    Tcp(TcpStream),
    Tls(Box<StreamOwned<ClientConnection, TcpStream>>),
    Unix(UnixStream),
}

/// What lies between a server and us.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) enum Distance {
    /// Nothing: a Unix socket.
    None,
    /// TCP without leaving the machine.
    Loopback,
    Network,
}

impl Channel {
    /// Connects to the first of the endpoint's addresses that answers.
    pub(crate) fn open(endpoint: &Endpoint, deadline: Instant) -> io::Result<Self> {
        let (name, address) = match &endpoint.host {
            Host::Unix(folder) => {
                let path = folder.join(format!(".s.PGSQL.{}", endpoint.port));
                return UnixStream::connect(path).map(Self::Unix);
            }
            Host::Tcp { name, address } => (name, address),
        };
        let addresses: Vec<SocketAddr> = match address {
            Some(address) => vec![(*address, endpoint.port).into()],
            None => (name.as_str(), endpoint.port).to_socket_addrs()?.collect(),
        };
        let mut failure = io::Error::new(io::ErrorKind::NotFound, "the name has no address");
        for (i, address) in (0_u32..).zip(&addresses) {
            // An address that swallows everything leaves time for those after it.
            let share = left(deadline)? / u32::try_from(addresses.len()).unwrap_or(u32::MAX).saturating_sub(i).max(1);
            match TcpStream::connect_timeout(address, share) {
                Ok(stream) => {
                    stream.set_nodelay(true)?;
                    // Finds out about a server that vanished without a word, also while nothing is sent.
                    let keepalive = TcpKeepalive::new()
                        .with_time(Duration::from_secs(30))
                        .with_interval(Duration::from_secs(10))
                        .with_retries(3);
                    SockRef::from(&stream).set_tcp_keepalive(&keepalive)?;
                    return Ok(Self::Tcp(stream));
                }
                Err(error) => failure = error,
            }
        }
        Err(failure)
    }

    /// Tells what lies between the two ends.
    pub(crate) fn distance(&self) -> Distance {
        let stream = match self {
            Self::Tcp(stream) => stream,
            Self::Tls(stream) => &stream.sock,
            Self::Unix(_) => return Distance::None,
        };
        match stream.peer_addr() {
            Ok(address) if address.ip().is_loopback() => Distance::Loopback,
            _ => Distance::Network,
        }
    }

    /// Bounds how much the system receives ahead, in bytes. A Unix socket has only the sender's bound.
    pub(crate) fn set_receive_buffer(&self, bytes: usize) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => SockRef::from(stream).set_recv_buffer_size(bytes),
            Self::Tls(stream) => SockRef::from(&stream.sock).set_recv_buffer_size(bytes),
            Self::Unix(_) => Ok(()),
        }
    }

    fn set_read_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_read_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_read_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_read_timeout(Some(timeout)),
        }
    }

    fn set_write_timeout(&self, timeout: Duration) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_write_timeout(Some(timeout)),
            Self::Tls(stream) => stream.sock.set_write_timeout(Some(timeout)),
            Self::Unix(stream) => stream.set_write_timeout(Some(timeout)),
        }
    }

    fn set_nonblocking(&self, on: bool) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.set_nonblocking(on),
            Self::Tls(stream) => stream.sock.set_nonblocking(on),
            Self::Unix(stream) => stream.set_nonblocking(on),
        }
    }

    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::Tcp(stream) => stream.read(into),
            Self::Tls(stream) => stream.read(into),
            Self::Unix(stream) => stream.read(into),
        }
    }

    fn write_all(&mut self, bytes: &[u8]) -> io::Result<()> {
        match self {
            Self::Tcp(stream) => stream.write_all(bytes),
            Self::Tls(stream) => stream.write_all(bytes).and_then(|()| stream.flush()),
            Self::Unix(stream) => stream.write_all(bytes),
        }
    }
}

/// Returns the moment when a time-out ends; for one beyond what the clock can tell, a day.
pub(crate) fn after(timeout: Duration) -> Instant {
    let now = Instant::now();
    now.checked_add(timeout).unwrap_or_else(|| now + Duration::from_hours(24))
}

/// Returns the time left, or the error that there is none.
pub(crate) fn left(deadline: Instant) -> io::Result<Duration> {
    let left = deadline.saturating_duration_since(Instant::now());
    if left.is_zero() { Err(io::ErrorKind::TimedOut.into()) } else { Ok(left) }
}

/// A channel with its receive buffer. Bytes of a message that is not whole yet stay in the buffer when a wait ends.
#[derive(Debug)]
pub(crate) struct Socket {
    channel: Channel,
    /// All of it is initialised; what was received stands in `start..end`.
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// Bytes received since the beginning.
    received: u64,
    read_timeout: Option<Duration>,
    write_timeout: Option<Duration>,
}

/// A message's place in the buffer.
#[derive(Copy, Clone, Debug)]
pub(crate) struct Whole {
    pub(crate) kind: u8,
    start: usize,
    end: usize,
}

impl Socket {
    pub(crate) fn new(channel: Channel) -> Self {
        Self {
            channel,
            buffer: vec![0; 2 * CHUNK],
            start: 0,
            end: 0,
            received: 0,
            read_timeout: None,
            write_timeout: None,
        }
    }

    pub(crate) fn channel(&self) -> &Channel {
        &self.channel
    }

    /// Returns how many bytes have been received on this channel.
    pub(crate) fn received(&self) -> u64 {
        self.received
    }

    /// Returns how many bytes of the buffer have not been stepped past.
    pub(crate) fn held(&self) -> usize {
        self.end - self.start
    }

    /// Replaces the channel by one that was made of it; nothing may be left in the buffer.
    pub(crate) fn map_channel(self, wrap: impl FnOnce(Channel) -> io::Result<Channel>) -> io::Result<Self> {
        // Bytes that came before TLS could have been put there by anyone (CVE-2021-23222).
        if self.start != self.end {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "unencrypted bytes before the TLS handshake"));
        }
        Ok(Self::new(wrap(self.channel)?))
    }

    /// Sends bytes, all of them or the connection is of no use any more.
    pub(crate) fn send(&mut self, bytes: &[u8], timeout: Duration) -> io::Result<()> {
        if self.write_timeout != Some(timeout) {
            self.channel.set_write_timeout(timeout.max(Duration::from_micros(1)))?;
            self.write_timeout = Some(timeout);
        }
        self.channel.write_all(bytes).map_err(|error| match error.kind() {
            io::ErrorKind::WouldBlock => io::ErrorKind::TimedOut.into(),
            _ => error,
        })
    }

    /// Takes the one byte with which a server answers a request for TLS.
    pub(crate) fn byte(&mut self, deadline: Instant) -> io::Result<u8> {
        while self.start == self.end {
            self.fill(Some(deadline))?;
        }
        self.start += 1;
        Ok(self.buffer[self.start - 1])
    }

    /// Returns the next message of the buffer, if it is there to its end, and steps past it.
    pub(crate) fn buffered(&mut self) -> io::Result<Option<Whole>> {
        let whole = self.peek()?;
        if let Some(whole) = whole {
            self.start = whole.end;
        }
        Ok(whole)
    }

    /// Returns the next message of the buffer, if it is there to its end.
    pub(crate) fn peek(&self) -> io::Result<Option<Whole>> {
        let Some(length) = self.announced()? else { return Ok(None) };
        let end = self.start + 1 + length;
        let whole = Whole { kind: self.buffer[self.start], start: self.start + 5, end };
        Ok((end <= self.end).then_some(whole))
    }

    /// Returns the length that the next message's head announces, the four bytes of the length included.
    fn announced(&self) -> io::Result<Option<usize>> {
        let Some([_, head @ ..]) = self.buffer[self.start..self.end].first_chunk::<5>() else { return Ok(None) };
        let length = u32::from_be_bytes(*head) as usize;
        if (4..=LARGEST).contains(&length) {
            Ok(Some(length))
        } else {
            Err(io::Error::new(io::ErrorKind::InvalidData, format!("a message announces {length} bytes")))
        }
    }

    /// Returns a message's bytes after its head. They stay until the next [`Socket::fill`].
    pub(crate) fn body(&self, whole: Whole) -> &[u8] {
        &self.buffer[whole.start..whole.end]
    }

    /// Waits for the next message.
    pub(crate) fn message(&mut self, deadline: Instant) -> io::Result<Whole> {
        loop {
            if let Some(whole) = self.buffered()? {
                return Ok(whole);
            }
            self.fill(Some(deadline))?;
        }
    }

    /// Waits for a message for at most `timeout`; at zero it only takes what the system has already.
    pub(crate) fn message_within(&mut self, timeout: Duration) -> io::Result<Option<Whole>> {
        if let Some(whole) = self.buffered()? {
            return Ok(Some(whole));
        }
        let deadline = (!timeout.is_zero()).then(|| after(timeout));
        loop {
            match self.fill(deadline) {
                Ok(()) => {}
                Err(error) if error.kind() == io::ErrorKind::TimedOut => return Ok(None),
                Err(error) => return Err(error),
            }
            if let Some(whole) = self.buffered()? {
                return Ok(Some(whole));
            }
        }
    }

    /// Reads once into the buffer, waiting until the deadline; without one, only what is there already.
    fn fill(&mut self, deadline: Option<Instant>) -> io::Result<()> {
        self.make_room()?;
        loop {
            let read = match deadline {
                None => self.read_now(),
                Some(deadline) => self.read_by(deadline),
            };
            match read {
                Ok(0) => return Err(io::ErrorKind::UnexpectedEof.into()),
                Ok(count) => {
                    self.end += count;
                    self.received += count as u64;
                    return Ok(());
                }
                Err(error) => match (error.kind(), deadline) {
                    (io::ErrorKind::Interrupted, _) => {}
                    (io::ErrorKind::WouldBlock, None) => return Err(io::ErrorKind::TimedOut.into()),
                    (io::ErrorKind::WouldBlock, Some(deadline)) => drop(left(deadline)?),
                    _ => return Err(error),
                },
            }
        }
    }

    fn read_by(&mut self, deadline: Instant) -> io::Result<usize> {
        // Rounded up to whole milliseconds: a wait that is asked for again and again is then set once.
        let left = left(deadline)?.min(SLICE);
        // At least one: less than a microsecond may be left, and a socket has no wait of nothing.
        let millis = u64::try_from(left.as_micros().div_ceil(1000)).unwrap_or(u64::MAX).max(1);
        let timeout = Duration::from_millis(millis);
        if self.read_timeout != Some(timeout) {
            self.channel.set_read_timeout(timeout)?;
            self.read_timeout = Some(timeout);
        }
        self.channel.read(&mut self.buffer[self.end..])
    }

    fn read_now(&mut self) -> io::Result<usize> {
        self.channel.set_nonblocking(true)?;
        let read = self.channel.read(&mut self.buffer[self.end..]);
        self.channel.set_nonblocking(false)?;
        read
    }

    /// Makes the buffer ready for a read. What it holds is at most one message that is not whole yet.
    fn make_room(&mut self) -> io::Result<()> {
        let (held, announced) = (self.end - self.start, self.announced()?);
        if self.start > 0 {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, held);
        }
        let wanted = match announced {
            // It grows with what really comes, so that a false length costs no memory.
            Some(length) if length >= CHUNK => (length + 1).min(held.saturating_mul(2)).max(held + CHUNK),
            _ => 2 * CHUNK,
        };
        if wanted > self.buffer.len() {
            self.buffer.resize(wanted, 0);
        } else if self.buffer.len() > KEEP && wanted == 2 * CHUNK {
            self.buffer.truncate(wanted);
            self.buffer.shrink_to_fit();
        }
        Ok(())
    }
}
