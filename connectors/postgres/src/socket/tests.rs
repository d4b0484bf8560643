//! The receive buffer, against a peer that sends in pieces.

use std::thread;

use super::*;

const DEADLINE: Duration = Duration::from_secs(10);

fn pair() -> (Socket, UnixStream) {
    let (near, far) = UnixStream::pair().unwrap();
    (Socket::new(Channel::Unix(near)), far)
}

fn message(kind: u8, body: &[u8]) -> Vec<u8> {
    let mut bytes = vec![kind];
    bytes.extend(u32::try_from(body.len() + 4).unwrap().to_be_bytes());
    bytes.extend(body);
    bytes
}

#[test]
fn a_wait_that_ends_early_loses_no_bytes() {
    let (mut socket, mut far) = pair();
    let bytes = message(b'd', b"hello");
    for byte in &bytes[..bytes.len() - 1] {
        far.write_all(&[*byte]).unwrap();
        assert!(socket.message_within(Duration::ZERO).unwrap().is_none());
    }
    assert!(socket.message_within(Duration::from_millis(1)).unwrap().is_none());
    far.write_all(b"o").unwrap();
    let whole = socket.message_within(DEADLINE).unwrap().unwrap();
    assert_eq!((whole.kind, socket.body(whole)), (b'd', &b"hello"[..]));
}

#[test]
fn a_batch_ends_where_the_buffer_does() {
    let (mut socket, mut far) = pair();
    far.write_all(&[message(b'a', b"1"), message(b'b', b""), vec![b'c', 0, 0]].concat()).unwrap();
    let first = socket.message_within(DEADLINE).unwrap().unwrap();
    assert_eq!((first.kind, socket.body(first)), (b'a', &b"1"[..]));
    assert!(socket.peek().unwrap().is_some());
    assert_eq!(socket.buffered().unwrap().unwrap().kind, b'b');
    assert!(socket.peek().unwrap().is_none());
}

#[test]
fn a_huge_message_comes_whole_and_its_memory_goes_back() {
    let (mut socket, mut far) = pair();
    let body: Vec<u8> = (0..5_000_000_u32).map(|n| n.to_le_bytes()[0]).collect();
    let sent = [message(b'd', &body), message(b'd', b"small"), message(b'd', b"last")];
    let writer = thread::spawn(move || sent.iter().for_each(|bytes| far.write_all(bytes).unwrap()));
    let deadline = Instant::now() + DEADLINE;
    let whole = socket.message(deadline).unwrap();
    assert!(socket.body(whole) == body, "the body is not what was sent");
    for expected in [&b"small"[..], b"last"] {
        let whole = socket.message(deadline).unwrap();
        assert_eq!(socket.body(whole), expected);
    }
    writer.join().unwrap();
    assert!(socket.message_within(Duration::ZERO).is_err(), "the peer is gone");
    assert!(socket.buffer.capacity() <= 2 * CHUNK, "{} bytes are kept", socket.buffer.capacity());
}

#[test]
fn an_announced_length_costs_no_memory_before_it_comes() {
    let (mut socket, mut far) = pair();
    far.write_all(&[b'd', 0x3F, 0xFF, 0xFF, 0xFF, 1, 2, 3]).unwrap();
    assert!(socket.message_within(Duration::from_millis(1)).unwrap().is_none());
    assert!(socket.buffer.len() <= 2 * CHUNK, "{} bytes were taken", socket.buffer.len());
}

#[test]
fn a_length_that_no_message_has_is_refused() {
    for length in [[0, 0, 0, 3], [0x40, 0, 0, 1], [0xFF; 4]] {
        let (mut socket, mut far) = pair();
        far.write_all(&[&b"d"[..], &length].concat()).unwrap();
        let error = socket.message_within(DEADLINE).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidData, "{length:?}");
    }
}

#[test]
fn a_silent_peer_is_given_up_at_the_deadline() {
    let (mut socket, _far) = pair();
    let start = Instant::now();
    let error = socket.message(start + Duration::from_millis(30)).unwrap_err();
    assert_eq!(error.kind(), io::ErrorKind::TimedOut);
    assert!(start.elapsed() >= Duration::from_millis(30));
}
